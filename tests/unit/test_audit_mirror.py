"""An auditor's copy: only what the server signed gets in, and a ledger that contradicts it is caught with evidence."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from common.errors import BottegaError, LedgerError
from security.audit.mirror import ForkError, Mirror, Synced
from security.audit.source import ReaderSource
from security.checkpoint import open_checkpoint
from security.entries import Entry
from security.ledger_check import verify
from tests.ledgers import Members, Story, a_ledger, a_story, sign, some_members, trust_in, write_ledger

MEMBERS = some_members()
TRUST = trust_in(MEMBERS)
STORY = a_story(MEMBERS)


def a_source(folder: Path, entries: Sequence[Entry] | None = None, members: Members = MEMBERS) -> ReaderSource:
    """Return a server's ledger as it gives it away."""
    file = folder / "server.db"
    write_ledger(file, members, STORY.entries if entries is None else entries)
    return ReaderSource(Mirror(file).reader)


class Lying(ReaderSource):
    """A server that gives away something else than it has."""

    def __init__(
        self,
        source: ReaderSource,
        entries: Callable[[list[bytes]], list[bytes]] = lambda found: found,
        notes: Callable[[list[bytes]], list[bytes]] = lambda found: found,
        latest: Callable[[bytes], bytes] = lambda note: note,
    ) -> None:
        super().__init__(source._reader)
        self._entries, self._notes, self._latest = entries, notes, latest

    def latest(self, known_size: int) -> tuple[bytes, Sequence[bytes]]:
        note, proof = super().latest(known_size)
        return self._latest(note), proof

    def checkpoints(self, above: int) -> Sequence[bytes]:
        return self._notes(list(super().checkpoints(above)))

    def entries(self, start: int, count: int) -> Sequence[bytes]:
        return self._entries(list(super().entries(start, count)))


def test_a_copy_holds_what_the_server_signed_with_all_cosignatures(tmp_path: Path) -> None:
    source = a_source(tmp_path)
    with Mirror(tmp_path / "copy.db") as copy:
        size = len(STORY.entries)
        assert copy.sync(source, TRUST) == Synced(size, size)
        assert list(copy.reader.entries()) == list(source._reader.entries())
        check = verify(copy.reader, TRUST.origin, TRUST.server[0], TRUST.witnesses)
        assert (check.findings, check.vouched) == ([], size)
        assert set(check.witnesses.values()) == {size}
        assert copy.reader.cosigned(size) == source._reader.cosigned(size)


def test_a_copy_that_is_up_to_date_gets_nothing_more(tmp_path: Path) -> None:
    source = a_source(tmp_path)
    with Mirror(tmp_path / "copy.db") as copy:
        copy.sync(source, TRUST)
        assert copy.sync(source, TRUST) == Synced(0, len(STORY.entries))


def test_a_copy_goes_on_where_it_was(tmp_path: Path) -> None:
    source = a_source(tmp_path, STORY.entries[:20])
    told: list[tuple[int, int]] = []
    with Mirror(tmp_path / "copy.db") as copy:
        copy.sync(source, TRUST)
        write_ledger(tmp_path / "server.db", MEMBERS, STORY.entries[20:])
        synced = copy.sync(source, TRUST, tell=lambda there, whole: told.append((there, whole)))
        assert synced == Synced(len(STORY.entries) - 20, len(STORY.entries))
    assert told[-1] == (len(STORY.entries), len(STORY.entries))


def test_a_ledger_of_zero_entries_can_be_copied(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "server.db", isolation_level=None)) as db:
        write_ledger(tmp_path / "server.db", MEMBERS, [])
        db.execute("BEGIN")
        sign(db, MEMBERS)
        db.execute("COMMIT")
    with Mirror(tmp_path / "server.db") as server, Mirror(tmp_path / "copy.db") as copy:
        assert copy.sync(ReaderSource(server.reader), TRUST) == Synced(0, 0)
        assert copy.sync(ReaderSource(server.reader), TRUST) == Synced(0, 0)


def test_a_server_without_a_checkpoint_has_nothing_to_copy(tmp_path: Path) -> None:
    with Mirror(tmp_path / "server.db") as server, Mirror(tmp_path / "copy.db") as copy:
        source = ReaderSource(server.reader)
        with pytest.raises(LedgerError, match="no checkpoint yet"):
            copy.sync(source, TRUST)


