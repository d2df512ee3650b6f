"""How often one address may ask: a token bucket for each, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MOST_ADDRESSES = 4096
"""Addresses remembered at a time; the one that has asked least lately is forgotten for a new one."""


class RateLimit:
    """A token bucket for each address. Safe to use from several threads.

    Args:
        per_second: Tokens an address gains a second.
        burst: Tokens it has at the most, and at first.
        clock: Seconds that never go backwards.
    """

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = per_second, float(burst), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def allows(self, address: str) -> bool:
        """Take a token of an address; say no when it has none."""
        with self._lock:
            now = self._clock()
            tokens, since = self._buckets.pop(address, (self._burst, now))
            tokens = min(self._burst, tokens + (now - since) * self._rate)
            allowed = tokens >= 1
            self._buckets[address] = (tokens - 1 if allowed else tokens, now)
            if len(self._buckets) > MOST_ADDRESSES:
                self._buckets.popitem(last=False)
            return allowed
