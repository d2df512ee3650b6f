"""Child processes: stopped whole, watched, and never left behind, whoever dies first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from common import processes
from common.errors import ProcessError
from common.processes import ChildProcess, Supervisor

SLEEPER = "import time; time.sleep(300)"
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {SLEEPER!r}])
print(child.pid, flush=True)
time.sleep(300)
"""
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ignoring", flush=True)
time.sleep(300)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def until(done: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if done():
            return True
        time.sleep(0.05)
    return False


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def first_number(log: Path) -> int:
    assert until(lambda: log.exists() and log.read_text().strip().isdigit())
    return int(log.read_text())


def test_stopping_ends_what_a_child_started_too(tmp_path: Path) -> None:
    child = ChildProcess("parent", python(PARENT), tmp_path / "log")
    with Supervisor([child]) as supervisor:
        grandchild = first_number(tmp_path / "log")
        supervisor.check()
        assert not gone(grandchild)
    assert child.pid is not None
    assert gone(child.pid)
    assert until(lambda: gone(grandchild))


def test_a_child_that_will_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.5)
    child = ChildProcess("stubborn", python(STUBBORN), tmp_path / "log")
    with Supervisor([child]):
        assert until(lambda: "ignoring" in child.tail())
        began = time.monotonic()
    assert 0.4 < time.monotonic() - began < 10
    assert child.pid is not None
    assert gone(child.pid)


def test_a_child_that_dies_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    code = "import sys; print(*range(40), sep='\\n'); print('the port is in use'); sys.exit(3)"
    children = Supervisor([ChildProcess("server", python(code), tmp_path / "log")])
    with pytest.raises(ProcessError, match="server ended with code 3") as caught, children as supervisor:
        supervisor.watch(threading.Event())
    assert str(caught.value).endswith("39\nthe port is in use")
    assert "\n27\n" not in str(caught.value)  # the end of the log, not all of it


def test_a_program_that_is_not_there_is_reported(tmp_path: Path) -> None:
    children = Supervisor([ChildProcess("ghost", ["/nonexistent/program"], tmp_path / "log")])
    with pytest.raises(ProcessError, match="ghost ended with code"), children as supervisor:
        supervisor.watch(threading.Event())


def test_where_one_cannot_be_started_those_before_it_are_stopped(tmp_path: Path) -> None:
    first = ChildProcess("first", python(SLEEPER), tmp_path / "log")
    second = ChildProcess("second", python(SLEEPER), tmp_path / "no such folder" / "log")
    with pytest.raises(ProcessError, match="second cannot be started; got No such file or directory"):
        Supervisor([first, second]).__enter__()
    assert first.pid is not None
    assert gone(first.pid)


def test_watching_ends_quietly_when_it_is_told_to(tmp_path: Path) -> None:
    stop = threading.Event()
    with Supervisor([ChildProcess("sleeper", python(SLEEPER), tmp_path / "log")]) as supervisor:
        threading.Timer(0.3, stop.set).start()
        supervisor.watch(stop)


def test_waiting_for_a_child_ends_when_it_is_ready_when_it_died_and_when_it_is_late(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Supervisor([ChildProcess("parent", python(PARENT), log)]) as supervisor:
        supervisor.wait("the parent", lambda: bool(log.read_text()), 20)
        with pytest.raises(ProcessError, match=r"the parent did not come up in 0\.3 s"):
            supervisor.wait("the parent", lambda: False, 0.3)
    with (
        Supervisor([ChildProcess("brief", python("raise SystemExit(4)"), tmp_path / "brief")]) as supervisor,
        pytest.raises(ProcessError, match="brief ended with code 4"),
    ):
        supervisor.wait("the brief one", lambda: False, 20)


def test_a_killed_parent_leaves_no_child(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from common.processes import ChildProcess
child = ChildProcess("sleeper", [{sys.executable!r}, "-c", {SLEEPER!r}], Path({str(tmp_path / "log")!r}))
child.start()
print(child.pid, flush=True)
time.sleep(300)
"""
    parent = subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        # Tethered once it has become the command; before that it sees for itself that its parent has gone.
        assert until(lambda: "time.sleep(300)" in " ".join(psutil.Process(child).cmdline()[-1:]))
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        assert until(lambda: gone(child))
    finally:
        parent.kill()
        parent.wait()


def test_a_child_whose_parent_went_before_it_was_tethered_never_becomes_the_command() -> None:
    marker = "print('it ran')"
    done = subprocess.run(
        [sys.executable, "-m", "common.tether", "1" if os.getpid() != 1 else "2", *python(marker)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")


TETHERED = """
import sys, time
from common.tether import end_with
end_with(int(sys.argv[1]))
time.sleep(300)
"""


@pytest.mark.parametrize("how", ["by its handle", "by its number"])
def test_a_process_ends_with_the_one_that_it_works_for(how: str) -> None:
    """By its handle also when nobody has collected the dead: to whoever asks by number it still seems to live."""
    master = subprocess.Popen(python(SLEEPER))
    without = "import os; del os.pidfd_open\n" if how == "by its number" else ""
    works = subprocess.Popen([*python(without + TETHERED), str(master.pid)])
    try:
        assert not until(lambda: works.poll() is not None, seconds=1.5)
        master.kill()
        if how == "by its number":
            master.wait()
        assert until(lambda: works.poll() is not None)
        assert works.returncode == 1
    finally:
        for process in (works, master):
            process.kill()
            process.wait()