def test_cosignatures_that_came_later_are_fetched(tmp_path: Path) -> None:
    write_ledger(tmp_path / "server.db", MEMBERS, STORY.entries, cosigned_by=[])
    size = len(STORY.entries)
    with Mirror(tmp_path / "server.db") as server, Mirror(tmp_path / "copy.db") as copy:
        copy.sync(ReaderSource(server.reader), TRUST)
        assert copy.reader.cosignatures(size) == {}
        with server._write() as db:
            sign(db, MEMBERS, ["rossi"])
        copy.sync(ReaderSource(server.reader), TRUST)
        assert list(copy.reader.cosignatures(size)) == ["studios.test/site/rossi"]


def test_a_history_that_was_rewritten_is_refused_from_its_first_other_entry_on_with_both_notes_as_evidence(
    tmp_path: Path,
) -> None:
    other = [*STORY.entries]
    other[17] = other[17].model_copy(update={"at": "2026-11-02T10:00:00.000Z"})
    (tmp_path / "other").mkdir()
    with Mirror(tmp_path / "copy.db") as copy:
        copy.sync(a_source(tmp_path), TRUST)
        before = list(copy.reader.entries())
        with pytest.raises(ForkError, match="history was rewritten") as caught:
            copy.sync(a_source(tmp_path / "other", other), TRUST, tmp_path / "evidence")
        assert "other ones from entry 17 on" in str(caught.value)
        assert list(copy.reader.entries()) == before
    notes = {file.name.rpartition("-")[2]: file.read_bytes() for file in (tmp_path / "evidence").iterdir()}
    roots = {name: open_checkpoint(note, TRUST.origin, TRUST.server[0]).root for name, note in notes.items()}
    assert set(notes) == {"known.note", "shown.note"}
    assert roots["known.note"] != roots["shown.note"]


def test_a_longer_history_that_was_rewritten_is_refused_as_well(tmp_path: Path) -> None:
    other = [*STORY.entries]
    other[3] = other[3].model_copy(update={"at": "2026-11-02T10:00:00.000Z"})
    (tmp_path / "other").mkdir()
    with Mirror(tmp_path / "copy.db") as copy:
        copy.sync(a_source(tmp_path, STORY.entries[:24]), TRUST)
        with pytest.raises(ForkError, match="history was rewritten") as caught:
            copy.sync(a_source(tmp_path / "other", other), TRUST)
    assert "from entry 3 on" in str(caught.value)


