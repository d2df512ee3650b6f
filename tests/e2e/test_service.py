"""Server and site as a service manager has them: ready, watched, one log, ended in order; and their doctors."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest

from client.agent_socket import is_alive
from common.paths import ServerHome, SiteHome
from deploy.studios import make_studios
from server.founding import found
from server.ports import read_ports
from server.settings import ServerSettings

BOTTEGA = [sys.executable, "-P", "-m", "deploy.cli"]
PATIENCE_S = 60


def a_home(root: Path, **ports: int) -> ServerHome:
    home = ServerHome(root)
    told = {"fleet_port": 0, "registry_port": 0, "door_port": 0, "control_port": 0, "metrics_port": 0, **ports}
    settings = ServerSettings.model_validate({"federation": "service.test", "host": "127.0.0.1", **told})
    found(home, settings, ["127.0.0.1"])
    return home


@dataclass
class Service:
    """A process that was started as a service manager would."""

    process: subprocess.Popen[str]
    notified: socket.socket

    def heard(self, word: str) -> None:
        """Wait until the service manager hears a word."""
        while word not in self.notified.recv(4096).decode().split("\n"):
            pass

    def ended(self) -> tuple[int, list[dict[str, str]]]:
        """Wait for the end; return the exit code and the log, of which every line must be JSON."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        assert out == ""
        return self.process.returncode, [json.loads(line) for line in err.splitlines()]


Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start ``bottega WORDS… start --json`` under a service manager."""
    started: list[Service] = []

    def start(*words: str) -> Service:
        notified, name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), str(tmp_path / f"notify{len(started)}")
        notified.bind(name)
        notified.settimeout(PATIENCE_S)
        told = {"OMP_NUM_THREADS": "1", "WATCHDOG_USEC": "900000", "NOTIFY_SOCKET": name}
        environment = {key: value for key, value in os.environ.items() if key != "WATCHDOG_PID"} | told
        process = subprocess.Popen(
            [*BOTTEGA, *words, "--json"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(Service(process, notified))
        return started[-1]

    yield start
    for service in reversed(started):
        service.notified.close()
        if service.process.poll() is None:
            service.process.terminate()
            service.process.communicate(timeout=PATIENCE_S)


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return a_home(tmp_path / "server")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BOTTEGA, *words], capture_output=True, text=True, timeout=120, check=False)


def test_a_server_is_ready_when_its_ports_are_open_is_watched_and_stops_in_order(
    start: Start, home: ServerHome
) -> None:
    service = start("server", "start", "--home", str(home.root))
    service.heard("READY=1")
    ports = read_ports(home)
    for name in ("fleet", "registry", "control", "metrics"):
        socket.create_connection(("127.0.0.1", ports[name]), 5).close()
    service.heard("WATCHDOG=1")
    service.heard("WATCHDOG=1")

    status = command("server", "status", "--json", "--home", str(home.root))
    facts = json.loads(status.stdout)
    assert (status.returncode, facts["up"], facts["online"], facts["waiting"]) == (0, True, [], [])
    assert facts["ports"] == {k: v for k, v in ports.items() if k not in ("pid", "since")}
    grades = sound(command("server", "doctor", "--json", "--home", str(home.root)))
    assert {"fleet outside", "registry outside", f"port {ports['metrics']}"} <= grades

    with urlopen(f"http://127.0.0.1:{ports['metrics']}/metrics", timeout=30) as answer:
        told = answer.read().decode()
    assert 'bottega_readable{part="superlink"} 1.0' in told
    assert "bottega_sites_online 0.0" in told

    service.process.send_signal(signal.SIGTERM)
    service.heard("STOPPING=1")
    code, log = service.ended()
    assert code == 0
    assert {"superexec", "bottega.server"} <= {line["logger"] for line in log}
    assert not any(line["level"] in ("error", "critical") for line in log), log
    assert not home.ports.exists()
    assert command("server", "status", "--home", str(home.root)).returncode == 1


def test_a_site_is_ready_when_its_agent_answers_is_found_sound_and_stops_in_order(
    start: Start, home: ServerHome, tmp_path: Path
) -> None:
    start("server", "start", "--home", str(home.root)).heard("READY=1")
    site = joined(home, tmp_path)

    service = start("site", "start", "--home", str(site))
    service.heard("READY=1")
    assert is_alive(SiteHome(site).socket)
    service.heard("WATCHDOG=1")
    assert {"clock", "membership", "agent", "drawings", "base"} <= sound(
        command("site", "doctor", "--json", "--home", str(site)),
        doubtful={"confinement", "clock"},  # a busy server tells the time late
    )
    is_online(home)
    service.process.send_signal(signal.SIGTERM)
    service.heard("STOPPING=1")
    code, log = service.ended()
    assert code == 0
    assert {"supernode", "bottega.site"} <= {line["logger"] for line in log}
    assert "drawings" in " ".join(line["message"] for line in log if line["logger"] == "bottega.site")


def test_agent_and_supernode_run_apart_and_each_is_started_again_while_the_other_runs_on(
    start: Start, home: ServerHome, tmp_path: Path
) -> None:
    start("server", "start", "--home", str(home.root)).heard("READY=1")
    site, apart = joined(home, tmp_path), tmp_path / "apart"
    (site / "share").mkdir()
    (site / "share").chmod(0o750)  # as for another user's group
    apart.mkdir(mode=0o700)
    (apart / "share").symlink_to(site / "share")  # a mount, where they are two users
    supernode = start("site", "start", "--part", "supernode", "--home", str(apart))
    agent = start("site", "start", "--part", "agent", "--home", str(site))
    agent.heard("READY=1")
    is_online(home)
    assert [child.name for child in sorted((site / "share").iterdir())] == [
        "agent.sock", "ca.crt", "supernode", "supernode.toml",
    ]  # fmt: skip
    assert {stat.S_IMODE(file.stat().st_mode) for file in (site / "share").iterdir()} == {0o640, 0o660}
    assert sorted(file.name for file in apart.iterdir()) == ["confinement.json", "flower", "share", "supernode.lock"]

    agent_facts, supernode_facts = status(site), status(apart)
    assert (agent_facts["up"], agent_facts["site"], agent_facts["trouble"]) == (True, "rossi", None)
    assert (supernode_facts["up"], supernode_facts["agent_answers"]) == (True, True)
    assert "unknown" not in supernode_facts["confinement"]
    second = start("site", "start", "--part", "agent", "--home", str(site))
    assert "another agent already serves this home" in second.ended()[1][-1]["message"]

    (flowers,) = supernode_of(supernode)
    agent.process.terminate()
    assert agent.ended()[0] == 0
    assert status(apart) == supernode_facts | {"agent_answers": False}
    start("site", "start", "--part", "agent", "--home", str(site)).heard("READY=1")
    assert status(apart) == supernode_facts
    assert supernode_of(supernode) == [flowers], "it ran on"

    supernode.process.terminate()
    assert supernode.ended()[0] == 0
    assert status(apart, code=1) == {"up": False, "part": "supernode", "agent_answers": True}
    start("site", "start", "--part", "supernode", "--home", str(apart)).heard("READY=1")
    is_online(home)
    assert status(site)["up"]


def test_a_revoked_site_ends_with_a_code_of_its_own(start: Start, home: ServerHome, tmp_path: Path) -> None:
    start("server", "start", "--home", str(home.root)).heard("READY=1")
    site = joined(home, tmp_path)
    assert command("server", "revoke", "rossi", "--reason", "left", "--home", str(home.root)).returncode == 0
    code, log = start("site", "start", "--home", str(site)).ended()
    assert code == 77
    assert log[-1]["level"] == "critical"


def joined(home: ServerHome, folder: Path) -> Path:
    """Return the home of a site that has joined."""
    (studio,) = make_studios(folder / "drawings", 1, seed=0, each=90)
    invited = command("server", "invite", "rossi", "--auto-approve", "--json", "--home", str(home.root))
    token, site = json.loads(invited.stdout)["token"], folder / "rossi"
    done = command("site", "join", token, "--data", str(studio.folder), "--home", str(site))
    assert done.returncode == 0, done.stderr
    return site


def is_online(home: ServerHome) -> None:
    """Wait until the server sees the site's SuperNode."""
    until = time.monotonic() + PATIENCE_S
    while online(home) != ["rossi"]:
        assert time.monotonic() < until
        time.sleep(0.3)


