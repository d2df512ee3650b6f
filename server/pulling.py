"""Answers are pulled side by side, each by itself: one that hangs or breaks is one site's, and no other's.

Flower waits for content that was announced, and what it reads of one site may break it. Pulled one after the other, a
site that announces an answer and never sends it would keep those behind it waiting until the round is over.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import httpx
from flwr.app import Message
from flwr.serverapp import Grid

from common.flower_pace import pull_within

POLL_S = 0.2
"""Flower's own grid looks every 3 s; on loopback a look costs about a millisecond."""

PULL_MOST = 8
"""Answers pulled at a time: what bounds the memory of a round with many sites."""


class Unreadable(NamedTuple):
    """What a node sent in place of a message."""

    node: int
    why: str


class Pulls:
    """Looks for the answers to some messages, up to :data:`PULL_MOST` at a time.

    Args:
        grid: Flower's.
        asked: Who was sent each message, ``{message: node}``.
    """

    def __init__(self, grid: Grid, asked: Mapping[str, int]) -> None:
        self._grid, self._asked = grid, asked
        self._waiting = sorted(asked)
        self._threads = ThreadPoolExecutor(PULL_MOST, "pull")
        self._under_way: dict[Future[list[Message | Unreadable]], str] = {}

    @property
    def left(self) -> bool:
        """Whether any answer is still to come."""
        return bool(self._waiting or self._under_way)

    def close(self) -> None:
        """Look no more. A pull that hangs ends by itself when its time is over, and what it brings is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def look(self, rest_s: float) -> Iterator[Message | Unreadable]:
        """Yield what has come, within about :data:`POLL_S`.

        Args:
            rest_s: Seconds that the round still lasts; no pull that begins now goes on for longer.

        Raises:
            OSError, httpx.HTTPError: The SuperLink is away: no site's doing.
        """
        pull_within(max(rest_s, 1.0))
        ends = time.monotonic() + POLL_S
        free = PULL_MOST - len(self._under_way)
        # From the front, and who is silent goes to the back: they must not hide those behind.
        window, self._waiting = self._waiting[:free], self._waiting[free:]
        self._under_way |= {self._threads.submit(self._pulled, message): message for message in window}
        came = False
        for future in wait(self._under_way, timeout=POLL_S).done:
            message = self._under_way.pop(future)
            replies = future.result()
            if not replies:
                self._waiting.append(message)
            came |= bool(replies)
            yield from replies
        if not came:
            time.sleep(max(ends - time.monotonic(), 0.0))

    def _pulled(self, message: str) -> list[Message | Unreadable]:
        try:
            return list(self._grid.pull_messages([message]))
        except (OSError, httpx.HTTPError):
            raise
        except Exception as cause:  # noqa: BLE001 (Flower inflates what a site sent, and raises whatever that breaks)
            return [Unreadable(self._asked[message], type(cause).__name__)]
