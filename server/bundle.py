"""Runs carry no code. What is submitted to Flower names the ServerApp and ClientApp that are installed, and no more.

So a site executes what it installed and audited. Flower itself would run whatever ClientApp a bundle brings; a site
keeps the promise on its own, whatever a server sends: its ``flower-superexec`` is ``client/superexec_process.py``.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli_w
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest, StopRunRequest
from flwr.supercore.fab import Fab

from common.errors import ProcessError
from server.control import control

SERVER_APP = "server.app:app"
CLIENT_APP = "client.app:app"
_README = "# A run of bottega\n\nThis bundle holds no code: both apps are the ones installed on each machine.\n"


def build_bundle(config: Mapping[str, str], server_app: str = SERVER_APP) -> bytes:
    """Return the bundle (FAB) of a run.

    Args:
        config: What the ServerApp is told.
        server_app: Where Flower finds the ServerApp, among installed code.
    """
    project = {
        "project": {
            "name": "bottega-run",
            "version": "1.0.0",
            "description": "",
            "license": "Apache-2.0",
            "dependencies": [],
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "bottega",
                    "fab-include": ["README.md"],
                    "components": {"serverapp": server_app, "clientapp": CLIENT_APP},
                    "config": dict(config),
                }
            }
        },
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pyproject.toml").write_text(tomli_w.dumps(project), encoding="utf-8")
        (folder / "README.md").write_text(_README, encoding="utf-8")
        return bytes(build_fab_from_disk(folder))


def submit_run(control_address: str, config: Mapping[str, str], server_app: str = SERVER_APP) -> int:
    """Submit a run to a SuperLink and return Flower's own number for it.

    Args:
        control_address: Host and port of the Control API, on loopback.
        config: What the ServerApp is told.
        server_app: Where Flower finds the ServerApp.

    Raises:
        ProcessError: The SuperLink cannot be reached or refuses.
    """
    bundle = build_bundle(config, server_app)
    request = StartRunRequest(
        fab=fab_to_proto(Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})),
        override_config=user_config_to_proto(dict(config)),
    )
    with control(control_address, "the SuperLink did not take the run") as client:
        answer = client.StartRun(request)
    if not answer.HasField("run_id"):
        raise ProcessError("Flower did not start the run", advice="Look at the server's log.")
    return int(answer.run_id)


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands, in Flower's words.

    Attributes:
        status: ``pending``, ``starting``, ``running`` or ``finished``.
        outcome: Once it is finished: ``completed``, ``failed`` or ``stopped``; else empty.
    """

    status: str
    outcome: str


def run_status(control_address: str, number: int) -> RunStatus:
    """Return where a run stands.

    When it is asked this of a finished run, the SuperLink also throws away what is left of the run's messages.

    Args:
        control_address: Host and port of the Control API, on loopback.
        number: Flower's own number for the run.

    Raises:
        ProcessError: The SuperLink cannot be reached, or knows no such run.
    """
    with control(control_address, "the SuperLink did not say where the run stands") as client:
        run = client.ListRuns(ListRunsRequest(run_id=number)).run_dict[number]
    return RunStatus(run.status.status, run.status.sub_status)


def stop_run(control_address: str, number: int) -> None:
    """End a run: its ServerApp is told to stop, and what is left of its messages is thrown away.

    Args:
        control_address: Host and port of the Control API, on loopback.
        number: Flower's own number for the run.

    Raises:
        ProcessError: The SuperLink cannot be reached, knows no such run, or the run has finished.
    """
    what = "the SuperLink did not stop the run"
    with control(control_address, what) as client:
        answer = client.StopRun(StopRunRequest(run_id=number))
    if not answer.success:
        raise ProcessError(what, advice="Look at the server's log.")
