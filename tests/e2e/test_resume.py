"""A run outlives its server: killed without warning and started again, it goes on after the last closed round."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator

import pytest

from common.errors import RunError
from common.processes import ChildProcess, Supervisor
from common.settings import RunSettings, parse
from deploy.federation import Premises, prepare, start_server, start_sites, wait_for_sites
from deploy.studios import make_studios
from server.planning import start_run
from server.ports import read_ports
from server.run_desk import RunDesk
from server.store import Store

SLOW = {"rounds": 4, "training": {"steps": 4, "held_out_draws": 1}, "gather_s": 60, "privacy": False}
PLAIN = RunSettings(privacy=False)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Premises, Supervisor]]:
    premises = prepare(tmp_path_factory.mktemp("resume") / "town")
    studios = make_studios(premises.drawings, 2, seed=0, each=90)
    with Supervisor() as sites, Supervisor() as server:
        start_server(premises, server, studios, PLAIN)
        start_sites(premises, sites, studios)
        wait_for_sites(premises, sites, studios)
        yield premises, server


def wait_for_round(premises: Premises, watched: Supervisor, run: str, number: int) -> None:
    with Store(premises.server.database) as store:
        watched.wait(f"round {number}", lambda: store.last_closed(run) >= number, 120)


def wait_for_the_end(premises: Premises, watched: Supervisor, run: str) -> str:
    with Store(premises.server.database) as store:
        watched.wait("the run", lambda: store.run(run).status != "running", 180)
        assert [row.outcome for row in store.rounds(run)] == ["aggregated"] * 4 + ["measured"]
        return store.run(run).status


def test_a_run_that_is_running_is_not_started_twice_and_a_stopped_one_goes_on(
    town: tuple[Premises, Supervisor],
) -> None:
    premises, server = town
    run, desk = start_run(premises.server, parse(RunSettings, SLOW, "the run")), RunDesk(premises.server)
    wait_for_round(premises, server, run, 1)
    with pytest.raises(RunError, match="the run is running"):
        desk.resume(run)
    assert desk.stop(run).status == "stopped"
    with pytest.raises(RunError, match="the run does not run"):
        desk.stop(run)
    assert desk.resume(run).status == "running"
    assert wait_for_the_end(premises, server, run) == "finished"
    with pytest.raises(RunError, match="the run has finished"):
        desk.resume(run)


def test_a_server_that_is_killed_and_started_again_goes_on_after_the_last_closed_round(
    town: tuple[Premises, Supervisor],
) -> None:
    premises, _ = town
    home, run = premises.server, start_run(premises.server, parse(RunSettings, SLOW, "the run"))
    ports = read_ports(home)
    with Store(home.database) as store:
        until = Supervisor()
        until.wait("round 1", lambda: store.last_closed(run) >= 1, 120)
        before = store.rounds(run)[0].adapter_digest
    os.kill(ports["pid"], signal.SIGKILL)
    # The sites look for it at the port that they know.
    settings = re.sub(r"fleet_port = \d+", f"fleet_port = {ports['fleet']}", home.settings.read_text("utf-8"))
    home.settings.write_text(settings, "utf-8")
    command = [sys.executable, "-P", "-m", "deploy.cli", "server", "start", "--home", str(home.root)]
    with Supervisor([ChildProcess("the server", command, home.root / "again.log")]) as again:
        again.wait("the server", lambda: is_up(premises, ports["pid"]), 60)
        RunDesk(home).resume(run)
        assert wait_for_the_end(premises, again, run) == "finished"
    with Store(home.database) as store:
        assert store.rounds(run)[0].adapter_digest == before, "a closed round is not done again"


def is_up(premises: Premises, before: int) -> bool:
    try:
        return read_ports(premises.server)["pid"] != before
    except Exception:  # noqa: BLE001 (not yet)
        return False
