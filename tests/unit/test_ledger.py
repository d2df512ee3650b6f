"""The ledger: entries are written together with what they tell of, once and for good, and proofs are of them."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import LedgerError, RunError
from security.checkpoint import Checkpoint, cosign, cosigners, open_checkpoint, sign_checkpoint
from security.database import Database
from security.ledger import LEDGER_SCHEMA, MOST_ENTRY_BYTES, PAGE, Reader, append, keep_checkpoint, keep_cosignature
from security.ledger_check import verify
from security.ledger_schema import OBJECTS
from security.merkle import EMPTY_ROOT, Frontier, leaf_hash, verify_consistency, verify_inclusion
from tests.small_ledgers import ORIGIN, SERVER, WITNESS_KEYS, WITNESSES, Log, build, check, entry

PRADO, UFFIZI = WITNESSES


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Log(tmp_path / "log.db") as log:
        yield log


def root_of(entries: list[bytes]) -> bytes:
    frontier = Frontier()
    for one in entries:
        frontier.append(leaf_hash(one))
    return frontier.root()


def test_a_ledger_without_entries_is_one(log: Log) -> None:
    reader = log.reader
    assert (reader.size(), reader.root(), list(reader.entries()), reader.latest_checkpoint()) == (
        0,
        EMPTY_ROOT,
        [],
        None,
    )
    assert log.check().findings == []
    log.sign()
    assert log.check().findings == []
    log.write(b"first")
    log.sign()
    assert log.check().findings == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(batches=st.lists(st.lists(st.binary(max_size=40), max_size=9), max_size=9), data=st.data())
def test_whatever_the_batches_the_tree_is_that_of_the_entries(
    tmp_path: Path, batches: list[list[bytes]], data: st.DataObject
) -> None:
    (tmp_path / "log.db").unlink(missing_ok=True)
    entries = [one for batch in batches for one in batch]
    with Log(tmp_path / "log.db") as log:
        places = [place for batch in batches for place in log.write(*batch)]
        reader = log.reader
        assert places == list(range(len(entries)))
        assert list(reader.entries()) == entries
        assert reader.root() == root_of(entries)
        log.sign()
        assert log.check().findings == []
        if entries:
            new = data.draw(st.integers(1, len(entries)))
            index, old = data.draw(st.integers(0, new - 1)), data.draw(st.integers(0, new))
            root = reader.root(new)
            assert root == root_of(entries[:new])
            verify_inclusion(leaf_hash(reader.entry(index)), index, new, reader.inclusion(index, new), root)
            verify_consistency(old, new, reader.consistency(old, new), reader.root(old), root)


def test_an_entry_is_kept_with_what_it_tells_of_or_not_at_all(log: Log) -> None:
    log.write_with("kept", b"told")
    with pytest.raises(ValueError, match="cut off"):
        log.write_with("lost", b"untold", ValueError("cut off"))
    assert (log.things(), list(log.reader.entries())) == (["kept"], [b"told"])
    log.sign()
    assert log.check().findings == []


def test_nothing_is_written_outside_a_transaction(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as db:
        db.executescript(LEDGER_SCHEMA)
        with pytest.raises(LedgerError):
            append(db, [b"entry"], [None])


def test_on_a_full_disk_nothing_half_written_stays(log: Log) -> None:
    log.write(*[entry(number) for number in range(50)])
    log.sign()
    pages = log._db.execute("PRAGMA page_count").fetchone()[0]
    log._db.execute(f"PRAGMA max_page_count={pages + 3}")
    with pytest.raises(RunError, match="full"):
        log.write(*[entry(number, 2000) for number in range(50, 90)])
    assert log.check().findings == []
    log._db.execute("PRAGMA max_page_count=100000")
    assert log.write(b"next") == [50]
    log.sign()
    assert log.check().findings == []


def test_an_entry_with_a_known_key_is_passed_over(log: Log) -> None:
    assert log.write(b"a", b"b", keys=["founded", None]) == [0, 1]
    assert log.write(b"c", b"d", b"e", b"f", keys=["founded", "joined", "joined", None]) == [2, 3]
    assert log.write(b"g", keys=["joined"]) == []
    assert log.write() == []
    assert list(log.reader.entries()) == [b"a", b"b", b"d", b"f"]
    log.sign()
    assert log.check().findings == []


def test_any_text_is_a_key(log: Log) -> None:
    keys = ['"', "'; DROP TABLE ledger_keys; --", "\u00e9\U0001f600", "a\x00b", "", "[1]"]
    assert log.write(*[b"x"] * len(keys), keys=keys) == list(range(len(keys)))
    assert log.write(*[b"y"] * len(keys), keys=keys) == []
    many = [f"member {number}" for number in range(1200)]
    assert len(log.write(*[b"z"] * 1200, keys=many)) == 1200
    assert log.write(*[b"z"] * 1201, keys=[*many, "new"]) == [len(keys) + 1200]


def test_as_many_keys_as_entries_are_wanted(log: Log) -> None:
    with pytest.raises(ValueError, match="zip"):
        log.write(b"a", keys=[])
    assert log.reader.size() == 0


def test_an_entry_that_is_too_long_is_refused_with_its_batch(log: Log) -> None:
    with pytest.raises(LedgerError, match="too long"):
        log.write(b"a", bytes(MOST_ENTRY_BYTES + 1))
    assert log.write(bytes(MOST_ENTRY_BYTES), b"") == [0, 1]
    log.sign()
    assert log.check().findings == []


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE ledger_entries SET entry = x'00' WHERE \"index\" = 3", "UPDATE ledger_entries SET \"index\" = 99",
        "DELETE FROM ledger_entries WHERE \"index\" = 20", "DELETE FROM ledger_entries",
        "INSERT INTO ledger_entries VALUES (3, zeroblob(32), x'00')",
        "INSERT INTO ledger_entries VALUES (22, zeroblob(32), x'00')",
        "INSERT INTO ledger_entries VALUES (-1, zeroblob(32), x'00')",
        "INSERT INTO ledger_entries VALUES (NULL, zeroblob(32), x'00')",
        "INSERT INTO ledger_entries VALUES (21, zeroblob(31), x'00')",
        "INSERT OR REPLACE INTO ledger_entries VALUES (3, zeroblob(32), x'00')",
        "INSERT OR IGNORE INTO ledger_entries VALUES (3, zeroblob(32), x'00')",
        "UPDATE OR REPLACE ledger_entries SET \"index\" = 4 WHERE \"index\" = 3",
        "UPDATE ledger_nodes SET hash = zeroblob(32)", "DELETE FROM ledger_nodes",
        "INSERT INTO ledger_nodes VALUES (99, zeroblob(32))",
        "INSERT OR REPLACE INTO ledger_nodes VALUES (1, zeroblob(32))",
        "UPDATE ledger_keys SET \"index\" = 2", "DELETE FROM ledger_keys",
        "INSERT OR REPLACE INTO ledger_keys VALUES ('first', 7)",
        "UPDATE ledger_checkpoints SET note = x'00'", "DELETE FROM ledger_checkpoints WHERE size = 21",
        "INSERT INTO ledger_checkpoints VALUES (7, x'00')", "INSERT INTO ledger_checkpoints VALUES (22, x'00')",
        "INSERT OR REPLACE INTO ledger_checkpoints VALUES (21, x'00')",
        "INSERT INTO ledger_checkpoints VALUES (-1, x'00')",
    ],
)  # fmt: skip
def test_sql_cannot_change_what_is_written(tmp_path: Path, sql: str) -> None:
    file = tmp_path / "log.db"
    with Log(file) as log:
        log.write(entry(0), keys=["first"])
    entries = build(file, 20)
    with closing(sqlite3.connect(file, isolation_level=None)) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute(sql)
    assert check(file).findings == []
    with Log(file) as log:
        assert list(log.reader.entries(1)) == entries


def test_what_is_read_is_what_was_asked_for(log: Log) -> None:
    entries = [entry(number) for number in range(3 * PAGE + 5)]
    log.write(*entries)
    reader = log.reader
    for start, stop in ((0, 0), (0, 1), (3, 2 * PAGE + 1), (PAGE, 2 * PAGE), (len(entries) - 1, len(entries))):
        assert list(reader.entries(start, stop)) == entries[start:stop]
    assert list(reader.entries(7)) == entries[7:]
    assert list(reader.entries(len(entries))) == []
    assert [reader.entry(index) for index in (0, 100)] == [entries[0], entries[100]]


def test_what_is_not_there_is_refused(log: Log) -> None:
    log.write(b"a", b"b")
    reader = log.reader
    asks = (
        lambda: reader.entry(2), lambda: reader.entry(-1), lambda: reader.entry(2**63), lambda: reader.root(3),
        lambda: reader.root(-1), lambda: reader.inclusion(0, 3), lambda: reader.inclusion(2, 2),
        lambda: reader.consistency(1, 3), lambda: reader.consistency(2, 1), lambda: list(reader.entries(0, 3)),
    )  # fmt: skip
    for ask in asks:
        with pytest.raises(LedgerError):
            ask()
    assert reader.checkpoint(5) is reader.checkpoint(-1) is reader.checkpoint(2**63) is None


def test_what_is_no_ledger_is_refused_in_words(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "empty.db")) as db, pytest.raises(LedgerError, match="cannot be read"):
        Reader(lambda sql, *values: db.execute(sql, values).fetchall()).size()
    (tmp_path / "text.db").write_bytes(b"no database at all, and a little longer than that" * 100)
    with closing(sqlite3.connect(tmp_path / "text.db")) as db, pytest.raises(LedgerError, match="damaged"):
        Reader(lambda sql, *values: db.execute(sql, values).fetchall()).size()


def test_checkpoints_are_kept_in_order_and_once(log: Log) -> None:
    log.write(b"a", b"b")
    first = log.sign()
    log.sign()
    log.write(b"c")
    second = log.sign()
    kept = list(log.reader.checkpoints())
    assert [(one.size, one.note) for one in kept] == [(2, first), (3, second)]
    assert log.reader.latest_checkpoint() == kept[-1]
    assert log.reader.checkpoint(2) == kept[0]


def test_many_checkpoints_are_read_in_pages(log: Log) -> None:
    for number in range(PAGE + 3):
        log.write(entry(number))
        log.sign()
    assert [one.size for one in log.reader.checkpoints()] == list(range(1, PAGE + 4))


def test_a_checkpoint_of_something_else_is_not_kept(log: Log) -> None:
    log.write(b"a", b"b", b"c")
    log.sign()
    log.write(b"d")
    reader, three = log.reader, log.reader.root(3)
    wrong = [(3, bytes(32)), (4, bytes(32)), (5, three), (2, reader.root(2))]
    for size, root in wrong:
        with log._write() as db, pytest.raises(LedgerError):
            keep_checkpoint(db, sign_checkpoint(Checkpoint(ORIGIN, size, root), SERVER))
    with log._write() as db, pytest.raises(LedgerError):
        keep_checkpoint(db, b"no note")
    assert [one.size for one in reader.checkpoints()] == [3]


def test_cosignatures_are_kept_with_their_checkpoint_the_first_of_each(log: Log) -> None:
    log.write(b"a")
    note = log.sign(by=[UFFIZI])
    with log._write() as db:
        for time in (5, 6):
            keep_cosignature(db, 1, PRADO, cosign(note, PRADO, WITNESSES[PRADO], time))
    cosigned = log.reader.cosigned(1)
    assert cosigned is not None
    assert cosigners(cosigned, WITNESS_KEYS) == {PRADO: 5, UFFIZI: 1_700_000_001}
    assert open_checkpoint(cosigned, ORIGIN, SERVER.public).size == 1
    assert list(log.reader.cosignatures(1)) == [PRADO, UFFIZI]
    assert (log.reader.cosigned(2), log.reader.cosignatures(2)) == (None, {})
    assert log.check().witnesses == {PRADO: 1, UFFIZI: 1}
    assert log.check().findings == []


def test_a_cosignature_of_nothing_kept_is_refused(log: Log) -> None:
    log.write(b"a")
    line = cosign(log.sign(), PRADO, WITNESSES[PRADO], 5)
    for size, name, given_line in ((2, PRADO, line), (1, UFFIZI, line), (1, PRADO, b"no line"), (1, PRADO, line * 2)):
        with log._write() as db, pytest.raises(LedgerError):
            keep_cosignature(db, size, name, given_line)
    assert log.reader.cosignatures(1) == {}


def _append_many(file: Path, name: int, batches: int) -> None:
    with Log(file) as log:
        for batch in range(batches):
            mine = [b"%d %d %d" % (name, batch, number) for number in range(7)]
            log.write(*mine, b"the same from all", keys=[None] * 7 + [f"batch {batch}"])


def test_several_processes_append_to_one_ledger(tmp_path: Path) -> None:
    file, spawn = tmp_path / "log.db", multiprocessing.get_context("spawn")
    Log(file).close()
    writers = [spawn.Process(target=_append_many, args=(file, name, 20)) for name in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    with Log(file) as log:
        entries = list(log.reader.entries())
        assert len(entries) == 3 * 20 * 7 + 20
        assert len(set(entries)) == 3 * 20 * 7 + 1
        for name in range(3):
            mine = [one for one in entries if one.startswith(b"%d " % name)]
            assert mine == [b"%d %d %d" % (name, batch, number) for batch in range(20) for number in range(7)]
        log.sign()
        assert log.check().findings == []


def test_it_lives_in_a_store_with_other_tables(tmp_path: Path) -> None:
    class Shop(Database):
        def sell(self) -> None:
            with self._write() as db:
                db.execute("INSERT INTO sold VALUES (1)")
                append(db, [b"sold"], [None])

    with Shop(tmp_path / "shop.db", "CREATE TABLE IF NOT EXISTS sold (what INTEGER) STRICT;" + LEDGER_SCHEMA) as shop:
        shop.sell()
        found = verify(Reader(shop._read), ORIGIN, SERVER.public)
    assert (found.size, [one.what for one in found.findings]) == (1, ["unsigned"])


def test_a_check_says_how_far_the_record_goes(tmp_path: Path) -> None:
    entries = build(tmp_path / "log.db", 20)
    with Log(tmp_path / "log.db") as log:
        log.write(b"later", b"later still")
        found = log.check()
    assert (found.size, found.root, found.vouched, found.checkpoints) == (
        22,
        root_of([*entries, b"later", b"later still"]),
        20,
        4,
    )
    assert found.witnesses == dict.fromkeys(WITNESSES, 20)
    assert [(one.what, one.entry, one.fault) for one in found.findings] == [("unsigned", 20, False)]


def test_a_witness_who_is_not_known_is_remarked_upon(tmp_path: Path) -> None:
    build(tmp_path / "log.db", 5)
    with Log(tmp_path / "log.db") as log:
        found = verify(log.reader, ORIGIN, SERVER.public, WITNESS_KEYS[:1])
    assert [(one.what, one.fault) for one in found.findings] == [("unknown-witness", False)]
    assert UFFIZI in found.findings[0].words


def test_a_ledger_is_checked_while_it_grows(log: Log) -> None:
    log.write(*[entry(number) for number in range(3 * PAGE)])
    log.sign()
    reader = log.reader
    asked = 0

    def growing(sql: str, *values: object) -> list[tuple[object, ...]]:
        nonlocal asked
        asked += 1
        if asked <= 12:
            log.write(entry(1000 + asked), entry(2000 + asked))
            log.sign()
        return reader.rows(sql, *values)

    assert [one for one in verify(Reader(growing), ORIGIN, SERVER.public).findings if one.fault] == []
    assert asked > 12


def test_the_names_of_all_tables_and_triggers_are_checked() -> None:
    assert len(OBJECTS) == LEDGER_SCHEMA.count("CREATE ")
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(LEDGER_SCHEMA)
        made = dict(db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    assert {name: " ".join(sql.split()) for name, sql in made.items()} == OBJECTS
