"""From nothing to a running federation of two strangers, by the commands that people would type."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.paths import ServerHome, SiteHome
from common.processes import ChildProcess, Supervisor
from deploy.studios import make_studios
from security.identity import Peer
from security.names import Role, SpiffeId
from security.succession import load_roster
from server.ports import read_ports

BOTTEGA = [sys.executable, "-P", "-m", "deploy.cli"]


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.run(
        [*BOTTEGA, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def done(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    result = run(*words, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result


@dataclass
class Town:
    """A folder with a running server, two members and a supervisor for what else is started."""

    root: Path
    supervisor: Supervisor
    home: ServerHome
    tokens: dict[str, str]
    words: dict[str, str]


def start(town_root: Path, supervisor: Supervisor, name: str, *words: str) -> None:
    supervisor.start(ChildProcess(name, [*BOTTEGA, *words], town_root / f"{name}.log", {"OMP_NUM_THREADS": "1"}))


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    root = tmp_path_factory.mktemp("town")
    studios = make_studios(root / "drawings", 2, seed=0, each=90)
    made = done("server", "init", "--home", "server", "--name", "town.bottega", cwd=root)
    assert "Next: bottega server start" in made.stderr
    home = ServerHome(root / "server")
    text = home.settings.read_text().replace("0.0.0.0", "127.0.0.1")  # noqa: S104 (what `init` wrote)
    home.settings.write_text(re.sub(r"_port = \d+", "_port = 0", text))
    with Supervisor() as supervisor:
        start(root, supervisor, "serving", "server", "start", "--home", str(home.root))
        supervisor.wait("the server", home.ports.exists, 60)
        tokens, words = {}, {}
        for studio, extra in zip(studios, ([], ["--auto-approve"]), strict=True):
            invited = done("server", "invite", studio.name, "--json", *extra, cwd=root)
            tokens[studio.name] = json.loads(invited.stdout)["token"]
        for studio in studios:
            join = subprocess.Popen(
                [*BOTTEGA, "site", "join", tokens[studio.name], "--data", str(studio.folder), "--home", studio.name],
                cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            if studio is studios[0]:
                words[studio.name] = approved_once_it_waits(root, studio.name)
            out, err = join.communicate(timeout=120)
            assert join.returncode == 0, err
            assert "belongs to town.bottega" in out
            if studio is studios[0]:
                assert words[studio.name] in err, "operator and site do not see the same words"
        yield Town(root, supervisor, home, tokens, words)


def approved_once_it_waits(root: Path, name: str) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        listed = json.loads(done("server", "sites", "--json", cwd=root).stdout)
        waiting = [row for row in listed if (row["name"], row["status"]) == (name, "waiting")]
        if waiting:
            done("server", "approve", name, cwd=root)
            return str(waiting[0]["words"])
        time.sleep(0.3)
    raise AssertionError("nobody ever waited")


def approved_by_the_studio_once_it_is_asked(root: Path, site: str, run: str) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        asked = json.loads(done("site", "runs", "--json", "--home", site, cwd=root).stdout)
        if (run, "waiting") in {(row["run"], row["status"]) for row in asked}:
            done("site", "approve-run", run, "--home", site, cwd=root)
            return
        time.sleep(0.3)
    raise AssertionError("the studio was never asked")


def test_init_again_changes_nothing(town: Town) -> None:
    before = {p: p.read_bytes() for p in town.home.keys.iterdir()}
    again = done("server", "init", "--home", "server", "--name", "another.name", cwd=town.root)
    assert "federation town.bottega lives in" in again.stdout
    assert {p: p.read_bytes() for p in town.home.keys.iterdir()} == before


def test_join_again_says_the_same(town: Town) -> None:
    name = next(iter(town.tokens))
    again = done("site", "join", town.tokens[name], "--data", "drawings", "--home", name, cwd=town.root)
    assert f"{name} belongs to town.bottega" in again.stdout


def test_a_token_that_was_used_lets_nobody_else_in(town: Town) -> None:
    name, token = next(iter(town.tokens.items()))
    thief = run("site", "join", token, "--data", "drawings", "--home", "thief", cwd=town.root)
    assert thief.returncode != 0
    assert "the invitation was used before, by other keys" in thief.stderr
    assert "Traceback" not in thief.stderr
    assert not (town.root / "thief" / "site.toml").exists()
    assert name in {row["name"] for row in json.loads(done("server", "sites", "--json", cwd=town.root).stdout)}


@pytest.mark.parametrize("damage", [lambda t: t[:-3], lambda t: t.replace("a", "b", 2), lambda _: "hello"])
def test_a_damaged_token_is_told_before_any_network_is_touched(town: Town, damage: object) -> None:
    assert callable(damage)
    token = damage(next(iter(town.tokens.values())))
    result = run("site", "join", token, "--data", "drawings", "--home", "nobody", cwd=town.root)
    assert result.returncode != 0
    assert "mistyped or truncated" in result.stderr or "this is no invitation" in result.stderr
    assert not (town.root / "nobody").exists()


def test_two_strangers_train_together_by_the_order_of_a_third_and_a_revoked_one_is_out_at_once(town: Town) -> None:
    asks = next(iter(town.tokens))
    with SiteHome(town.root / asks).settings.open("a") as settings:
        settings.write("\n[rules]\nask = true\n")
    for name in town.tokens:
        start(town.root, town.supervisor, name, "site", "start", "--home", str(town.root / name))
    token = json.loads(
        done("server", "invite", "anna", "--role", "operator", "--auto-approve", "--json", cwd=town.root).stdout
    )
    joined = done("member", "join", token["token"], "--home", "anna", cwd=town.root)
    assert "anna belongs to town.bottega as operator" in joined.stdout
    for name in town.tokens:
        town.supervisor.wait(f"site {name}", SiteHome(town.root / name).socket.exists, 120)
    (town.root / "run.toml").write_text("rounds = 1\n[privacy]\nepsilon = 4.0\nsteps = 1\nmultiplicity = 1\n")
    plan = json.loads(done("run", "start", "run.toml", "--plan", "--json", "--home", "anna", cwd=town.root).stdout)
    assert (plan["operator"], plan["sites"], plan["rounds"]) == ("anna", sorted(town.tokens), 1)
    assert json.loads(done("run", "list", "--json", cwd=town.root).stdout) == []
    # By an operator whom the sites' rosters do not name yet: they fetch the newest when they are asked.
    started = json.loads(done("run", "start", "run.toml", "--json", "--home", "anna", cwd=town.root).stdout)["run"]
    approved_by_the_studio_once_it_is_asked(town.root, asks, started)
    *rounds, end = map(
        json.loads, done("run", "watch", started, "--json", "--home", "anna", cwd=town.root).stdout.splitlines()
    )
    assert (end["status"], end["operator"]) == ("finished", "anna"), end
    assert [(r["work"], r["outcome"]) for r in rounds] == [("train", "aggregated"), ("evaluate", "measured")]
    for verdict in rounds[0]["verdicts"]:
        assert 3.5 < verdict["metrics"]["epsilon"] <= 4
        assert "held_out_loss" not in verdict["metrics"]
    leaver, stayer = town.tokens
    [account] = json.loads(done("site", "budget", "--json", "--home", stayer, cwd=town.root).stdout)["accounts"]
    assert [(r["run"], r["rounds"]) for r in account["runs"]] == [(started, 1)]
    assert 3.5 < account["spent"] < 4.2
    assert account["left"] == pytest.approx(10 - account["spent"])
    status = json.loads(done("site", "status", "--json", "--home", stayer, cwd=town.root).stdout)
    assert status["trouble"] is None
    assert status["last_contact"]
    done("server", "revoke", leaver, "--reason", "left", "--home", "anna", cwd=town.root)
    server = Peer.pinned(SiteHome(town.root / leaver).pinned_server)
    assert SpiffeId("town.bottega", Role.SITE, leaver) not in load_roster(town.home.roster, server)
    assert read_ports(town.home)["fleet"]
    listed = {row["name"]: row["status"] for row in json.loads(done("server", "sites", "--json", cwd=town.root).stdout)}
    assert listed[leaver] == "revoked"
