"""The memory of opened letters, so that none is taken twice."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import EnvelopeError

if TYPE_CHECKING:
    from security.envelope import Header


@dataclass(frozen=True)
class Remembered:
    """What a :class:`NonceBook` remembers, as plain values that a caller can keep in a file or a table.

    Args:
        horizon_ms: Letters created before this (Unix time, milliseconds) are refused unseen.
        nonces: ``(sender, nonce in hex, created_at_ms)`` of every letter taken since.
    """

    horizon_ms: int
    nonces: tuple[tuple[str, str, int], ...]


class NonceBook:
    """Remembers who sent which nonce, and refuses it the second time. Safe to share between threads.

    It stays small: what is older than the freshness window is forgotten, and a letter from before the oldest thing
    it could still know is refused, since it cannot be checked. That holds even if the machine's clock is set back.
    A book lost in a crash is replaced by an empty one whose horizon is the present: what was sealed before is then
    refused, never taken twice.

    Args:
        past_ms: The freshness window, in milliseconds: the ``past_ms`` of the expectations it goes with.
        remembered: What an earlier book knew.
    """

    def __init__(self, past_ms: int, remembered: Remembered = Remembered(0, ())) -> None:
        self._past_ms = past_ms
        self._horizon_ms = remembered.horizon_ms
        self._created = {(sender, nonce): created for sender, nonce, created in remembered.nonces}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._created)

    def take(self, header: Header, now_ms: int) -> None:
        """Remember a letter that :func:`~security.envelope.open_letter` has returned; call it once a letter.

        Args:
            header: Authenticated: a stranger's header would let anybody fill the book or use up a nonce.
            now_ms: Unix time, milliseconds.

        Raises:
            EnvelopeError: The letter was taken before, or is too old to tell.
        """
        with self._lock:
            self._forget(now_ms - self._past_ms)
            if header.created_at_ms < self._horizon_ms:
                raise EnvelopeError(
                    "the letter is too old to tell whether it was taken before",
                    got=f"created at {header.created_at_ms} ms",
                    expected=f"at or after {self._horizon_ms} ms",
                )
            name = (str(header.sender), header.nonce.hex())
            if name in self._created:
                raise EnvelopeError(
                    "the letter was taken before: this is a replay", got=f"nonce {name[1]} again", expected="a new one"
                )
            self._created[name] = header.created_at_ms

    def remembered(self) -> Remembered:
        """Return all it knows, for :class:`NonceBook` to start from again."""
        with self._lock:
            nonces = tuple((sender, nonce, created) for (sender, nonce), created in self._created.items())
            return Remembered(self._horizon_ms, nonces)

    def _forget(self, horizon_ms: int) -> None:
        if horizon_ms > self._horizon_ms:
            self._horizon_ms = horizon_ms
            self._created = {name: created for name, created in self._created.items() if created >= horizon_ms}