def test_a_ledger_that_lost_entries_is_refused_and_the_loss_is_named(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with Mirror(tmp_path / "copy.db") as copy:
        copy.sync(a_source(tmp_path), TRUST)
        with pytest.raises(ForkError, match="has lost entries") as caught:
            copy.sync(a_source(tmp_path / "other", STORY.entries[:16]), TRUST, tmp_path / "evidence")
    assert (caught.value.got, len(list((tmp_path / "evidence").iterdir()))) == ("16 entries", 2)


def test_evidence_of_the_same_contradiction_is_kept_once(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with Mirror(tmp_path / "copy.db") as copy:
        copy.sync(a_source(tmp_path), TRUST)
        other = a_source(tmp_path / "other", STORY.entries[:16])
        for _ in range(3):
            with pytest.raises(ForkError):
                copy.sync(other, TRUST, tmp_path / "evidence")
    assert len(list((tmp_path / "evidence").iterdir())) == 2


def test_another_servers_ledger_is_refused(tmp_path: Path) -> None:
    others = some_members()
    with Mirror(tmp_path / "copy.db") as copy:
        with pytest.raises(LedgerError, match="signed by nobody who is known here"):
            copy.sync(a_source(tmp_path, a_story(others).entries, others), TRUST)
        assert copy.reader.size() == 0


def test_another_federations_ledger_is_refused(tmp_path: Path) -> None:
    others = some_members(federation="elsewhere.test")
    with Mirror(tmp_path / "copy.db") as copy, pytest.raises(LedgerError):
        copy.sync(a_source(tmp_path, a_story(others).entries, others), TRUST)


LIES: dict[str, tuple[Callable[[ReaderSource], ReaderSource], str]] = {
    "an entry is changed": (
        lambda source: Lying(source, entries=lambda found: [found[0].replace(b"2026", b"2027"), *found[1:]]),
        "not those that the server signed",
    ),
    "an entry is left out": (
        lambda source: Lying(source, entries=lambda found: found[1:]),
        "not those that the server signed|held back",
    ),
    "entries change places": (
        lambda source: Lying(source, entries=lambda found: found[::-1]),
        "not those that the server signed",
    ),
    "no entry comes": (lambda source: Lying(source, entries=lambda _: []), "held back"),
    "more entries come than were asked for": (
        lambda source: Lying(source, entries=lambda found: [*found, b"{}"]),
        "held back",
    ),
    "checkpoints come out of order": (
        lambda source: Lying(source, notes=lambda found: found[::-1]),
        "out of order",
    ),
    "a checkpoint comes twice": (
        lambda source: Lying(source, notes=lambda found: [*found[:1], *found]),
        "out of order",
    ),
    "a checkpoint is unsigned": (
        lambda source: Lying(source, notes=lambda found: [found[0].partition(b"\n\n")[0], *found[1:]]),
        "this is not",
    ),
    "the latest is no checkpoint": (lambda source: Lying(source, latest=lambda _: b"nothing"), "this is not a note"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies_gets_nothing_into_the_copy_after_what_it_proved(tmp_path: Path, lie: str) -> None:
    lying, words = LIES[lie]
    with Mirror(tmp_path / "copy.db") as copy:
        with pytest.raises(LedgerError, match=words):
            copy.sync(lying(a_source(tmp_path)), TRUST)
        check = verify(copy.reader, TRUST.origin, TRUST.server[0], TRUST.witnesses)
        assert check.findings == []
        assert copy.reader.size() == check.vouched


def test_a_wrong_proof_is_told_apart_from_a_rewritten_history(tmp_path: Path) -> None:
    class Unproving(ReaderSource):
        def latest(self, known_size: int) -> tuple[bytes, Sequence[bytes]]:
            return super().latest(known_size)[0], ()

    source = a_source(tmp_path, STORY.entries[:20])
    with Mirror(tmp_path / "copy.db") as copy:
        copy.sync(source, TRUST)
        write_ledger(tmp_path / "server.db", MEMBERS, STORY.entries[20:])
        with pytest.raises(ForkError, match="does not show that its ledger holds what was seen"):
            copy.sync(Unproving(source._reader), TRUST)


def test_a_transfer_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    class Breaking(ReaderSource):
        left = 3

        def entries(self, start: int, count: int) -> Sequence[bytes]:
            self.left -= 1
            if self.left < 0:
                raise ConnectionError
            return super().entries(start, min(count, 5))

    source = a_source(tmp_path)
    with Mirror(tmp_path / "copy.db") as copy:
        for _ in range(20):
            try:
                copy.sync(Breaking(source._reader), TRUST)
                break
            except ConnectionError:
                check = verify(copy.reader, TRUST.origin, TRUST.server[0])
                assert [one for one in check.findings if one.fault] == []
        copy.sync(source, TRUST)
        assert copy.reader.size() == len(STORY.entries)


def test_a_witness_line_that_is_not_by_the_witness_refuses_the_checkpoint(tmp_path: Path) -> None:
    def forged(found: list[bytes]) -> list[bytes]:
        text, _, lines = found[0].rpartition(b"\n\n")
        server, *witnesses = lines.splitlines(keepends=True)
        name, blob = witnesses[0].rsplit(b" ", 1)
        swapped = name + b" " + blob[:-6] + (b"AAAA" if blob[-6:-2] != b"AAAA" else b"BBBB") + blob[-2:]
        return [text + b"\n\n" + server + swapped, *found[1:]]

    with Mirror(tmp_path / "copy.db") as copy, pytest.raises(BottegaError):
        copy.sync(Lying(a_source(tmp_path), notes=forged), TRUST)


def test_a_file_that_is_no_ledger_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"drawings" * 1000)
    with pytest.raises(LedgerError, match="the copy of the ledger cannot be opened"):
        Mirror(tmp_path / "ledger.db")


def test_a_helper_ledger_reads_back(tmp_path: Path) -> None:
    with a_ledger(tmp_path / "l.db", MEMBERS, Story()) as empty:
        assert empty.reader.size() == 0
