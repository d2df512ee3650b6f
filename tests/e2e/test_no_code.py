"""A run cannot bring code to a site: a bundle with a ClientApp of its own has the installed courier run instead."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
import tomli_w
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.fab import Fab

from common.processes import Supervisor
from common.settings import RunSettings
from deploy.federation import Premises, prepare, start_server, start_sites, wait_for_sites
from deploy.studios import make_studios
from server.control import control
from server.ports import read_ports

HOSTILE_CLIENT = """
from pathlib import Path
Path({marker!r}).write_text("the bundle's code ran")
from flwr.clientapp import ClientApp
app = ClientApp()
"""

HOSTILE_SERVER = """
import time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.2)
    content = RecordDict({{"letter": ConfigRecord({{"letter": b"junk"}})}})
    for reply in grid.send_and_receive([Message(content, node, "train") for node in nodes], timeout=60):
        with open({answers!r}, "a") as file:
            file.write(str(reply.has_error() and reply.error.reason) + "\\n")
"""


@pytest.fixture
def premises(tmp_path: Path) -> Premises:
    return prepare(tmp_path / "d")


def hostile_bundle(folder: Path, marker: Path, answers: Path) -> bytes:
    (folder / "client").mkdir(parents=True)
    (folder / "client" / "__init__.py").write_text("")
    (folder / "client" / "app.py").write_text(HOSTILE_CLIENT.format(marker=str(marker)))
    (folder / "hostile.py").write_text(HOSTILE_SERVER.format(answers=str(answers)))
    app = {"publisher": "mallory", "components": {"serverapp": "hostile:app", "clientapp": "client.app:app"}}
    project = {"name": "hostile", "version": "1.0.0", "description": "", "license": "Apache-2.0", "dependencies": []}
    (folder / "pyproject.toml").write_text(tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}}))
    return bytes(build_fab_from_disk(folder))


def test_a_bundle_with_a_client_app_of_its_own_is_not_executed_at_a_site(premises: Premises, tmp_path: Path) -> None:
    marker, answers = tmp_path / "marker", tmp_path / "answers"
    bundle = hostile_bundle(tmp_path / "bundle", marker, answers)
    assert b"client/app.py" in bundle, "this bundle would not be a hostile one"
    studios = make_studios(premises.drawings, 1, 0, each=90)
    with Supervisor() as supervisor:
        start_server(premises, supervisor, studios, RunSettings())
        start_sites(premises, supervisor, studios)
        wait_for_sites(premises, supervisor, studios)
        address = f"127.0.0.1:{read_ports(premises.server)['control']}"
        with control(address, "start a run") as client:
            client.StartRun(StartRunRequest(fab=fab_to_proto(Fab(hashlib.sha256(bundle).hexdigest(), bundle, {}))))
        patience = time.monotonic() + 90
        while not answers.exists() or not answers.read_text():
            supervisor.check()
            assert time.monotonic() < patience, "the site never answered"
            time.sleep(0.2)
    assert "carries no envelope" in answers.read_text(), "it was not the installed courier that answered"
    assert not marker.exists()
