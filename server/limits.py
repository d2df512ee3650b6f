"""How often one caller may ask."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

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
