"""Where a ledger comes from: a server's registry, a file beside it, or a bundle."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import grpc

from common.errors import LedgerError
from common.proto import registry_pb2 as pb
from common.proto import registry_pb2_grpc as rpc
from security.audit.bundle import Bundle, entries_name
from security.calling import CALL_S, NO_ANSWER
from security.ledger import Reader

ENTRIES_AT_ONCE = 1000
NOTES_AT_ONCE = 100
_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)

T = TypeVar("T")


class LedgerSource(Protocol):
    """Gives a ledger away, piece by piece. Nothing that it gives is believed before it is verified."""

    def latest(self, known_size: int) -> tuple[bytes, Sequence[bytes]]:
        """Return the latest checkpoint, and the proof that its ledger begins with that of ``known_size`` entries.

        Raises:
            LedgerError: There is none, or the ledger never was of that size.
        """

    def checkpoints(self, above: int) -> Sequence[bytes]:
        """Return the next checkpoints of sizes over one, by size, with the lines of who co-signed; none at the end."""

    def entries(self, start: int, count: int) -> Sequence[bytes]:
        """Return the next entries from an index on, at least one if there is one and at most ``count``."""


class ReaderSource:
    """A ledger in a file.

    Args:
        reader: Reads it.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def latest(self, known_size: int) -> tuple[bytes, Sequence[bytes]]:
        """Return the latest checkpoint, with a proof."""
        stored = self._reader.latest_checkpoint()
        if stored is None:
            raise LedgerError(
                "the ledger has no checkpoint yet", advice="Its server signs one when a run starts or a member asks."
            )
        return stored.note, self._reader.consistency(known_size, stored.size)

    def checkpoints(self, above: int) -> Sequence[bytes]:
        """Return the next checkpoints."""
        rows = self._reader.rows(_SIZES, above, NOTES_AT_ONCE)
        return [note for (size,) in rows if (note := self._reader.cosigned(int(size)))]

    def entries(self, start: int, count: int) -> Sequence[bytes]:
        """Return the next entries."""
        stop = min(start + min(count, ENTRIES_AT_ONCE), self._reader.size())
        return list(self._reader.entries(start, stop))


class RegistrySource:
    """The ledger of a server, over its registry.

    Args:
        stub: Of the registry, opened by an operator or an auditor (:func:`security.calling.registry`).
    """

    def __init__(self, stub: rpc.RegistryStub) -> None:
        self._stub = stub

    def latest(self, known_size: int) -> tuple[bytes, Sequence[bytes]]:
        """Return the latest checkpoint, with a proof."""
        call = pb.GetLedgerCall(known_size=known_size)
        try:
            shown = _patiently(lambda: self._stub.GetLedger(call, timeout=CALL_S))
        except grpc.RpcError as refusal:
            if refusal.code() in {*NO_ANSWER, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}:
                raise
            raise LedgerError("the server does not show its ledger", got=refusal.details()) from None
        proofs = {growth.size: list(growth.consistency) for growth in shown.growths}
        return shown.checkpoint, proofs.get(known_size, [])

    def checkpoints(self, above: int) -> Sequence[bytes]:
        """Return the next checkpoints."""
        call = pb.GetCheckpointsCall(above=above)
        return list(_patiently(lambda: self._stub.GetCheckpoints(call, timeout=CALL_S)).notes)

    def entries(self, start: int, count: int) -> Sequence[bytes]:
        """Return the next entries."""
        call = pb.GetEntriesCall(start=start, count=min(count, ENTRIES_AT_ONCE))
        return list(_patiently(lambda: self._stub.GetEntries(call, timeout=CALL_S)).entries)


def _patiently(call: Callable[[], T]) -> T:
    """Make a call; a server that is asked too much at once is given a little time."""
    for pause in _PAUSES_S:
        try:
            return call()
        except grpc.RpcError as refusal:
            if refusal.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            time.sleep(pause)
    return call()


class BundleSource:
    """The ledger in a bundle, from its beginning.

    Args:
        bundle: Open.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._starts = bundle.names("entries")
        self._page: tuple[int, list[bytes]] = (0, [])

    def latest(self, known_size: int) -> tuple[bytes, Sequence[bytes]]:
        """Return the latest checkpoint; proofs are made once the entries are there."""
        names = self._bundle.names("checkpoints")
        if not names or known_size:
            raise LedgerError("the bundle holds no checkpoint", advice="Have it exported again.")
        return self._bundle.read(names[-1]), ()

    def checkpoints(self, above: int) -> Sequence[bytes]:
        """Return the next checkpoints."""
        names = [name for name in self._bundle.names("checkpoints") if _size(name) > above]
        return [self._bundle.read(name) for name in names[:NOTES_AT_ONCE]]

    def entries(self, start: int, count: int) -> Sequence[bytes]:
        """Return the next entries."""
        first, page = self._page
        if not first <= start < first + len(page):
            name = max((name for name in self._starts if name <= entries_name(start)), default=None)
            if name is None:
                return []
            first, page = _size(name), self._bundle.read(name).split(b"\n")[:-1]
            self._page = first, page
        return page[start - first : start - first + count]


def _size(name: str) -> int:
    """Return the number in the name of a part."""
    digits = name.rpartition("/")[2].partition(".")[0]
    if not digits.isdecimal() or len(digits) > 18:
        raise LedgerError("the bundle names a part as no part is named", got=name[:100])
    return int(digits)


_SIZES = "SELECT size FROM ledger_checkpoints WHERE size > ? ORDER BY size LIMIT ?"
