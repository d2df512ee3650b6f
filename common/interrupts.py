"""Ctrl-C that does not get lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. Where that is inside a callback from C, or a
library that is being imported and takes any failure of an import for an answer, it is swallowed, and the program goes
on. Whoever does long work asks once in a while whether that has happened.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class Interrupts:
    """Remembers that Ctrl-C came; use it as a context manager, in the main thread."""

    def __init__(self) -> None:
        self._came = False

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._come)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Pass while nobody has pressed Ctrl-C.

        Raises:
            KeyboardInterrupt: Somebody has.
        """
        if self._came:
            raise KeyboardInterrupt

    def _come(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True
        raise KeyboardInterrupt
