"""sd_notify, to a real UNIX datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.notify import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        listener.settimeout(10)
        yield listener, name


def heard(listener: socket.socket) -> list[str]:
    found = []
    listener.setblocking(False)
    try:
        while True:
            found.append(listener.recv(4096).decode())
    except BlockingIOError:
        return found


def test_ready_and_stopping_are_told(systemd: tuple[socket.socket, str]) -> None:
    listener, name = systemd
    manager = ServiceManager({"NOTIFY_SOCKET": name})
    manager.ready("fleet 8440\nREADY=0")
    manager.stopping()
    assert heard(listener) == ["READY=1\nSTATUS=fleet 8440 READY=0", "STOPPING=1"]


def test_the_watchdog_hears_three_times_in_its_time(systemd: tuple[socket.socket, str]) -> None:
    listener, name = systemd
    now = [0.0]
    manager = ServiceManager(
        {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, clock=lambda: now[0]
    )
    for _ in range(49):  # six seconds
        manager.alive()
        now[0] += 0.125
    assert heard(listener) == ["WATCHDOG=1"] * 7


@pytest.mark.parametrize("watchdog", [{}, {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
def test_a_watchdog_that_is_none_of_ours_hears_nothing(
    systemd: tuple[socket.socket, str], watchdog: dict[str, str]
) -> None:
    listener, name = systemd
    ServiceManager({"NOTIFY_SOCKET": name, **watchdog}).alive()
    assert heard(listener) == []


def test_no_child_inherits_the_word(systemd: tuple[socket.socket, str]) -> None:
    environment = {"NOTIFY_SOCKET": systemd[1], "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    ServiceManager(environment)
    assert environment == {"PATH": "/bin"}


def test_without_systemd_nothing_is_told_and_nothing_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ServiceManager({}).ready("up")
    assert caplog.records == []
    gone = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "10"})
    gone.ready("up")
    gone.alive()
    assert [record.getMessage() for record in caplog.records] == [
        "systemd cannot be told: No such file or directory"
    ] * 2
