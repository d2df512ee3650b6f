"""Rounds of every kind, played by the real server: what they write down holds, and says what happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.settings import RunSettings
from security.audit.people import round_facts
from security.audit.record import Record
from security.audit.verification import Verification, verify_record
from server import pulling, rounds
from server.record import open_server_record
from server.release import release
from tests.integration import test_examined_rounds as examined
from tests.integration import test_judged_rounds as judged
from tests.integration.federation import RUN, SETTINGS, Federation, Way

SITES = ("anna", "bruno", "carla")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds here take fractions of a second, and so may the last sites. Who is dealt together can be foretold."""
    monkeypatch.setattr("secrets.randbits", lambda _: 7)
    monkeypatch.setattr(rounds, "GRACE_S", 0.4)
    monkeypatch.setattr(pulling, "POLL_S", 0.01)


def settings(**other: object) -> RunSettings:
    return SETTINGS.model_copy(update={"rounds": 2, **other})


def hostile(root: Path) -> Federation:
    made = Federation(root, SITES, settings())
    made.sites["carla"].behave(Way.NAN)
    made.play()
    return made


def without_a_quorum(root: Path) -> Federation:
    made = Federation(root, SITES, settings(quorum=3))
    made.sites["carla"].behave(Way.NAN)
    made.play()
    return made


def told_apart(root: Path) -> Federation:
    made = judged.federation(root)
    made.sites["frida"].behave(Way.HUGE)
    made.play()
    return made


def taken_back(root: Path) -> Federation:
    made = examined.federation(root, examined.BAD)
    made.play()
    return made


def released_despite_an_objection(root: Path) -> Federation:
    made = Federation(root, SITES, settings())
    made.sites["bruno"].behave(Way.OBJECTS)
    made.play()
    made.checked()
    release(made.house, made.store, RUN, root / "out", despite="bruno agreed by letter")
    return made


def verified(made: Federation) -> tuple[Record, Verification]:
    with open_server_record(made.home, sign=True) as record:
        return record, verify_record(record)


PLAYS = [hostile, without_a_quorum, told_apart, taken_back, released_despite_an_objection]


@pytest.mark.parametrize("play", PLAYS, ids=lambda one: one.__name__)
def test_what_the_server_writes_down_holds(play: Callable[[Path], Federation], tmp_path: Path) -> None:
    made = play(tmp_path)
    _, told = verified(made)
    assert told.faults == []
    assert told.adapters == sum(row.adapter_digest is not None for row in made.store.rounds(RUN))
    assert told.check.vouched == told.check.size


def test_a_record_says_of_each_round_what_the_servers_store_says(tmp_path: Path) -> None:
    made = taken_back(tmp_path)
    with open_server_record(made.home) as record:
        story = record.chronicle().runs[RUN]
    for row in made.store.rounds(RUN):
        facts = round_facts(story, story.rounds[row.round])
        assert (facts["outcome"], facts["adapter"]) == (row.outcome, row.adapter_digest)
        stored = {verdict.site: verdict for verdict in made.store.verdicts(RUN, row.round)}
        for one in facts["updates"]:
            if "taken_back" not in one:  # which the store writes over what it said before
                assert (one["check"], one["check_name"]) == (stored[one["site"]].number, stored[one["site"]].check)
    back = {site for told in story.rounds.values() for site in told.taken_back}
    assert back == set(examined.BAD)


def test_an_override_is_a_remark_with_its_reason(tmp_path: Path) -> None:
    _, told = verified(released_despite_an_objection(tmp_path))
    (only,) = [one for one in told.remarks if one.what == "released-despite"]
    assert "bruno agreed by letter" in only.words


def test_a_run_that_goes_on_after_a_crash_holds(tmp_path: Path) -> None:
    made = Federation(tmp_path, SITES, settings(rounds=3))

    class PowerCutError(BaseException):
        pass

    post = made.post()

    def turn() -> None:
        if post.pushes == 2:
            raise PowerCutError

    post.on_pull = turn
    with pytest.raises(PowerCutError):
        made.play(post)
    made.play()
    _, told = verified(made)
    assert told.faults == []
    assert [one.what for one in told.remarks if one.what.startswith("round")] == ["round-tried-again"]
