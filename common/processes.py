"""Child processes: started in groups of their own, tethered to this process, watched, and stopped whole.

Nothing is ever killed by name: a child is known by its process id, what it started by its group.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from common.errors import ProcessError

GRACE_S = 8.0
"""How long a process has to end after SIGTERM before its group gets SIGKILL."""

log = logging.getLogger("bottega.processes")

_TAIL_LINES = 12
_LONGEST_LINE = 2**14
_LAST_LINES_S = 1.0


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
        log: Where its output is appended, or what takes each line of it.
        environment: Added to this process's own.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path | Callable[[str], object],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.log = name, log
        self._command, self._environment = command, environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._last: deque[str] = deque(maxlen=_TAIL_LINES)
        self._reader: threading.Thread | None = None

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
            with self.log.open("ab") if isinstance(self.log, Path) else contextlib.nullcontext(subprocess.PIPE) as out:
                self._process = subprocess.Popen(
                    tethered,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self._environment},
                    start_new_session=True,
                )
        except OSError as cause:
            raise ProcessError(f"{self.name} cannot be started", got=cause.strerror) from cause
        if self._process.stdout is not None and not isinstance(self.log, Path):
            words = (self._process.stdout, self.log)
            self._reader = threading.Thread(target=self._read, args=words, name=f"log of {self.name}", daemon=True)
            self._reader.start()

    def check(self) -> None:
        """Pass while it runs.

        Raises:
            ProcessError: It has ended; the message holds the end of its log.
        """
        if self._process is not None and (code := self._process.poll()) is not None:
            self._hear_out()
            its_own = isinstance(self.log, Path)
            advice = f"The end of {self.log}:\n{self.tail()}" if its_own else "The lines above are its last."
            raise ProcessError(f"{self.name} ended with code {code}", advice=advice)

    def tail(self) -> str:
        """Return the end of what it said."""
        if not isinstance(self.log, Path):
            return "\n".join(self._last)
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
        self._hear_out()

    def _read(self, pipe: IO[bytes], take: Callable[[str], object]) -> None:
        """Hand on each line, a very long one in pieces, until the child and all its own children have ended."""
        with pipe:
            while line := pipe.readline(_LONGEST_LINE):
                words = line.decode(errors="replace").rstrip("\n")
                self._last.append(words)
                try:
                    take(words)
                except Exception:  # the child must not lose its pipe for it
                    log.exception("a line of %s could not be taken", self.name)

    def _hear_out(self) -> None:
        """Wait a moment for the last lines of a child that has ended."""
        if self._reader is not None:
            self._reader.join(_LAST_LINES_S)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)


class Supervisor:
    """Holds child processes while they are needed; use it as a context manager. On the way out all are stopped.

    Args:
        children: Started on the way in.
        look: Called whenever the children are checked on; what it raises ends the waiting.
    """

    def __init__(self, children: Iterable[ChildProcess] = (), look: Callable[[], object] = lambda: None) -> None:
        self._children, self._look = list(children), look

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
        self._look()
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
