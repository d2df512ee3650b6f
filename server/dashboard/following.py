"""Follows a ledger as it grows: reads each entry once into the table of places, and has the whole verified again.

Several threads, so that a verification of a million entries holds up no news, nor a server that does not answer. What
they find is one :class:`Standing`, which every page shows: a ledger that does not hold is shown as such everywhere, and
from which entry on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from common.errors import BottegaError, LedgerError
from security.audit.finding import Finding, faults
from security.audit.record import Record
from security.audit.verification import verify_record
from security.ledger import Reader
from security.ledger_check import LedgerCheck, verify
from security.merkle import leaf_hash
from server.dashboard.places import Places, row

if TYPE_CHECKING:
    from types import TracebackType

    from server.dashboard.ledger_file import LedgerFile

log = logging.getLogger("bottega.dashboard")

BATCH = 500
"""Entries that are read at once; pages are served in between."""

_LOOK_S = 0.25
_ASK_S = 5.0
_REST = 20.0  # a verification is followed by a pause of so many times its length, so that it takes 5 % of one core
_LEAST_REST_S = 0.5
_ANYWAY_S = 600.0  # SQLite tells of no change that was made behind its back
_MOST_OWN = 20
_ROWS = 'SELECT "index", hash, entry FROM ledger_entries WHERE "index" >= ? ORDER BY "index" LIMIT ?'


@dataclass(frozen=True)
class Standing:
    """How the ledger stands.

    Attributes:
        read: Entries that were read, from the first.
        size: Entries that are there.
        check: The last verification of every hash and signature; None until the first is done.
        checked_at: When that was, Unix seconds.
        took: How long it took, seconds.
        sense: What the last reading of every entry found, which takes longer and is done less often.
        noticed: What was found besides, while entries were read.
        version: Another number whenever anything of this has changed.
    """

    read: int = 0
    size: int = 0
    check: LedgerCheck | None = None
    checked_at: float = 0.0
    took: float = 0.0
    sense: tuple[Finding, ...] = ()
    noticed: tuple[Finding, ...] = ()
    version: int = 0

    @property
    def told(self) -> list[Finding]:
        """What the verifications found."""
        return [*(self.check.findings if self.check else ()), *self.sense]

    @property
    def faults(self) -> list[Finding]:
        """Everything that a sound ledger has not got, by the entries that it is about."""
        found = faults({(one.what, one.entry): one for one in (*self.noticed, *self.told)}.values())
        return [*(one for one in found if one.entry is not None), *(one for one in found if one.entry is None)]

    @property
    def bad_from(self) -> int | None:
        """The entry from which on the ledger does not hold; None where it holds, or no entry can be named."""
        return min((one.entry for one in self.faults if one.entry is not None), default=None)

    @property
    def holds(self) -> bool | None:
        """Whether the whole was verified and held; None before that is known."""
        if self.faults:
            return False
        return True if self.check is not None else None


class Follower:
    """Follows one ledger while it is entered as a context.

    Args:
        file: What is followed.
        places: Filled from it.
    """

    def __init__(self, file: LedgerFile, places: Places) -> None:
        self._file, self._places = file, places
        self._lock = threading.Lock()
        self._standing = Standing()
        self._stop, self._look, self._verify = threading.Event(), threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._carry, args=(work,), name=f"dashboard-{work.__name__}", daemon=True)
            for work in (self._follow, self._check, self._refresh)
        ]

    @property
    def standing(self) -> Standing:
        """How the ledger stands at this moment."""
        return self._standing

    @property
    def stopping(self) -> bool:
        """Whether it has come to its end."""
        return self._stop.is_set()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for thread in self._threads:
            thread.join(timeout=10)

    def stop(self) -> None:
        """Come to an end soon."""
        self._stop.set()
        self._look.set()
        self._verify.set()

    def doubt(self, index: int) -> None:
        """Take note that an entry is another one than was written."""
        self._notice(_changed(index))
        self._verify.set()

    def _carry(self, work: object) -> None:
        """Do one thread's work; that it broke is said on every page."""
        try:
            work()  # type: ignore[operator]
        except Exception as cause:
            if not self.stopping:
                log.exception("the ledger is followed no longer")
                self._notice(Finding("broken", f"the ledger is followed no longer: {type(cause).__name__}"))

    # -- the thread that reads -----------------------------------------------------------------------------------------

    def _follow(self) -> None:
        with contextlib.closing(self._file.open()) as db:
            reader, version = Reader(lambda sql, *values: db.execute(sql, values).fetchall()), None
            while not self.stopping:
                try:
                    seen = db.execute("PRAGMA data_version").fetchone()[0]
                    if seen != version:
                        self._catch_up(reader)
                        self._verify.set()
                        version = seen
                except BottegaError as why:
                    self._notice(Finding("unreadable", f"the ledger cannot be read: {why.got or why.what}"))
                self._look.wait(_LOOK_S)

    def _catch_up(self, reader: Reader) -> None:
        size, read = reader.size(), self._standing.read
        if size < read:
            self._notice(Finding("truncated", f"{read} entries were there, and {size} are", size))
        self._change(size=max(size, read))
        while not self.stopping and (rows := reader.rows(_ROWS, read, BATCH)):
            taken = []
            for index, kept, entry in rows:
                if index != read or not isinstance(entry, bytes):
                    self._notice(Finding("missing", f"entry {read} is missing", read))
                leaf = leaf_hash(bytes(entry))
                if leaf != kept:
                    self._notice(_changed(index))
                taken.append(row(index, leaf, entry))
                read = index + 1
            self._places.take(taken)
            self._change(read=read, size=max(read, self._standing.size))

    # -- the thread that brings a copy up to date ----------------------------------------------------------------------

    def _refresh(self) -> None:
        while self._file.refresh is not None and not self._stop.wait(_ASK_S):
            try:
                self._file.refresh()
            except LedgerError as why:  # what the server shows now is not what it showed before
                self._notice(Finding("copy", f"the server's ledger and this copy part: {why.what}"))
            except BottegaError as why:
                log.warning("the copy is not brought up to date: %s", why.what)

    # -- the thread that verifies --------------------------------------------------------------------------------------

    def _check(self) -> None:
        with contextlib.closing(self._file.open()) as db:
            reader = Reader(lambda sql, *values: db.execute(sql, values).fetchall())
            stale, due = True, 0.0
            while True:
                woken = self._verify.wait(max(0.0, due - time.monotonic()) if stale else _ANYWAY_S)
                self._verify.clear()
                if self.stopping:
                    return
                if woken or not stale:
                    self._check_hashes(reader)
                    stale = True
                if stale and time.monotonic() >= due:
                    due = time.monotonic() + _REST * self._check_sense(reader)
                    stale = False
                self._stop.wait(max(_LEAST_REST_S, _REST * self._standing.took))

    def _check_hashes(self, reader: Reader) -> None:
        begun = time.monotonic()
        try:
            trust = self._file.trust()
            found = verify(reader, trust.origin, trust.server[0], trust.witnesses)
        except BottegaError as why:  # the roster cannot be believed
            found = LedgerCheck([Finding("trust", f"nothing can be held against the server's keys: {why.what}")])
        self._change(check=found, checked_at=time.time(), took=time.monotonic() - begun)

    def _check_sense(self, reader: Reader) -> float:
        """Read what every entry says; return how long that took, seconds."""
        begun = time.monotonic()
        with contextlib.suppress(BottegaError):  # it cannot be read, which the check of the hashes has told
            told = verify_record(Record(reader, self._file.trust(), self._file.kind))
            self._change(sense=tuple(told.findings))
        return time.monotonic() - begun

    # -- both ----------------------------------------------------------------------------------------------------------

    def _notice(self, found: Finding) -> None:
        with self._lock:
            noticed = self._standing.noticed
            if len(noticed) >= _MOST_OWN or any((one.what, one.entry) == (found.what, found.entry) for one in noticed):
                return
            log.error("%s", found.words)
        self._change(noticed=(*noticed, found))

    def _change(self, **what: object) -> None:
        with self._lock:
            self._standing = replace(self._standing, version=self._standing.version + 1, **what)  # type: ignore[arg-type]


def _changed(index: int) -> Finding:
    return Finding("entry", f"entry {index} is not what was written: its hash is another", index)
