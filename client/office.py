"""The courier's office of a site: its SuperNode, started again whatever ends it, for as long as the site runs."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from client.keeper import LONGEST_PAUSE_S
from common.errors import ProcessError
from common.processes import ChildProcess, Supervisor

log = logging.getLogger("bottega.site")

SHORTEST_PAUSE_S = 1.0


class Office:
    """Keeps a SuperNode running; each time that it ends soon after its start, it waits longer. A context manager.

    To the kernel a child's parent is the thread that started it: enter it, and call :meth:`look`, in one that stays.

    Args:
        child: Returns a SuperNode, not started yet.
        told: Returns what the SuperNode was told; when that is another thing, it is started again.
    """

    def __init__(self, child: Callable[[], ChildProcess], told: Callable[[], object] = lambda: None) -> None:
        self._child, self._told = child, told
        self._open = contextlib.ExitStack()
        self._running: Supervisor | None = None
        self._known: object = None
        self._began = self._again = time.monotonic()
        self._pause = SHORTEST_PAUSE_S

    def __enter__(self) -> Self:
        self.look()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def look(self) -> None:
        """Start the SuperNode if it is time to; see whether it runs. Call it a few times a second."""
        try:
            if self._running is not None:
                self._check(self._running)
            elif time.monotonic() >= self._again:
                self._began, self._known = time.monotonic(), self._told()
                self._running = self._open.enter_context(Supervisor([self._child()]))
        except ProcessError as why:
            self._put_off(why)

    def _check(self, running: Supervisor) -> None:
        running.check()
        if self._told() != self._known:
            raise ProcessError("its agent told it something else", advice="")

    def _put_off(self, why: ProcessError) -> None:
        self._open.close()
        self._running = None
        now = time.monotonic()
        if now - self._began > LONGEST_PAUSE_S:
            self._pause = SHORTEST_PAUSE_S
        log.warning("the SuperNode is started again in %.0f s: %s", self._pause, why)
        self._again, self._pause = now + self._pause, min(2 * self._pause, LONGEST_PAUSE_S)
