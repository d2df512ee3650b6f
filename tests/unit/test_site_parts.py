"""Agent and SuperNode apart: what is handed over and to whom, one of each a home, and who waits for whom."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from client import office as office_module
from client.agent_wait import WAIT_FOR, told_to_wait_for, wait_for
from client.apart import alone, hand_over, handed_over, is_held
from client.office import Office
from client.supernode_settings import SuperNodeSettings
from common.errors import AgentError
from common.paths import SiteHome, SuperNodeHome
from common.processes import ChildProcess
from common.settings import read_toml

SETTINGS = SuperNodeSettings(server="server.example:8440", confine="require")


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    home = SiteHome(tmp_path)
    home.keys.mkdir(mode=0o700)
    home.supernode_key.write_bytes(b"a key")
    home.supernode_key.chmod(0o600)
    (home.keys / "signing.key").write_bytes(b"another key")
    home.authority_certificate.write_bytes(b"a certificate")
    return home


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


@pytest.mark.parametrize(("folder", "file"), [(None, 0o600), (0o700, 0o600), (0o750, 0o640)])
def test_what_is_handed_over_is_for_the_group_only_if_the_folder_is(
    home: SiteHome, folder: int | None, file: int
) -> None:
    if folder is not None:
        home.share.mkdir()
        home.share.chmod(folder)
    hand_over(home, SETTINGS)
    assert modes(home.share) == {"supernode": file, "ca.crt": file, "supernode.toml": file}
    assert stat.S_IMODE(home.share.stat().st_mode) == (folder or 0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="nobody but root is in every group")
def test_what_is_handed_over_is_given_to_the_group_of_the_folder(home: SiteHome) -> None:
    home.share.mkdir(0o750)
    os.chown(home.share, -1, 54321)
    hand_over(home, SETTINGS)
    assert {file.stat().st_gid for file in home.share.iterdir()} == {54321}


def test_a_supernode_apart_is_told_its_key_the_certificate_and_its_settings_and_nothing_else(home: SiteHome) -> None:
    hand_over(home, SETTINGS)
    there = SuperNodeHome(home.root)
    assert read_toml(SuperNodeSettings, there.settings) == SETTINGS
    assert (there.supernode_key.read_bytes(), there.authority_certificate.read_bytes()) == (b"a key", b"a certificate")
    assert len(list(home.share.iterdir())) == 3


def test_only_something_new_is_seen_as_new(home: SiteHome) -> None:
    there = SuperNodeHome(home.root)
    assert handed_over(there) is None
    hand_over(home, SETTINGS)
    first = handed_over(there)
    hand_over(home, SETTINGS)
    assert handed_over(there) == first
    home.supernode_key.write_bytes(b"the next key")
    hand_over(home, SETTINGS)
    assert handed_over(there) not in (first, None)


def test_a_home_has_one_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_held(lock)
    with alone(lock, "agent"):
        assert is_held(lock)
        with pytest.raises(AgentError, match="another agent already serves this home"), alone(lock, "agent"):
            pass
        assert is_held(lock)
    assert not is_held(lock)


def test_a_supernode_waits_until_the_agent_listens(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    waiting = threading.Thread(target=wait_for, args=(str(path),))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive(), "a socket that nobody listens on is none"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(path))
        agent.listen()
        waiting.join(20)
    assert not waiting.is_alive()


def test_a_supernode_takes_whom_it_waits_for_from_its_command_line() -> None:
    words = ["supernode", WAIT_FOR, "agent.sock", "--superlink", "x"]
    assert told_to_wait_for(words) == "agent.sock"
    assert words == ["supernode", "--superlink", "x"]
    assert told_to_wait_for(words) is None
    assert words == ["supernode", "--superlink", "x"]


def child(*command: str) -> Callable[[], ChildProcess]:
    return lambda: ChildProcess("the SuperNode", [sys.executable, "-c", *command], lambda _: None)


def until(what: Callable[[], bool], office: Office) -> None:
    end = time.monotonic() + 30
    while not what():
        office.look()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_supernode_that_ends_is_started_again_each_time_after_a_longer_pause(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(office_module, "SHORTEST_PAUSE_S", 0.25)
    starts = tmp_path / "starts"
    with Office(child(f"open({str(starts)!r}, 'a').write('x')")) as office:
        until(lambda: starts.exists() and starts.read_text() == "xxx", office)
    pauses = [record.args[0] for record in caplog.records if isinstance(record.args, tuple)]
    assert pauses[:2] == [0.25, 0.5]


def test_a_supernode_that_is_told_something_else_is_started_again_and_the_last_one_ends_with_the_office(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(office_module, "SHORTEST_PAUSE_S", 0.1)
    pids, told = tmp_path / "pids", [1]
    code = f"import os, time; open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(60)"
    with Office(child(code), lambda: told[0]) as office:
        until(lambda: pids.exists() and pids.read_text().count("\n") == 1, office)
        office.look()
        told[0] = 2
        until(lambda: pids.read_text().count("\n") == 2, office)
    first, second = json.loads("[" + pids.read_text().strip().replace("\n", ",") + "]")
    assert first != second
    assert not any(Path(f"/proc/{pid}").exists() for pid in (first, second))
