"""Whether a ledger holds: every hash made again from the entries, every signature held to them.

Nothing that is stored is believed. Entries are read once, in order and a page at a time; from them every leaf, node and
root is made anew and compared with what is kept. What a checkpoint vouches for is known up to there, so when something
does not fit, the first entry that may be another than it was is the one after the last checkpoint that did.

Whoever has the server's file and its key can still write another history. That is what witnesses are for: the
checkpoints that they hold can be given here, and are held to the ledger like its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from common.errors import BottegaError, LedgerError
from security.audit.finding import Finding
from security.checkpoint import Checkpoint, cosigners, open_checkpoint
from security.keys import VerifyKey
from security.ledger import PAGE, Reader
from security.ledger_marks import Mark, Marks, Source, why_of
from security.ledger_schema import OBJECTS, TABLES
from security.merkle import Frontier, Node, leaf_hash
from security.note import NoteKey, SignatureKind, read_line

_ENTRIES = 'SELECT "index", hash, entry FROM ledger_entries WHERE "index" > ? ORDER BY "index" LIMIT ?'
_NODES = "SELECT place, hash FROM ledger_nodes WHERE place > ? ORDER BY place LIMIT ?"
_LAST_NODE = "SELECT coalesce(max(place), -1) + 1 FROM ledger_nodes"
_ORPHANS = (
    "SELECT min(size) FROM ledger_cosignatures "
    "WHERE NOT EXISTS (SELECT 1 FROM ledger_checkpoints c WHERE c.size = ledger_cosignatures.size)"
)
_SCHEMA = "SELECT name, sql FROM sqlite_master WHERE name LIKE 'ledger_%'"
_BEFORE_ALL = -(2**63)

Row = tuple[Any, ...]
T = TypeVar("T")


@dataclass
class LedgerCheck:
    """What was found.

    Attributes:
        findings: Of each kind the one of the first entry, and how many more; a ledger that holds has no faults.
        size: Entries that could be read, from the first without a gap.
        root: Of their tree.
        vouched: Entries that a checkpoint vouches for, by its signature and its root.
        checkpoints: Those that hold.
        witnesses: By name of the witness, the size of the largest checkpoint that it cosigned.
    """

    findings: list[Finding] = field(default_factory=list)
    size: int = 0
    root: bytes = b""
    vouched: int = 0
    checkpoints: int = 0
    witnesses: dict[str, int] = field(default_factory=dict)


def verify(
    reader: Reader, origin: str, key: VerifyKey, witnesses: Iterable[NoteKey] = (), seen: Iterable[bytes] = ()
) -> LedgerCheck:
    """Check a whole ledger. Never raises for what the file holds: that it cannot be read is a finding.

    A million entries take some seconds, and no more memory than a thousand.

    Args:
        reader: Of the ledger.
        origin: Its name.
        key: Of its server.
        witnesses: Keys of cosigners (:func:`security.checkpoint.cosigner_key`); the old ones, too, of who changed them.
        seen: Checkpoints that somebody else was shown, as notes: by a site, in an export, on paper.

    Returns:
        What was found: faults by the entry from which on the ledger does not hold, then remarks.
    """
    walk = _Walk(reader, origin, key, [one for one in witnesses if one.kind is SignatureKind.COSIGNATURE])
    walk.check(list(seen))
    return walk.result


class _Report:
    """Findings: of each kind the one that names the first entry, and how many there were."""

    def __init__(self) -> None:
        self._first: dict[str, Finding] = {}
        self._count: dict[str, int] = {}

    def add(self, what: str, words: str, entry: int | None, *, fault: bool = True) -> None:
        one = Finding(what, words, entry, fault)
        self._count[what] = self._count.get(what, 0) + 1
        if what not in self._first or self._place(one) < self._place(self._first[what]):
            self._first[what] = one

    def findings(self) -> list[Finding]:
        told = []
        for what, one in self._first.items():
            more = f" (and {self._count[what] - 1} more of the kind)" if self._count[what] > 1 else ""
            told.append(Finding(what, one.words + more, one.entry, one.fault))
        return sorted(told, key=lambda one: (not one.fault, self._place(one)))

    @staticmethod
    def _place(one: Finding) -> float:
        return float("inf") if one.entry is None else one.entry


class _Walk:
    """One reading of a ledger from its first entry to its last."""

    def __init__(self, reader: Reader, origin: str, key: VerifyKey, witnesses: list[NoteKey]) -> None:
        self._reader, self._origin, self._key = reader, origin, key
        self._witnesses = {(one.name, one.id): one for one in witnesses}
        self._report, self._frontier = _Report(), Frontier()
        self._wrong = -1  # where the last thing that did not fit begins: hashes over it need not be told of
        self._agreed = 0  # entries that a checkpoint from elsewhere vouches for, too
        self.result = LedgerCheck()

    def check(self, seen: list[bytes]) -> None:
        """Read everything, and leave what was found in :attr:`result`."""
        # What is written while this goes on must not look as if it were too much: so these are asked first.
        last_checkpoint, last_node = self._ask(self._last_checkpoint, -1), self._ask(self._nodes_kept, 0)
        self._check_schema()
        kept = (one for one in self._reader.checkpoints() if one.size <= last_checkpoint)
        marks = Marks(Source(kept), self._given(seen))
        whole = self._read_entries(marks)
        self._behind_the_end(marks, last_node, whole=whole)
        if marks.kept.trouble:
            self._unreadable("checkpoints", self.result.vouched, marks.kept.trouble)
        self._check_orphans()
        self._check_file()
        self._close()

    def _read_entries(self, marks: Marks) -> bool:
        """Go through all entries; return whether their end was reached, and not only a gap."""
        frontier = self._frontier
        entries, nodes = Source(self._pages(_ENTRIES, PAGE)), Source(self._pages(_NODES, 16 * PAGE))
        self._hold(marks)
        while (row := entries.take()) is not None:
            index, kept, entry = row
            if index != frontier.size or not isinstance(entry, bytes):
                words = f"entry {frontier.size} is missing" if index != frontier.size else f"entry {index} is no bytes"
                self._report.add("missing", words, frontier.size)
                return False
            leaf = leaf_hash(entry)
            if kept != leaf:
                self._wrong = index
                self._report.add("entry", f"entry {index} is not what was written: its hash is another", index)
            for node in frontier.append(leaf):
                if not nodes.trouble:
                    self._compare(node, nodes)
            if marks.due <= frontier.size:
                self._hold(marks)
        if entries.trouble:
            self._unreadable("entries", frontier.size, entries.trouble)
        return not entries.trouble

    def _compare(self, node: Node, nodes: Source[Row]) -> None:
        """Hold the next stored node to what it must be."""
        before = self._frontier.size - 1
        place = before - before.bit_count() + node.level - 1
        if nodes.take() == (place, node.hash):
            return
        start, end = node.number << node.level, (node.number + 1) << node.level
        if nodes.trouble:
            self._unreadable("hashes", start, nodes.trouble)
        elif self._wrong < start:
            words = f"entries {start} to {end - 1} have not the hash that is kept: one was changed, or the hash was"
            self._report.add("node", words, start)
        self._wrong = max(self._wrong, start)

    def _hold(self, marks: Marks) -> None:
        """Hold the checkpoints of this size to the entries so far."""
        held: list[Mark] = []
        while marks.due <= self._frontier.size and (mark := marks.next()) is not None:
            checkpoint = self._signed(mark)
            if checkpoint is None:
                continue
            if checkpoint.root == self._frontier.root():
                self.result.checkpoints += not mark.given
                held.append(mark)
            elif mark.given:
                words = f"the server signed another ledger of {mark.size} entries elsewhere: they may differ from"
                self._report.add("fork", f"{words} entry {self._agreed} on", self._agreed)
            else:
                since = self.result.vouched
                words = f"the server signed another ledger of {mark.size} entries: something was changed from"
                self._report.add("root", f"{words} entry {since} on", since)
        for mark in held:
            self.result.vouched = mark.size
            self._agreed = mark.size if mark.given else self._agreed

    def _signed(self, mark: Mark) -> Checkpoint | None:
        """Return what a checkpoint says, if the server signed it; hold what witnesses said of it to it."""
        try:
            checkpoint = open_checkpoint(mark.note, self._origin, self._key)
            if checkpoint.size != mark.size:
                raise LedgerError("it is kept under another size", got=mark.size)
        except BottegaError as why:
            words = f"a checkpoint of {mark.size} entries is not the server's: {why_of(why)}"
            self._report.add("signature", words, self.result.vouched)
            return None
        if not mark.given:
            self._check_cosignatures(mark)
        return checkpoint

    def _check_cosignatures(self, mark: Mark) -> None:
        lines: dict[str, bytes] = self._ask(lambda: self._reader.cosignatures(mark.size), {})
        for name, line in lines.items():
            try:
                self._check_cosignature(mark, name, line)
            except BottegaError as why:
                words = f"a cosignature of the checkpoint of {mark.size} entries does not hold: {why_of(why)}"
                self._report.add("cosignature", words, None)

    def _check_cosignature(self, mark: Mark, name: str, line: bytes) -> None:
        said = read_line(line)
        if said.name != name:
            raise LedgerError("it is kept under another name")
        by = self._witnesses.get((name, said.blob[:4]))
        if by is None:
            words = f"{name} cosigned the checkpoint of {mark.size} entries with a key that is not known here"
            self._report.add("unknown-witness", words, None, fault=False)
            return
        cosigners(mark.note + line, [by])
        self.result.witnesses[name] = max(self.result.witnesses.get(name, 0), mark.size)

    def _behind_the_end(self, marks: Marks, last_node: int, *, whole: bool) -> None:
        """Tell of what speaks of entries that are not there; it cannot vouch for those that are, either."""
        size, since = self._frontier.size, self.result.vouched
        what, there = ("truncated", f"{size} are there") if whole else ("unheld", f"{size} can be read")
        while (mark := marks.next()) is not None:
            if self._signed(mark) is not None:
                words = f"the server signed a ledger of {mark.size} entries, and {there}: nothing is sure from"
                self._report.add(what, f"{words} entry {since} on", since)
        if whole and last_node > size - size.bit_count():
            self._report.add(what, f"{there}, and hashes over more: nothing is sure from entry {since} on", since)

    def _check_orphans(self) -> None:
        rows: list[Row] = self._ask(lambda: self._reader.rows(_ORPHANS), [])
        if rows and rows[0][0] is not None:
            words = f"a witness cosigned a checkpoint of {rows[0][0]} entries that is not there any more"
            self._report.add("checkpoint-missing", words, None)

    def _check_schema(self) -> None:
        """Tell of what SQLite was to refuse and no longer does."""
        rows: list[Row] = self._ask(lambda: self._reader.rows(_SCHEMA), [])
        there = {name: " ".join(str(sql).split()) for name, sql in rows}
        for name, sql in OBJECTS.items():
            if there.get(name) != sql:
                words = f"the file no longer keeps the ledger append-only by itself: {name} is missing or changed"
                self._report.add("schema", words, None)

    def _check_file(self) -> None:
        """Tell of damage to the file itself: it may have answered rightly here, and answer wrongly elsewhere."""
        for table in TABLES:
            said = self._integrity(table)
            if said != "ok":
                of_entries = table in {"ledger_entries", "ledger_nodes"}
                self._report.add("damaged", f"the file is damaged where {table} is: {said}", 0 if of_entries else None)

    def _integrity(self, table: str) -> str:
        try:
            rows = self._reader.rows(f"PRAGMA integrity_check({table})")
        except BottegaError as why:
            return why_of(why)
        return " ".join(str(rows[0][0]).split())[:200] if rows else "no answer"

    def _close(self) -> None:
        result, size = self.result, self._frontier.size
        if size > result.vouched:
            words = f"no checkpoint vouches for entries {result.vouched} to {size - 1}"
            self._report.add("unsigned", words, result.vouched, fault=False)
        result.size, result.root, result.findings = size, self._frontier.root(), self._report.findings()

    def _given(self, seen: list[bytes]) -> list[Mark]:
        marks = []
        for note in seen:
            try:
                marks.append(Mark(open_checkpoint(note, self._origin, self._key).size, bytes(note), given=True))
            except BottegaError as why:
                self._report.add("given", f"a checkpoint that was given is not the server's: {why_of(why)}", None)
        return sorted(marks, key=lambda mark: mark.size)

    def _pages(self, sql: str, rows: int) -> Iterator[Row]:
        last = _BEFORE_ALL
        while page := self._reader.rows(sql, last, rows):
            yield from page
            last = page[-1][0]

    def _last_checkpoint(self) -> int:
        latest = self._reader.latest_checkpoint()
        return -1 if latest is None else latest.size

    def _nodes_kept(self) -> int:
        return int(self._reader.rows(_LAST_NODE)[0][0])

    def _ask(self, question: Callable[[], T], otherwise: T) -> T:
        """Return an answer; that there is none is told."""
        try:
            return question()
        except BottegaError as why:
            self._unreadable("tables", self.result.vouched, why_of(why))
            return otherwise

    def _unreadable(self, what: str, entry: int, trouble: str) -> None:
        words = f"the ledger's {what} cannot be read, and nothing is sure from entry {entry} on: {trouble}"
        self._report.add("unreadable", words, entry)
