"""An auditor's copy of a ledger: kept in SQLite as the server keeps it, and only ever added to.

What comes is verified before it is kept: each checkpoint is signed by the server that was pinned, and the entries lead
to exactly the root that it signed. So a ledger that was changed, or is shown to this auditor otherwise than before,
cannot get in; both checkpoints are then kept beside the copy, as evidence that any program can check.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common.errors import BottegaError, LedgerError, RunError
from security.audit.source import ENTRIES_AT_ONCE, LedgerSource
from security.audit.trust import Trust
from security.checkpoint import Checkpoint
from security.database import Database
from security.files import PUBLIC, replace
from security.ledger import LEDGER_SCHEMA, Reader, append, keep_checkpoint, keep_cosignature
from security.merkle import verify_consistency

Tell = Callable[[int, int], None]
"""Is told how many entries are there, of how many."""

ASKED_AGAIN = 32
"""Of so many checkpoints that are kept already new co-signatures are asked for: sites sign them a round later."""

_LAST = "SELECT size FROM ledger_checkpoints ORDER BY size DESC LIMIT ?"


class ForkError(LedgerError):
    """A ledger is not the one that was seen before: it shows two histories, or lost one.

    Attributes:
        known: The checkpoint that was seen before; a signed note.
        shown: The one that was shown now.
    """

    advice = (
        "Nothing of it was kept. Both checkpoints are evidence; show them to the operator and to the other members. "
        "A server that was restored from a backup says so; only then `bottega audit sync --begin-anew`."
    )

    def __init__(self, what: str, known: bytes, shown: bytes, *, got: object, expected: object) -> None:
        super().__init__(what, got=got, expected=expected)
        self.known, self.shown = known, shown


class Synced(NamedTuple):
    """What an update of a copy brought: entries that came, and entries that are there now."""

    fresh: int
    size: int


class _Seen(NamedTuple):
    checkpoint: Checkpoint
    note: bytes


class Mirror(Database):
    """A copy of a ledger in a file of its own; see :class:`~security.database.Database`.

    Raises:
        LedgerError: The file is no such copy, or is damaged.
    """

    def __init__(self, file: Path) -> None:
        try:
            super().__init__(file, LEDGER_SCHEMA)
        except RunError as why:
            raise LedgerError(
                "the copy of the ledger cannot be opened", got=why.got, expected="an SQLite file of bottega",
                advice="Move it away; `bottega audit sync` makes it anew.",
            ) from None  # fmt: skip

    @property
    def reader(self) -> Reader:
        """Reads the copy."""
        return Reader(self._read)

    def sync(
        self, source: LedgerSource, trust: Trust, evidence: Path | None = None, tell: Tell | None = None
    ) -> Synced:
        """Bring the copy up to date.

        Args:
            source: Gives the ledger away.
            trust: Who must have signed it.
            evidence: The folder that both checkpoints are kept in when they contradict each other; made then.
            tell: Is told how far it is.

        Raises:
            ForkError: The ledger does not hold what the copy holds.
            LedgerError: What came is not signed by the server, or does not lead to what it signed. What was verified
                before that stays.
            RunError: The copy cannot be written.
        """
        before = self._size()
        try:
            latest = self._latest(source, trust)
            self._fill(source, trust, latest, tell or _nobody)
        except ForkError as fork:
            if evidence is not None:
                _keep_evidence(evidence, fork)
            raise
        return Synced(self._size() - before, self._size())

    def _size(self) -> int:
        kept = self.reader.latest_checkpoint()
        return kept.size if kept else 0

    def _latest(self, source: LedgerSource, trust: Trust) -> _Seen:
        """Return the source's latest checkpoint, whose ledger begins with the copy."""
        kept = self.reader.latest_checkpoint()
        if kept is None:
            note, _ = source.latest(0)
            return _Seen(trust.open(note), note)
        known = _Seen(trust.open(kept.note), kept.note)
        try:
            note, proof = source.latest(kept.size)
        except LedgerError:
            note, proof = source.latest(0)[0], ()  # it is not so large, or will not prove it: what it shows is evidence
        shown = _Seen(trust.open(note), note)
        try:
            verify_consistency(
                known.checkpoint.size, shown.checkpoint.size, proof, known.checkpoint.root, shown.checkpoint.root
            )
        except LedgerError:
            raise _fork(self.reader, source, known, shown) from None
        return shown

    def _fill(self, source: LedgerSource, trust: Trust, latest: _Seen, tell: Tell) -> None:
        """Take every checkpoint up to the latest, with the entries that it covers; each page is kept as it is there."""
        last = [int(size) for (size,) in self.reader.rows(_LAST, ASKED_AGAIN)]
        above = max(0, last[-1] - 1) if last else 0
        while above < latest.checkpoint.size:
            page = _page(source, trust, above, latest)
            with self._write() as db:
                for seen in page:
                    _take(db, trust, source, seen)
                    tell(seen.checkpoint.size, latest.checkpoint.size)
            above = page[-1].checkpoint.size
        if not last and not latest.checkpoint.size:
            with self._write() as db:
                _take(db, trust, source, latest)


