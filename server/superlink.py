"""The SuperLink, embedded: one Flower application behind two doors.

Flower 1.41 serves its Fleet, Control and Runtime APIs on one port, and the open-source Control and Runtime APIs ask
for no credentials: who reaches them can register nodes and start runs. So the same application is served twice from
one process: in full on loopback, and outside with TLS 1.3 and nothing but ``/v1/fleet/`` (``server/fleet_gate.py``
says to whom, ``server/doors.py`` for how long).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, Status
from flwr.supercore.constant import NodeStatus
from flwr.superlink.main import create_app
from starlette.types import ASGIApp

from common.errors import ProcessError
from common.logs import ChildLines
from common.processes import ChildProcess, Supervisor, flower_environment
from security.https_tls import server_context
from server.doors import Door, FleetDoor, Newcomers
from server.fleet_gate import FleetGate
from server.ports import bound
from server.supernodes import flower_key, spent

log = logging.getLogger("bottega.superlink")

_SHUTDOWN_S = 3


@dataclass(frozen=True)
class SuperLinkSettings:
    """Where the SuperLink lives and listens. A port of 0 lets the system choose.

    Attributes:
        home: Flower's own folder: state, objects (ciphertext), logs.
        certificate: The server's TLS certificate, PEM.
        key: Its private key.
        supernodes: SuperNode public keys (OpenSSH lines) by site name: who may connect.
    """

    home: Path
    fleet_host: str
    fleet_port: int
    control_port: int
    certificate: bytes
    key: ec.EllipticCurvePrivateKey
    supernodes: Mapping[str, bytes]


@dataclass(frozen=True)
class Ports:
    """The ports that are open."""

    fleet: int
    control: int


@dataclass(frozen=True)
class Hooks:
    """What is called while the SuperLink serves, always in its thread.

    Attributes:
        ready: Once, when both doors are open.
        watch: About three times a second from then on; what it raises ends the SuperLink.
        stopping: Once, when SIGTERM or SIGINT has come.
        seen: Given the application behind the door for outside, returns the one to put there.
    """

    ready: Callable[[Ports], None]
    watch: Callable[[], None] = lambda: None
    stopping: Callable[[], None] = lambda: None
    seen: Callable[[ASGIApp], ASGIApp] = lambda app: app


def run_superlink(settings: SuperLinkSettings, hooks: Hooks) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: Where.
        hooks: What is called meanwhile.

    Raises:
        ProcessError: A port is taken, the certificate cannot be used, or the SuperExec died.
        IdentityError: A SuperNode's key cannot be read, or was let go before.
    """
    with (
        bound(settings.fleet_host, settings.fleet_port) as outside,
        bound("127.0.0.1", settings.control_port) as inside,
    ):
        os.environ.update(flower_environment(settings.home), FLWR_DATABASE=str(settings.home / "superlink.db"))
        app = create_app()
        # Without it a SuperNode registers itself on the Fleet API, with any key.
        app.state.enable_supernode_auth = True
        _end_earlier_runs(app)
        _register(app, settings.supernodes)
        asyncio.run(_serve(settings, app, outside, inside, hooks))


def _register(app: FastAPI, supernodes: Mapping[str, bytes]) -> None:
    """Let these SuperNodes connect; the others that an earlier start knew are let go, for good.

    Flower's state outlives a restart, so a site that was revoked would otherwise still connect.
    """
    state = app.state.linkstate_factory.state()
    keys = {flower_key(line): name for name, line in supernodes.items()}
    for node in state.get_node_info(owner_aids=[NOOP_FLWR_AID]):
        # Flower keeps the row of a node that was let go, as "unregistered"; letting it go again is an error.
        if node.public_key not in keys and node.status != NodeStatus.UNREGISTERED:
            state.delete_node(NOOP_FLWR_AID, node.node_id)
    for key, name in keys.items():
        if state.get_node_id_by_public_key(key) is None:
            try:
                state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, HEARTBEAT_DEFAULT_INTERVAL, name=name)
            except ValueError:
                raise spent(name) from None


def _end_earlier_runs(app: FastAPI) -> None:
    """End what an earlier start left running: no ServerApp outlives its SuperLink, and Flower resumes nothing."""
    state = app.state.linkstate_factory.state()
    for run in state.get_run_info(statuses=[Status.PENDING, Status.STARTING, Status.RUNNING]):
        state.stop_run(run.run_id)


async def _serve(
    settings: SuperLinkSettings, app: FastAPI, outside: socket.socket, inside: socket.socket, hooks: Hooks
) -> None:
    common: dict[str, Any] = {"log_config": None, "access_log": False, "timeout_graceful_shutdown": _SHUTDOWN_S}
    newcomers = Newcomers()
    control = Door(uvicorn.Config(app, **common))
    fleet = FleetDoor(_tls_config(settings, hooks.seen(FleetGate(app, newcomers.leave)), common), newcomers)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    doors = [asyncio.create_task(control.serve([inside])), asyncio.create_task(fleet.serve([outside]))]
    try:
        while not (control.started and fleet.started):
            _raise_if_closed(doors)
            await asyncio.sleep(0.02)
        ports = Ports(outside.getsockname()[1], inside.getsockname()[1])
        with Supervisor([_superexec(settings.home, ports.control)]) as supervisor:
            hooks.ready(ports)
            while not stop.is_set():
                supervisor.check()
                _raise_if_closed(doors)
                hooks.watch()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), 0.3)
            hooks.stopping()
    finally:
        control.should_exit = fleet.should_exit = True
        await asyncio.gather(*doors, return_exceptions=True)


def _tls_config(settings: SuperLinkSettings, app: ASGIApp, common: Mapping[str, Any]) -> uvicorn.Config:
    try:
        context = server_context(settings.key, settings.certificate)
    except (OSError, ssl.SSLError) as cause:
        raise ProcessError("the server's certificate and key cannot be used", got=type(cause).__name__) from cause
    # No WebSockets, and nothing is believed that a header says of the caller's address.
    return uvicorn.Config(
        app, ssl_context_factory=lambda *_: context,
        lifespan="off", ws="none", proxy_headers=False, server_header=False, **common,
    )  # fmt: skip


def _superexec(home: Path, control_port: int) -> ChildProcess:
    """Return the process that starts a ServerApp for each run."""
    command = [
        sys.executable, "-P", "-m", "server.superexec_process",
        "--insecure", "--runtime-api-address", f"127.0.0.1:{control_port}", "--parent-pid", str(os.getpid()),
    ]  # fmt: skip
    return ChildProcess("the SuperExec", command, ChildLines("superexec"), flower_environment(home))


def _raise_if_closed(doors: list[asyncio.Task[None]]) -> None:
    for door in doors:
        if door.done():
            raise ProcessError("a door of the SuperLink closed", got=repr(door.exception())) from door.exception()
