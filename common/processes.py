"""Child processes: started in groups of their own, tethered to this process, watched, and stopped whole.

Nothing is ever killed by name: a child is known by its process id, what it started by its group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from common.errors import ProcessError

GRACE_S = 8.0
"""How long a process has to end after SIGTERM before its group gets SIGKILL."""

_TAIL_LINES = 12


def flower_environment(home: Path) -> dict[str, str]:
    """Return the environment of Flower's programs: they keep to ``home``, call nobody, import only installed code."""
    beside = str(Path(sys.executable).parent)
    return {
        # Flower starts its own programs by name; they must be the ones of this environment, activated or not.
        "PATH": os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        # Flower looks for new work once a second unless told otherwise; a look costs a millisecond on loopback.
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        # A folder called `common` or `server` in the current folder must not be imported in place of ours.
        "PYTHONSAFEPATH": "1",
    }


class ChildProcess:
    """One child process, not started yet.

    Args:
        name: For people.
        command: What to run.
        log: Where its output is appended.
        environment: Added to this process's own.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.log = name, log
        self._command, self._environment = command, environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id; None before the start."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches only us and we can end it in order.

        Call it from a thread that lives as long as the child should: to the kernel the parent of a tethered process
        is the thread that forked it, and its end is the parent's end.

        Raises:
            ProcessError: It cannot be started.
        """
        tethered = [sys.executable, "-P", "-m", "common.tether", str(os.getpid()), *self._command]
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    tethered,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self._environment},
                    start_new_session=True,
                )
        except OSError as cause:
            raise ProcessError(f"{self.name} cannot be started", got=cause.strerror) from cause

    def check(self) -> None:
        """Pass while it runs.

        Raises:
            ProcessError: It has ended; the message holds the end of its log.
        """
        if self._process is not None and (code := self._process.poll()) is not None:
            raise ProcessError(f"{self.name} ended with code {code}", advice=f"The end of {self.log}:\n{self.tail()}")

    def tail(self) -> str:
        """Return the end of its log."""
        try:
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
        except OSError:
            return "(no log)"

    def terminate(self) -> None:
        """Ask it and all that it started to end."""
        self._signal(signal.SIGTERM)

    def finish(self, until: float) -> None:
        """Wait for its end until the monotonic time ``until``, then end its group by force."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, until - time.monotonic()))
        self._signal(signal.SIGKILL)  # what is left of the group, if anything
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)


class Supervisor:
    """Holds child processes while they are needed; use it as a context manager. On the way out all are stopped."""

    def __init__(self, children: Iterable[ChildProcess] = ()) -> None:
        self._children = list(children)

    def __enter__(self) -> Supervisor:
        try:
            for child in self._children:
                child.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def start(self, child: ChildProcess) -> None:
        """Start one more."""
        self._children.append(child)
        child.start()

    def check(self) -> None:
        """Pass while all run.

        Raises:
            ProcessError: One has ended.
        """
        for child in self._children:
            child.check()

    def wait(self, what: str, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until ``ready`` says yes.

        Args:
            what: What is waited for, for the error.
            ready: Asked ten times a second.
            seconds: How long at most.

        Raises:
            ProcessError: A child ended before, or the time is over.
        """
        until = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > until:
                raise ProcessError(f"{what} did not come up in {seconds:g} s")
            time.sleep(0.1)

    def watch(self, stop: threading.Event) -> None:
        """Wait until ``stop`` is set.

        Raises:
            ProcessError: A child ended before.
        """
        while not stop.wait(0.2):
            self.check()

    def _stop(self) -> None:
        for child in reversed(self._children):
            child.terminate()
        until = time.monotonic() + GRACE_S
        for child in reversed(self._children):
            child.finish(until)
