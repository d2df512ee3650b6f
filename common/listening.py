"""Calls whose message has not come yet: how many may be silent at once, and for how long."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger("bottega.limits")

_Call = tuple[float, str, Callable[[], object]]


class Listening:
    """The calls whose message has not come yet: few of each caller, and none for ever.

    Whoever opens a call and then sends nothing holds a thread. So one caller may hold only some of them, and those that
    were silent too long are hung up on. Safe to use from several threads.

    Args:
        most_each: Calls that one caller may have here at once.
        patience_s: Seconds that a call may stay here.
        clock: Seconds that never go backwards.
        make_room: For a call too many of one caller hang up on the one that was silent longest. For where all callers
            bear one name, so that a silent one cannot shut out another.
    """

    def __init__(
        self,
        most_each: int,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        make_room: bool = False,
    ) -> None:
        self._most, self._patience, self._clock, self._make_room = most_each, patience_s, clock, make_room
        self._silent: dict[int, _Call] = {}
        self._each: Counter[str] = Counter()
        self._watched = False
        self._lock = threading.Lock()

    @contextmanager
    def to(self, caller: str, hang_up: Callable[[], object]) -> Iterator[bool]:
        """Hold a place while the message is awaited. Yields whether there was one to have.

        Args:
            caller: Whose call.
            hang_up: Ends the call.
        """
        call = (self._clock(), caller, hang_up)
        with self._lock:
            longest = self._longest(caller) if self._make_room and self._each[caller] >= self._most else None
            if longest is not None:
                self._drop(longest)
            free = self._each[caller] < self._most
            if free:
                self._each[caller] += 1
                self._silent[id(call)] = call
                if not self._watched:
                    self._watched = True
                    threading.Thread(target=self._watch, name="hanging up", daemon=True).start()
        if longest is not None:
            longest[2]()
        try:
            yield free
        finally:
            with self._lock:
                self._drop(call)

    def hang_up_on_the_silent(self) -> None:
        """End the calls that have been here too long."""
        now = self._clock()
        with self._lock:
            overdue = [call for call in self._silent.values() if now - call[0] > self._patience]
            for call in overdue:
                self._drop(call)
        for _, caller, hang_up in overdue:
            log.warning("hung up on %s: it opened a call and did not say what it asks", caller)
            hang_up()

    def _watch(self) -> None:
        """Look again and again while any call is here; whoever comes later is watched anew."""
        watched = True
        while watched:
            time.sleep(self._patience / 4)
            self.hang_up_on_the_silent()
            with self._lock:
                watched = self._watched = bool(self._silent)

    def _longest(self, caller: str) -> _Call | None:
        """Return the caller's call that has been here longest; they are kept in the order in which they came."""
        return next((call for call in self._silent.values() if call[1] == caller), None)

    def _drop(self, call: _Call) -> None:
        """Give back a call's place, if it has one; to be called with the lock held."""
        if self._silent.pop(id(call), None) is None:
            return
        self._each[call[1]] -= 1
        if not self._each[call[1]]:
            del self._each[call[1]]
