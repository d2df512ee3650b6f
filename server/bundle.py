"""Runs carry no code. What is submitted to Flower names the ServerApp and ClientApp that are installed, and no more.

A site executes what it installed and audited, never what came through the network.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

import httpx
import tomli_w
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab

from common.errors import BottegaError, ProcessError

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
    client = ControlHttpClient(f"http://{control_address}")
    try:
        answer = client.StartRun(request)
    except (httpx.HTTPError, ValueError) as cause:
        raise refused(cause) from None
    finally:
        client.close()
    if not answer.HasField("run_id"):
        raise ProcessError("Flower did not start the run", advice="Look at the server's log.")
    return int(answer.run_id)


def refused(cause: Exception) -> BottegaError:
    """Return the error of a SuperLink that does not do as asked."""
    return ProcessError(
        "the SuperLink did not take the run",
        got=str(cause).splitlines()[0][:200] if str(cause) else type(cause).__name__,
    )
