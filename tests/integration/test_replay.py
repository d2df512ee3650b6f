"""Rounds that are done again come to what the ledger says, bit for bit; one that says otherwise is found out."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import EnvelopeError, LedgerError
from common.settings import AggregationSettings, DetectorSettings, RobustSettings
from deploy.commands.audit import audit_app
from security.chronicle import Chronicle, Line, RunStory
from security.entries import TakenBack, read_entry
from security.envelope import Expectation, Kind, open_letter, sealed_part
from security.ledger_names import origin_of
from security.note import NoteKey
from server import pulling, rounds
from server.journal import Journal
from server.replay_bundle import Disclosure, disclosed
from server.replay_files import purge
from server.replay_home import HomeReplays
from server.replaying import replay
from tests.integration.federation import FEDERATION, RUN, SETTINGS, Federation, Way
from tests.integration.test_examined_rounds import BAD, EXAMINED, federation

HONEST = ("anna", "bruno", "carla", "dario")
ROUNDS = SETTINGS.model_copy(update={"rounds": 3})
REFUSED = (Way.HUGE, Way.GARBLED_BODY, Way.NAN, Way.REFUSES, Way.FOREIGN, Way.LATE, Way.SILENT, Way.ERROR, Way.TWICE)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "GRACE_S", 0.4)
    monkeypatch.setattr(pulling, "POLL_S", 0.01)
    monkeypatch.setattr("secrets.randbits", lambda _: 7)


def told(made: Federation) -> RunStory:
    reader = Journal(made.home.database).reader
    return Chronicle.of(Line(at, read_entry(data)) for at, data in enumerate(reader.entries())).runs[RUN]


def source(made: Federation) -> HomeReplays:
    return HomeReplays(made.house, made.store, RUN)


def check_all(made: Federation) -> None:
    run = told(made)
    assert run.rounds
    for number, story in run.rounds.items():
        again = replay(source(made), number, run)
        assert again.differences == (), number
        assert story.closed is not None
        assert again.adapter == story.closed.adapter
        assert again.compared >= len(story.updates) + 1


@pytest.mark.parametrize("way", REFUSED, ids=[way.name.lower() for way in REFUSED])
def test_a_round_with_an_answer_that_is_refused_is_replayed(tmp_path: Path, way: Way) -> None:
    made = Federation(tmp_path, (*HONEST, "mallory"), ROUNDS.model_copy(update={"rounds": 2}))
    made.sites["mallory"].behave(way, delay_s=30.0 if way is Way.LATE else 0.0)
    made.play()
    check_all(made)


@pytest.mark.parametrize(
    "aggregation",
    [
        AggregationSettings(norm_bound=10.0, momentum=0.5),
        AggregationSettings(norm_bound=10.0, optimiser="adam"),
        AggregationSettings(norm_bound=10.0, robust=RobustSettings(rule="trimmed_mean", hostile=1)),
    ],
    ids=["momentum", "adam", "robust"],
)
def test_whatever_the_rule_a_round_is_replayed(tmp_path: Path, aggregation: AggregationSettings) -> None:
    made = Federation(tmp_path, HONEST, ROUNDS.model_copy(update={"aggregation": aggregation, "quorum": 3}))
    made.play()
    check_all(made)


def test_a_judged_run_is_replayed(tmp_path: Path) -> None:
    settings = ROUNDS.model_copy(update={"rounds": 4, "detector": DetectorSettings(cross_validation=False)})
    made = Federation(tmp_path, (*HONEST, "mallory"), settings)
    made.play()
    check_all(made)


def test_a_run_in_which_updates_were_taken_back_is_replayed(tmp_path: Path) -> None:
    made = federation(tmp_path, BAD, EXAMINED)
    made.play()
    assert any(story.taken_back for story in told(made).rounds.values())
    check_all(made)


def test_a_run_that_was_cut_off_is_replayed(tmp_path: Path) -> None:
    made = federation(tmp_path, BAD, EXAMINED)
    post = made.post()
    post.fails_at = 5
    with pytest.raises(ConnectionError):
        made.play(post)
    made.play()
    check_all(made)


def test_an_entry_that_says_otherwise_is_found_out(tmp_path: Path) -> None:
    made = Federation(tmp_path, HONEST, ROUNDS)
    made.play()
    run = told(made)
    story = run.rounds[2]
    assert story.closed is not None
    run.rounds[2] = replace(
        story,
        updates=story.updates | {"anna": story.updates["anna"].model_copy(update={"weight": 1.0})},
        closed=story.closed.model_copy(update={"adapter": "0" * 64}),
    )
    run.rounds[1].taken_back["anna"] = TakenBack(
        at=story.closed.at, run=RUN, round=1, found_in=2, sites=["anna"], reason="so it is said"
    )
    found = {difference.what for difference in replay(source(made), 2, run).differences}
    assert found == {"verdict on anna: weight", "end of the round: adapter", "updates taken back"}


def test_an_answer_that_was_changed_on_the_disk_is_found_out(tmp_path: Path) -> None:
    made = Federation(tmp_path, HONEST, ROUNDS)
    made.play()
    file = source(made).answers(1).folder / "anna.sealed"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.unlink()
    file.write_bytes(data)
    found = {difference.what for difference in replay(source(made), 1, told(made)).differences}
    assert "verdict on anna: verdict" in found
    assert "end of the round: adapter" in found


def test_what_is_no_longer_kept_is_said_so(tmp_path: Path) -> None:
    made = Federation(tmp_path, HONEST, ROUNDS)
    made.play()
    assert source(made).rounds == [1, 2, 3, 4]

    purge(made.home, 1.0)
    assert source(made).rounds == [1, 2, 3, 4]
    purge(made.home, 0.0)
    assert source(made).rounds == []
    with pytest.raises(LedgerError, match="not kept for a replay"):
        replay(source(made), 1, told(made))


def test_nothing_is_kept_where_the_operator_does_not_want_it(tmp_path: Path) -> None:
    made = Federation(tmp_path, HONEST, ROUNDS)
    made.house = replace(made.house, settings=made.house.settings.model_copy(update={"replay_days": 0.0}))
    made.play()
    assert not [file for file in made.files() if "replay" in file.parts]


def test_rounds_are_replayed_on_another_machine_from_an_export(tmp_path: Path) -> None:
    """Without the server's key: what was in the letters is disclosed, and the sites' own signatures are checked."""
    made = federation(tmp_path / "fed", BAD, EXAMINED)
    made.sites["s00"].behave(Way.GARBLED_LETTER)
    made.play()
    bundle = tmp_path / "record.zip"
    runner = CliRunner()
    exported = runner.invoke(audit_app, ["export", str(bundle), "--home", str(made.home.root), "--replay", "last"])
    assert exported.exit_code == 0, exported.output
    key = NoteKey(origin_of(FEDERATION), made.house.identity.signing.public)
    for place in (["--bundle", str(bundle)], ["--home", str(tmp_path / "auditor")]):
        if "--home" in place:
            taken = runner.invoke(audit_app, ["import", str(bundle), *place, "--key", str(key)])
            assert taken.exit_code == 0, taken.output
        again = runner.invoke(audit_app, ["replay", RUN, *place, "--json"])
        assert again.exit_code == 0, again.output
        told = json.loads(again.stdout)
        assert told["same"]
        assert [one["number"] for one in told["rounds"]] == [1, 2, 3, 4, 5, 6, 7]


def test_a_disclosure_that_was_changed_is_found_out(tmp_path: Path) -> None:
    made = Federation(tmp_path / "fed", HONEST, ROUNDS)
    made.play()
    parts = dict(disclosed(source(made), RUN))
    name = f"updates/{RUN}/0001/anna.content"
    (content,) = parts[name]
    disclosure = Disclosure(made.house.identity.id, {})
    letter = b"".join(parts[f"updates/{RUN}/0001/anna.letter"])
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    disclosure.contents[hashlib.sha256(sealed_part(letter)).digest()] = bytes(changed)
    expect = Expectation(frozenset({Kind.UPDATE}), FEDERATION)
    with pytest.raises(EnvelopeError):
        open_letter(letter, opener=disclosure, sender=made.sites["anna"].identity.peer, expect=expect,
                    now_ms=int(time.time() * 1000))  # fmt: skip