def status(site: Path, code: int = 0) -> dict[str, Any]:
    done = command("site", "status", "--json", "--home", str(site))
    assert done.returncode == code, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def supernode_of(service: Service) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children()


def sound(doctor: subprocess.CompletedProcess[str], doubtful: AbstractSet[str] = frozenset()) -> set[str]:
    """Return what a doctor looked at, who found all of it well."""
    findings = {one["name"]: one for one in json.loads(doctor.stdout)["findings"]}
    ill = {name for name, one in findings.items() if one["grade"] != "ok"} - {"disk"} - doubtful
    assert (doctor.returncode, ill) == (0, set()), findings
    return set(findings)


def online(home: ServerHome) -> list[str] | None:
    found = json.loads(command("server", "status", "--json", "--home", str(home.root)).stdout)["online"]
    return None if found is None else list(found)


def test_when_a_part_dies_the_server_ends_with_one_clear_sentence(start: Start, home: ServerHome) -> None:
    service = start("server", "start", "--home", str(home.root))
    service.heard("READY=1")
    psutil.Process(service.process.pid).children()[0].kill()
    code, log = service.ended()
    last = [line["message"] for line in log if line["level"] == "critical"]
    assert (code, last) == (1, ["the SuperExec ended with code -9. The lines above are its last."])


def test_a_metrics_port_that_is_taken_is_told_in_one_sentence(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        home = a_home(tmp_path / "second", metrics_port=port)
        code, log = start("server", "start", "--home", str(home.root)).ended()
    assert code == 1
    assert f"port {port} on 127.0.0.1 cannot be taken" in log[-1]["message"]


def test_to_people_a_start_says_once_where_it_listens_and_what_comes_next(home: ServerHome) -> None:
    process = subprocess.Popen(
        [*BOTTEGA, "server", "start", "--home", str(home.root)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    until = time.monotonic() + PATIENCE_S
    while not home.ports.exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    ports = read_ports(home)
    process.terminate()
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    for name in ("fleet", "registry", "metrics", "control", "door"):
        assert len(re.findall(rf":{ports[name]}\b", out)) == 1, out
    assert err.count(f"Next: bottega server invite NAME --home {home.root}") == 1
    assert not any(line.startswith("{") for line in err.splitlines())
