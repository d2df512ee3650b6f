"""What a run leaves in the ledger, what its sites witness of it, and what they find out when it is changed."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from client.ledger_book import LedgerBook
from common.errors import LedgerError, RunError
from common.proto import bottega_pb2 as pb
from common.settings import DetectorSettings
from security.checkpoint import Checkpoint, cosigner_key, cosigners, sign_checkpoint
from security.chronicle import Chronicle, Line
from security.entries import read_entry
from security.ledger import Reader, append, keep_checkpoint
from security.ledger_check import verify
from security.ledger_names import cosigner_of, origin_of
from security.note import NoteKey
from server import pulling, rounds
from server.journal import Journal
from tests.integration.federation import FEDERATION, RUN, SETTINGS, Federation, Way
from tests.integration.test_examined_rounds import BAD, EXAMINED, federation

HONEST = ("anna", "bruno", "carla")
ROUNDS = SETTINGS.model_copy(update={"rounds": 3})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "GRACE_S", 0.4)
    monkeypatch.setattr(pulling, "POLL_S", 0.01)


def journal(made: Federation) -> Journal:
    return Journal(made.home.database)


def chronicle(made: Federation) -> Chronicle:
    return Chronicle.of(Line(at, read_entry(data)) for at, data in enumerate(journal(made).reader.entries()))


def book(made: Federation, site: str) -> LedgerBook:
    one = made.sites[site]
    return LedgerBook(one.home.witness, one.identity, lambda: made.house.identity.signing.public)


def witnesses(made: Federation) -> list[NoteKey]:
    return [cosigner_key(cosigner_of(one.identity.id), one.identity.signing.public) for one in made.sites.values()]


def test_a_run_is_in_the_ledger_from_its_first_task_to_its_last_look(tmp_path: Path) -> None:
    made = Federation(tmp_path, (*HONEST, "mallory"), ROUNDS)
    made.sites["mallory"].behave(Way.HUGE)
    made.play()
    told = chronicle(made)
    assert told.founded is not None
    assert told.strays == []
    check = verify(journal(made).reader, origin_of(FEDERATION), made.house.identity.signing.public, witnesses(made))
    assert check.witnesses.keys() >= {cosigner_of(made.sites[name].identity.id) for name in HONEST}
    assert check.findings == []
    assert {story.name for story in told.members.values()} == {*HONEST, "mallory", "operator"}
    run = told.runs[RUN]
    assert [(story.number, story.outcome) for story in run.rounds.values()] == [
        (1, "aggregated"), (2, "aggregated"), (3, "aggregated"), (4, "measured"),
    ]  # fmt: skip
    first = run.rounds[1]
    assert first.opened.asked == sorted((*HONEST, "mallory"))
    assert first.closed is not None
    assert first.closed.averaged == sorted(HONEST)
    assert first.closed.adapter == made.store.rounds(RUN)[0].adapter_digest
    assert run.rounds[2].opened.adapter == first.closed.adapter, "what one round ends with the next begins with"
    refused, anna = first.updates["mallory"], first.updates["anna"]
    assert (refused.verdict, refused.check_name, refused.weight) == ("refused", "norm", None)
    assert refused.sealed is not None, "what was refused is known by its digest too"
    assert (anna.verdict, anna.weight, anna.examples) == ("admitted", 14.0, 14)
    assert anna.sealed is not None
    assert anna.signed is not None


def test_a_round_that_was_cut_off_is_seen_to_have_been_opened_twice(tmp_path: Path) -> None:
    made = Federation(tmp_path, HONEST, ROUNDS)
    post = made.post()
    post.fails_at = 2
    with pytest.raises(ConnectionError):
        made.play(post)
    made.play()
    assert chronicle(made).runs[RUN].rounds[2].openings == 2


def test_nothing_of_drawings_or_metrics_of_a_sites_own_choosing_is_written_down(tmp_path: Path) -> None:
    made = Federation(tmp_path, HONEST, ROUNDS)
    made.sites["anna"].easel.metrics = {"held_out_loss": 0.25, "scan_0042.png": 1.0}
    made.play()
    whole = b"\n".join(journal(made).reader.entries())
    assert b"held_out_loss" in whole
    assert b"scan_0042" not in whole
    assert str(tmp_path).encode() not in whole


def test_sites_cosign_what_they_are_shown_and_keep_receipts_of_their_answers(tmp_path: Path) -> None:
    made = Federation(tmp_path, HONEST, ROUNDS)
    made.play()
    server = made.house.identity.signing.public
    kept = book(made, "anna").receipts.kept()
    told = [receipt.verified(FEDERATION, server) for receipt in kept]
    assert [(entry.round, entry.site, entry.verdict) for entry in told] == [
        (1, "anna", "admitted"), (2, "anna", "admitted"), (3, "anna", "admitted"),
    ]  # fmt: skip
    reader = journal(made).reader
    size = max(stored.size for stored in reader.checkpoints() if reader.cosignatures(stored.size))
    keys = witnesses(made)
    assert cosigners(reader.cosigned(size) or b"", keys).keys() == {
        cosigner_of(s.identity.id) for s in made.sites.values()
    }


def test_a_receipt_holds_only_as_it_is(tmp_path: Path) -> None:
    made = Federation(tmp_path, HONEST, ROUNDS)
    made.play()
    server = made.house.identity.signing.public
    receipt = book(made, "anna").receipts.kept()[0]
    told = json.loads(receipt.to_bytes())
    for change in (
        {"entry": told["entry"].replace("admitted", "rejected")},
        {"index": told["index"] + 1},
        {"inclusion": told["inclusion"][::-1]},
        {"checkpoint": told["checkpoint"].replace("\n", "\n1", 1)},
    ):
        changed = type(receipt).from_bytes(json.dumps(told | change).encode())
        with pytest.raises(LedgerError):
            changed.verified(FEDERATION, server)
    with pytest.raises(LedgerError):
        receipt.verified(FEDERATION, made.sites["anna"].identity.signing.public)


def rewritten(made: Federation, *, drop: int, add: bytes) -> None:
    """Rewrite history as who has the server and its keys can: entries from ``drop`` on are others."""
    db = sqlite3.connect(made.home.database, isolation_level=None)
    old = [row[0] for row in db.execute('SELECT entry FROM ledger_entries ORDER BY "index"')]
    kept = {row[0]: row[1] for row in db.execute('SELECT "index", key FROM ledger_keys')}
    sizes = [row[0] for row in db.execute("SELECT size FROM ledger_checkpoints ORDER BY size")]
    db.execute("BEGIN")
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='trigger' AND name LIKE 'ledger%'").fetchall():
        db.execute(f"DROP TRIGGER {name}")
    for table in ("ledger_cosignatures", "ledger_checkpoints", "ledger_keys", "ledger_nodes", "ledger_entries"):
        db.execute(f"DELETE FROM {table}")  # noqa: S608 (names of ours)
    fresh = [*old[:drop], add, *old[drop + 1 :]]
    append(db, fresh, [kept.get(at) if at != drop else None for at in range(len(fresh))])
    reader = Reader(lambda sql, *values: db.execute(sql, values).fetchall())
    for size in sizes:
        fresh_one = Checkpoint(origin_of(FEDERATION), size, reader.root(size))
        keep_checkpoint(db, sign_checkpoint(fresh_one, made.house.identity.signing))
    db.execute("COMMIT")
    db.close()


def test_a_server_that_rewrites_history_is_found_out_by_the_next_task(tmp_path: Path) -> None:
    made = Federation(tmp_path, HONEST, ROUNDS)
    post = made.post()
    post.fails_at = 3
    with pytest.raises(ConnectionError):
        made.play(post)
    index = chronicle(made).runs[RUN].rounds[1].update_at["bruno"]
    entry = journal(made).reader.entry(index)
    rewritten(made, drop=index, add=entry.replace(b'"verdict":"admitted"', b'"verdict":"rejected"'))
    made.settings = ROUNDS.model_copy(update={"quorum": 1})
    made.play()
    assert {verdict.check for verdict in made.verdicts(3).values()} == {"willing"}
    assert "does not hold what this site saw" in made.verdicts(3)["carla"].reason
    folder = made.sites["carla"].home.witness
    assert len([*folder.glob("evidence-*-seen.note")]) == len([*folder.glob("evidence-*-shown.note")]) == 1
    assert made.sites["carla"].easel.tasks == 2, "it has trained on nothing since"
    assert book(made, "carla").witness.distrust
    book(made, "carla").witness.forget()
    assert not book(made, "carla").witness.distrust


def test_two_histories_are_found_out_by_who_is_shown_both(tmp_path: Path) -> None:
    made = Federation(tmp_path, HONEST, ROUNDS)
    made.play()
    server, witness = made.house.identity, book(made, "anna").witness
    last = witness.last
    assert last is not None
    other = Checkpoint(origin_of(FEDERATION), last.checkpoint.size, b"x" * 32)
    with pytest.raises(LedgerError, match="does not hold what this site saw"):
        witness.see(sign_checkpoint(other, server.signing), {})
    with pytest.raises(LedgerError, match="trusts its federation's ledger no more"):
        witness.see(last.note, {})


def test_a_task_that_shows_no_ledger_is_refused(tmp_path: Path) -> None:
    made = Federation(tmp_path, HONEST, ROUNDS)
    with pytest.raises(LedgerError, match="shows nothing of the federation's ledger"):
        book(made, "anna").see(pb.Shown())


def test_an_answer_that_the_site_did_not_give_is_found_out(tmp_path: Path) -> None:
    made = Federation(tmp_path, HONEST, ROUNDS)
    made.play()
    receipts = book(made, "anna").receipts
    (made.sites["anna"].home.witness / "receipts" / "sent.json").write_text("{}")
    with pytest.raises(LedgerError, match="an answer that this site did not give"):
        receipts.take(receipts.kept(), made.house.identity.signing.public)


def test_who_is_left_out_and_taken_back_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.randbits", lambda _: 7)  # who is dealt together can be foretold
    made = federation(tmp_path, BAD, EXAMINED.model_copy(update={"detector": DetectorSettings()}))
    made.play()
    stories = chronicle(made).runs[RUN].rounds
    back = [story for story in stories.values() if story.taken_back]
    assert back
    assert set(back[0].taken_back) <= set(BAD)
    assert {back[0].standing(site) for site in back[0].taken_back} == {"taken back"}
    for site in back[0].taken_back:
        out = stories[back[0].number + 1].updates[site]
        assert (out.verdict, out.check_name, out.weight) == ("rejected", "harm", None)


def test_a_disk_without_room_closes_no_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Federation(tmp_path, HONEST, ROUNDS)
    pages = made.store._read("PRAGMA page_count")[0][0]
    made.store._read(f"PRAGMA max_page_count={pages + 1}")
    with pytest.raises(RunError, match="the server's store cannot be written; got database or disk is full"):
        made.play()
    made.store._read("PRAGMA max_page_count=1000000")
    made.play()
    assert [row.outcome for row in made.store.rounds(RUN)] == ["aggregated"] * 3 + ["measured"]
    assert chronicle(made).strays == []