def _page(source: LedgerSource, trust: Trust, above: int, latest: _Seen) -> list[_Seen]:
    """Return the next checkpoints up to the latest, which ends them if the source has no more."""
    seen = [_Seen(trust.open(note), note) for note in source.checkpoints(above)]
    page = [one for one in seen if one.checkpoint.size <= latest.checkpoint.size]
    sizes = [above, *(one.checkpoint.size for one in page)]
    if sizes != sorted(set(sizes)):
        raise LedgerError("checkpoints come out of order", advice="Nothing was kept. Try again; then ask the operator.")
    return page or [latest]


def _take(db: sqlite3.Connection, trust: Trust, source: LedgerSource, seen: _Seen) -> None:
    """Keep a checkpoint and the entries that it covers, in the caller's transaction."""
    reader = Reader(lambda sql, *values: db.execute(sql, values).fetchall())
    size = seen.checkpoint.size
    alone, lines = trust.taken_apart(seen.note)
    there = reader.size()
    if size < there and reader.checkpoint(size) is None:
        return  # the server signed more of them than it showed before; those that are kept are enough
    if (kept := reader.checkpoint(size)) is not None:
        known = _Seen(trust.open(kept.note), kept.note)
        if known.checkpoint != seen.checkpoint:
            raise _fork(reader, source, known, seen)
    while there < size:
        fresh = list(source.entries(there, min(ENTRIES_AT_ONCE, size - there)))
        if not fresh or len(fresh) > size - there:
            raise LedgerError(
                "entries are held back", got=f"{there} entries", expected=f"the {size} that a checkpoint counts",
                advice="Nothing after the last kept checkpoint was kept. Try again; then ask the operator.",
            )  # fmt: skip
        append(db, fresh, [None] * len(fresh))
        there += len(fresh)
    _check_root(reader, seen.checkpoint)
    keep_checkpoint(db, alone)
    for name, line in lines.items():
        keep_cosignature(db, size, name, line)


def _check_root(reader: Reader, checkpoint: Checkpoint) -> None:
    if reader.root(checkpoint.size) == checkpoint.root:
        return
    before = reader.latest_checkpoint()
    raise LedgerError(
        "entries are not those that the server signed",
        got=f"another root of {checkpoint.size} entries",
        expected=f"the one of its checkpoint; the first {before.size if before else 0} entries hold",
        advice="Nothing from there on was kept. Get it again by another way; then ask the operator of the server.",
    )


def _fork(reader: Reader, source: LedgerSource, known: _Seen, shown: _Seen) -> ForkError:
    """Return an error that says how two checkpoints contradict each other, and from which entry on, if that shows."""
    sizes = known.checkpoint.size, shown.checkpoint.size
    lost = sizes[1] < sizes[0] and reader.root(sizes[1]) == shown.checkpoint.root
    first = None if lost else _first_difference(reader, source, min(sizes))
    if lost:
        words = "the ledger has lost entries that were seen before"
    elif first is not None or sizes[1] <= sizes[0]:
        words = "the ledger is another one than was seen before: its history was rewritten"
    else:
        words = "the server does not show that its ledger holds what was seen of it before"
    got = f"{sizes[1]} entries" + ("" if first is None else f", other ones from entry {first} on")
    return ForkError(words, known.note, shown.note, got=got, expected=f"the {sizes[0]} that were seen before, and more")


def _first_difference(reader: Reader, source: LedgerSource, size: int) -> int | None:
    """Return the first entry in which the source differs from the copy; None where it shows none."""
    start = 0
    try:
        while start < size:
            theirs = list(source.entries(start, min(ENTRIES_AT_ONCE, size - start)))[: size - start]
            ours = list(reader.entries(start, start + len(theirs)))
            for index, (one, other) in enumerate(zip(ours, theirs, strict=True), start):
                if one != other:
                    return index
            if not theirs:
                return None
            start += len(theirs)
    except BottegaError:
        return None
    return None


def _keep_evidence(folder: Path, fork: ForkError) -> None:
    """Keep both checkpoints; of the same contradiction once."""
    mark = hashlib.sha256(fork.known + b"\x00" + fork.shown).hexdigest()[:16]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in (("known", fork.known), ("shown", fork.shown)):
        replace(folder / f"{mark}-{name}.note", [content], error=LedgerError, mode=PUBLIC)


def _nobody(there: int, whole: int) -> None:
    """Is told, and tells nobody."""
