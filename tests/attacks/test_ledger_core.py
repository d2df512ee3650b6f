"""The ledger under attack: whatever is done to its file, the check finds it and names an entry at or before it.

The attacker here has the file: triggers do not stop them, and they make every hash anew where they can. Where they have
the server's key too, it is what witnesses hold that finds them out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.errors import BottegaError, LedgerError
from security.audit.finding import Finding, faults
from security.checkpoint import Checkpoint, cosign, sign_checkpoint
from security.ledger import LEDGER_SCHEMA, Reader
from security.ledger_schema import TABLES
from security.merkle import Frontier, leaf_hash, verify_consistency, verify_inclusion
from security.note import split_note
from tests.small_ledgers import MALLORY, ORIGIN, SERVER, WITNESSES, Log, build, check, entry, reading

PRADO, UFFIZI = WITNESSES


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A ledger of 20 entries, with checkpoints of 5, 10, 15 and 20 of them."""
    build(tmp_path / "log.db", 20)
    return tmp_path / "log.db"


@contextmanager
def forcing(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a ledger's file as somebody who first takes the triggers away, and puts them back when they are done."""
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        yield db
        db.executescript(LEDGER_SCHEMA)


def rehash(db: sqlite3.Connection) -> None:
    """Make every hash anew, so that entries and hashes fit again."""
    frontier, nodes = Frontier(), []
    entries = [one for (one,) in db.execute('SELECT entry FROM ledger_entries ORDER BY "index"')]
    for one in entries:
        nodes += [node.hash for node in frontier.append(leaf_hash(one))]
    db.execute("DELETE FROM ledger_entries")
    db.execute("DELETE FROM ledger_nodes")
    db.executemany(
        "INSERT INTO ledger_entries VALUES (?, ?, ?)", [(i, leaf_hash(one), one) for i, one in enumerate(entries)]
    )
    db.executemany("INSERT INTO ledger_nodes VALUES (?, ?)", enumerate(nodes))


def found(file: Path, *seen: bytes) -> list[Finding]:
    return faults(check(file, seen).findings)


def first(findings: list[Finding]) -> int:
    named = [one.entry for one in findings if one.entry is not None]
    assert named, findings
    return min(named)


def change(db: sqlite3.Connection, at: int) -> None:
    db.execute('UPDATE ledger_entries SET entry = ? WHERE "index" = ?', (b"another", at))


def drop(db: sqlite3.Connection, at: int) -> None:
    db.execute('DELETE FROM ledger_entries WHERE "index" = ?', (at,))


def close_up(db: sqlite3.Connection, at: int) -> None:
    drop(db, at)
    db.execute('UPDATE ledger_entries SET "index" = "index" - 1 WHERE "index" > ?', (at,))


def swap(db: sqlite3.Connection, at: int) -> None:
    one, other = (
        db.execute('SELECT hash, entry FROM ledger_entries WHERE "index" = ?', (i,)).fetchone() for i in (at, at + 1)
    )
    for index, (kept, content) in ((at, other), (at + 1, one)):
        db.execute('UPDATE ledger_entries SET hash = ?, entry = ? WHERE "index" = ?', (kept, content, index))


def insert(db: sqlite3.Connection, at: int) -> None:
    db.execute('UPDATE ledger_entries SET "index" = -"index" - 1 WHERE "index" >= ?', (at,))
    db.execute('UPDATE ledger_entries SET "index" = -"index" WHERE "index" < 0')
    db.execute("INSERT INTO ledger_entries VALUES (?, ?, ?)", (at, leaf_hash(b"never was"), b"never was"))


def cut(db: sqlite3.Connection, at: int) -> None:
    db.execute('DELETE FROM ledger_entries WHERE "index" >= ?', (at,))


ATTACKS = [change, drop, close_up, swap, insert, cut]


@pytest.mark.parametrize("at", [0, 1, 7, 9, 13, 18])
@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_done_to_an_entry_is_found_and_the_entry_named(
    file: Path, attack: Callable[[sqlite3.Connection, int], None], at: int
) -> None:
    with forcing(file) as db:
        attack(db, at)
    findings = found(file)
    assert first(findings) <= at
    assert first(findings) >= at - at % 5, "not before the last checkpoint that holds"
    assert any(f"{first(findings)}" in one.words for one in findings)


@pytest.mark.parametrize("at", [0, 1, 7, 9, 13, 18])
@pytest.mark.parametrize("attack", ATTACKS)
def test_making_all_hashes_anew_does_not_hide_it(
    file: Path, attack: Callable[[sqlite3.Connection, int], None], at: int
) -> None:
    with forcing(file) as db:
        attack(db, at)
        rehash(db)
    findings = found(file)
    assert at - at % 5 <= first(findings) <= at
    assert {one.what for one in findings} <= {"root", "truncated"}


@pytest.mark.parametrize("at", range(20))
def test_a_changed_entry_is_named_itself(file: Path, at: int) -> None:
    with forcing(file) as db:
        change(db, at)
    assert [one.entry for one in found(file) if one.what == "entry"] == [at]


@pytest.mark.parametrize("at", range(20))
def test_a_missing_entry_is_named_itself(file: Path, at: int) -> None:
    with forcing(file) as db:
        drop(db, at)
    told = [(one.what, one.entry) for one in found(file)]
    assert ("missing", at) in told or (at == 19 and ("truncated", 15) in told)
    assert first(found(file)) == at - at % 5


def test_a_hash_that_was_changed_is_found(file: Path) -> None:
    places = 20 - (20).bit_count()
    for place in range(places):
        with forcing(file) as db:
            kept = db.execute("SELECT hash FROM ledger_nodes WHERE place = ?", (place,)).fetchone()[0]
            db.execute("UPDATE ledger_nodes SET hash = zeroblob(32) WHERE place = ?", (place,))
        assert {one.what for one in found(file)} == {"node"}
        with forcing(file) as db:
            db.execute("UPDATE ledger_nodes SET hash = ? WHERE place = ?", (kept, place))
    assert found(file) == []


def test_a_ledger_cut_with_its_checkpoints_is_found_by_who_saw_more(file: Path) -> None:
    with Log(file) as log:
        latest = log.reader.latest_checkpoint()
    assert latest is not None
    with forcing(file) as db:
        db.execute("DELETE FROM ledger_cosignatures WHERE size > 10")
        db.execute("DELETE FROM ledger_checkpoints WHERE size > 10")
        cut(db, 10)
        rehash(db)
    assert found(file) == []  # nothing in the file tells of it
    seen = found(file, latest.note)
    assert [(one.what, one.entry) for one in seen] == [("truncated", 10)]
    assert "20" in seen[0].words
    shown = check(file)
    with pytest.raises(LedgerError):  # and a witness sees it at once
        verify_consistency(20, shown.size, [], read_root(latest.note), shown.root)


def test_a_dropped_checkpoint_is_missed_by_its_witnesses(file: Path) -> None:
    with forcing(file) as db:
        db.execute("DELETE FROM ledger_checkpoints WHERE size = 15")
    assert [one.what for one in found(file)] == ["checkpoint-missing"]


def fork(file: Path, at: int) -> Path:
    """Make the ledger that a server shows to somebody else: the same up to an entry, signed with the same key."""
    other = file.with_name("fork.db")
    with Log(file) as log:
        entries = list(log.reader.entries())
    with Log(other) as log:
        for start in range(0, 20, 5):
            log.write(*[b"otherwise" if number == at else entries[number] for number in range(start, start + 5)])
            log.sign(by=list(WITNESSES))
    return other


@pytest.mark.parametrize("at", [0, 4, 5, 13, 19])
def test_two_histories_with_one_key_are_found_when_two_compare(file: Path, at: int) -> None:
    other = fork(file, at)
    assert found(file) == found(other) == []
    with Log(file) as log:
        seen = [one.note for one in log.reader.checkpoints()]
    assert [(one.what, one.entry) for one in found(other, *seen)] == [("fork", at - at % 5)]
    assert [(one.what, one.entry) for one in found(other, seen[-1])] == [
        ("fork", 0)
    ]  # who saw only the last knows less
    with Log(file) as mine, Log(other) as theirs:
        for size in range(at + 1, 20):
            proof = theirs.reader.consistency(size, 20)
            with pytest.raises(LedgerError):
                verify_consistency(size, 20, proof, mine.reader.root(size), theirs.reader.root(20))
        with pytest.raises(LedgerError):
            verify_consistency(20, 20, [], mine.reader.root(20), theirs.reader.root(20))
        proof = theirs.reader.inclusion(at, 20)
        with pytest.raises(LedgerError):
            verify_inclusion(leaf_hash(mine.reader.entry(at)), at, 20, proof, theirs.reader.root(20))


def test_an_old_checkpoint_is_no_new_one(file: Path) -> None:
    with Log(file) as log:
        old = log.reader.checkpoint(10)
        assert old is not None
        with log._write() as db, pytest.raises(sqlite3.IntegrityError):
            db.execute("INSERT OR REPLACE INTO ledger_checkpoints VALUES (20, ?)", (old.note,))
        with pytest.raises(LedgerError):
            verify_consistency(20, 10, log.reader.consistency(10, 20), log.reader.root(20), read_root(old.note))
    with forcing(file) as db:
        db.execute("UPDATE ledger_checkpoints SET note = ? WHERE size = 20", (old.note,))
    findings = found(file)
    assert {one.what for one in findings} == {"signature"}
    assert first(findings) == 15


def test_a_checkpoint_signed_with_another_key_is_found(file: Path) -> None:
    with Log(file) as log:
        root = log.reader.root(20)
    with forcing(file) as db:
        note = sign_checkpoint(Checkpoint(ORIGIN, 20, root), MALLORY)
        db.execute("UPDATE ledger_checkpoints SET note = ? WHERE size = 20", (note,))
    assert [(one.what, one.entry) for one in found(file)] == [("signature", 15)]


def test_a_checkpoint_of_another_ledger_is_found(file: Path) -> None:
    with Log(file) as log:
        root = log.reader.root(20)
    with forcing(file) as db:
        note = sign_checkpoint(Checkpoint("elsewhere.example/bottega", 20, root), SERVER)
        db.execute("UPDATE ledger_checkpoints SET note = ? WHERE size = 20", (note,))
    assert [(one.what, one.entry) for one in found(file)] == [("signature", 15)]


def test_a_cosignature_by_another_or_of_another_checkpoint_is_found(file: Path) -> None:
    with Log(file) as log:
        kept = {size: log.reader.checkpoint(size) for size in (15, 20)}
    assert kept[15] is not None
    assert kept[20] is not None
    right = cosign(kept[20].note, PRADO, WITNESSES[PRADO], 9)
    wrong = [
        cosign(kept[15].note, PRADO, WITNESSES[PRADO], 9),  # of another checkpoint
        cosign(kept[20].note, UFFIZI, WITNESSES[UFFIZI], 9),  # another's, under this name
        right[:-8] + b"AAAAAA=\n", b"no line", b"",
    ]  # fmt: skip
    for line in wrong:
        with forcing(file) as db:
            db.execute("UPDATE ledger_cosignatures SET line = ? WHERE size = 20 AND name = ?", (line, PRADO))
        assert {one.what for one in found(file)} == {"cosignature"}
        assert check(file).witnesses == {PRADO: 15, UFFIZI: 20}
    with forcing(file) as db:  # a key of somebody's own under the site's name is nobody's
        own = cosign(kept[20].note, PRADO, MALLORY, 9)
        db.execute("UPDATE ledger_cosignatures SET line = ? WHERE size = 20 AND name = ?", (own, PRADO))
    assert check(file).witnesses == {PRADO: 15, UFFIZI: 20}


@pytest.mark.parametrize("seen", [b"", b"no note", b"a\n1\nAAAA\n\n\xe2\x80\x94 a AAAA\n"])
def test_what_was_given_and_is_no_checkpoint_is_told(file: Path, seen: bytes) -> None:
    assert [one.what for one in found(file, seen)] == ["given"]


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_is_gone_is_found(file: Path, table: str) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute(f"DROP TABLE {table}")
    assert {"schema"} <= {one.what for one in found(file)}


def test_triggers_that_are_gone_are_found(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("DROP TRIGGER ledger_entries_kept")
    assert [one.what for one in found(file)] == ["schema"]


def test_writing_on_over_a_rewritten_past_is_found_by_what_was_signed(file: Path) -> None:
    with forcing(file) as db:
        change(db, 7)
        rehash(db)
    with Log(file) as log:
        log.write(entry(20), entry(21))
        log.sign()  # the server itself did not notice
    findings = found(file)
    assert first(findings) == 5
    assert {one.what for one in findings} == {"root"}


def test_a_file_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    contents = {"empty": b"", "text": b"nothing of a database\n" * 999, "header": b"SQLite format 3\x00" + bytes(4000)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        findings = found(tmp_path / name)
        assert {one.what for one in findings} >= {"unreadable"}
        assert first(findings) == 0


def read_root(note: bytes) -> bytes:
    return Checkpoint.from_text(split_note(note)[0]).root


class Whole:
    """A ledger's file as bytes, and what is read from it: entries long and short, so that it has pages of all kinds."""

    def __init__(self, folder: Path) -> None:
        lengths = [60, 300, 5000, 0, 12_000, 90, 1500, 700] * 12
        self.entries = [entry(number, length) for number, length in enumerate(lengths)]
        file = folder / "whole.db"
        with Log(file) as log:
            for start in range(0, len(lengths), 6):
                keys = [f"key {number}" if number % 3 else None for number in range(start, start + 6)]
                log.write(*self.entries[start : start + 6], keys=keys)
                log.sign(by=list(WITNESSES))
            self.checkpoints = [(one.size, one.note) for one in log.reader.checkpoints()]
            log._db.execute("PRAGMA journal_mode=DELETE")
        self.bytes = file.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"))


def first_difference(reader: Reader, whole: Whole) -> int | None:
    """Return the first entry that is read otherwise than it was written, by either way of reading."""
    try:
        pages = list(reader.entries())
    except BottegaError:
        pages = None
    for index, written in enumerate(whole.entries):
        try:
            if reader.entry(index) != written:
                return index
        except BottegaError:
            return index
    return None if pages == whole.entries else len(whole.entries)


def checkpoints_differ(reader: Reader, whole: Whole) -> bool:
    try:
        return [(one.size, one.note) for one in reader.checkpoints()] != whole.checkpoints
    except BottegaError:
        return True


def hold_promise(file: Path, whole: Whole, content: bytes) -> None:
    """Either the check finds it, naming an entry at or before the first that differs, or nothing differs."""
    file.write_bytes(content)
    findings = found(file)
    with reading(file) as reader:
        differs = first_difference(reader, whole)
        if differs is not None:
            assert findings, f"entry {differs} is another, and nothing was found"
            assert first(findings) <= differs
        if checkpoints_differ(reader, whole):
            assert findings, "a checkpoint is another, and nothing was found"


flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(flips=flips)
def test_whatever_bytes_are_changed_it_is_found_or_nothing_is_lost(
    tmp_path: Path, whole: Whole, flips: list[tuple[float, int]]
) -> None:
    content = bytearray(whole.bytes)
    for where, mask in flips:
        content[int(where * len(content))] ^= mask
    hold_promise(tmp_path / "flipped.db", whole, bytes(content))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400)
@given(page=st.floats(0, 1, exclude_max=True), at=st.integers(0, 120), mask=st.integers(1, 255))
@example(page=0.0, at=18, mask=3)
@example(page=0.0, at=16, mask=16)
@example(page=0.0, at=59, mask=2)
def test_whatever_is_changed_at_the_head_of_a_page_it_is_found_or_nothing_is_lost(
    tmp_path: Path, whole: Whole, page: float, at: int, mask: int
) -> None:
    content = bytearray(whole.bytes)
    content[int(page * (len(content) // 4096)) * 4096 + at] ^= mask
    hold_promise(tmp_path / "flipped.db", whole, bytes(content))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(one=st.floats(0, 1, exclude_max=True), other=st.floats(0, 1, exclude_max=True))
def test_whatever_pages_change_places_it_is_found_or_nothing_is_lost(
    tmp_path: Path, whole: Whole, one: float, other: float
) -> None:
    content = bytearray(whole.bytes)
    pages = len(content) // 4096
    a, b = int(one * pages) * 4096, int(other * pages) * 4096
    content[a : a + 4096], content[b : b + 4096] = content[b : b + 4096], content[a : a + 4096]
    hold_promise(tmp_path / "swapped.db", whole, bytes(content))


def test_wherever_the_file_is_cut_it_is_found_or_nothing_is_lost(tmp_path: Path, whole: Whole) -> None:
    for length in range(0, len(whole.bytes), 8192):
        for more in (0, 1, 512, 4096):
            hold_promise(tmp_path / "cut.db", whole, whole.bytes[: length + more])


def test_names_of_tables_that_are_no_text_any_more_are_found(tmp_path: Path, whole: Whole) -> None:
    for name in (b"ledger_entries", b"ledger_nodes", b"ledger_checkpoints", b"entry", b"note BLOB"):
        for changed in (b"\xff" + name[1:], name[:-1] + b"\xc3", b"\x00" + name[1:]):
            content = whole.bytes.replace(name, changed)
            assert content != whole.bytes
            hold_promise(tmp_path / "named.db", whole, content)
            assert found(tmp_path / "named.db")
