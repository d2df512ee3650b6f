"""How much one caller may ask: how often, how much at once, and how long it may take to say what it wants."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger("bottega.limits")

MOST_CALLERS = 4096
"""Callers remembered at a time; the one that has asked least lately is forgotten for a new one."""


class RateLimit:
    """A token bucket for each caller, in bounded memory. Safe to use from several threads.

    Args:
        per_second: Tokens a caller gains a second.
        burst: Tokens it has at the most, and at first.
        clock: Seconds that never go backwards.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = per_second, float(burst), clock
        self._buckets: OrderedDict[str, tuple[float, float, bool]] = OrderedDict()
        self._lock = threading.Lock()

    def allows(self, caller: str) -> bool:
        """Take a token of a caller; say no when it has none.

        The log tells of it once, and again only after the caller was calm long enough to have all tokens: a flood of
        calls is no flood of lines.
        """
        with self._lock:
            now = self._clock()
            tokens, since, told = self._buckets.pop(caller, (self._burst, now, False))
            tokens = min(self._burst, tokens + (now - since) * self._rate)
            allowed, told = tokens >= 1, told and tokens < self._burst
            self._buckets[caller] = (tokens - 1 if allowed else tokens, now, told or not allowed)
            if len(self._buckets) > MOST_CALLERS:
                self._buckets.popitem(last=False)
        if not allowed and not told:
            log.warning("refused: a flood of calls by %s", caller)
        return allowed


class Listening:
    """The calls whose message has not come yet: few of each caller, and none for ever.

    Whoever opens a call and then sends nothing holds a thread. So one caller may hold only some of them, and those that
    were silent too long are hung up on. Safe to use from several threads.

    Args:
        most_each: Calls that one caller may have here at once.
        patience_s: Seconds that a call may stay here.
        clock: Seconds that never go backwards.
    """

    def __init__(self, most_each: int, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._patience, self._clock = most_each, patience_s, clock
        self._silent: dict[int, tuple[float, str, Callable[[], object]]] = {}
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
            free = self._each[caller] < self._most
            if free:
                self._each[caller] += 1
                self._silent[id(call)] = call
                if not self._watched:
                    self._watched = True
                    threading.Thread(target=self._watch, name="hanging up", daemon=True).start()
        try:
            yield free
        finally:
            if free:
                self._leave(call)

    def hang_up_on_the_silent(self) -> None:
        """End the calls that have been here too long."""
        now = self._clock()
        with self._lock:
            overdue = [call for call in self._silent.values() if now - call[0] > self._patience]
            for call in overdue:
                del self._silent[id(call)]
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

    def _leave(self, call: tuple[float, str, Callable[[], object]]) -> None:
        with self._lock:
            self._silent.pop(id(call), None)
            self._each[call[1]] -= 1
            if not self._each[call[1]]:
                del self._each[call[1]]
