"""Whether entries make sense one after the other: each way that a record may tell wrongly is found, by entry."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.settings import RunSettings
from security.audit.finding import Finding
from security.audit.sense import sense
from security.chronicle import Line
from security.entries import Entry, Joined, Restored, RosterSigned, Rotated, RoundClosed, RunEnded, TakenBack, Update
from tests.ledgers import CLIPPED, LATE, REJECTED, RUN, SITES, Story, a_story, digest, some_members

Tells = Callable[[Story], None]


def found(entries: list[Entry]) -> list[Finding]:
    return list(sense(Line(index, entry) for index, entry in enumerate(entries)))


def begun(rounds: int = 2, settings: RunSettings | None = None) -> Story:
    story = Story()
    story.found(b"k" * 32, digest("authority"))
    story.join(*SITES)
    story.start(RUN, SITES, settings or RunSettings(rounds=rounds))
    return story


def a_round(story: Story, number: int = 1, **odd: object) -> None:
    story.open_round(RUN, number, SITES)
    for site in SITES:
        story.update(RUN, number, site)
    story.close_round(RUN, number, SITES)


def test_a_sound_record_has_no_faults_and_no_remarks() -> None:
    assert found(a_story(some_members()).entries) == []


def test_a_record_without_entries_is_said_to_be_so() -> None:
    (only,) = found([])
    assert (only.what, only.entry) == ("empty", None)


def test_a_run_that_goes_on_after_a_crash_is_sound_and_the_second_try_is_told() -> None:
    story = begun()
    a_round(story, 1)
    story.open_round(RUN, 2, SITES)
    story.update(RUN, 2, "rossi", privacy=None, verdict="refused", check=5, check_name="willing")
    story.end(RUN, "failed", "the round loop stopped")
    story.start(RUN, SITES, RunSettings(rounds=2), resumed=True)
    a_round(story, 2)
    story.end(RUN)
    assert [(one.what, one.fault) for one in found(story.entries)] == [("round-tried-again", False)]


FAULTS: dict[str, tuple[Tells, ...]] = {
    "averaged-unadmitted": (
        lambda story: story.open_round(RUN, 1, SITES),
        lambda story: story.update(RUN, 1, "rossi"),
        lambda story: story.update(RUN, 1, "verdi", **REJECTED),
        lambda story: story.close_round(RUN, 1, ["rossi", "verdi"]),
    ),
    "admitted-unaveraged": (
        lambda story: story.open_round(RUN, 1, SITES),
        lambda story: story.update(RUN, 1, "rossi"),
        lambda story: story.update(RUN, 1, "verdi", **CLIPPED),
        lambda story: story.close_round(RUN, 1, ["rossi"]),
    ),
    "round-from-nowhere": (lambda story: story.close_round(RUN, 1, SITES),),
    "run-from-nowhere": (lambda story: story.end("20261102-091500-ffff"),),
    "run-twice": (lambda story: story.start(RUN, SITES, RunSettings(rounds=2)),),
    "run-changed": (lambda story: story.start(RUN, SITES, RunSettings(rounds=3), resumed=True),),
    "round-out-of-order": (lambda story: a_round(story, 2),),
    "round-reopened": (
        lambda story: a_round(story, 1),
        lambda story: story.open_round(RUN, 1, SITES),
    ),
    "round-closed-twice": (
        lambda story: a_round(story, 1),
        lambda story: story.close_round(RUN, 1, SITES),
    ),
    "round-after-end": (
        lambda story: story.end(RUN, "stopped"),
        lambda story: story.open_round(RUN, 1, SITES),
    ),
    "verdict-too-late": (
        lambda story: a_round(story, 1),
        lambda story: story.update(RUN, 1, "rossi", **LATE),
    ),
    "verdict-of-nobody": (
        lambda story: story.open_round(RUN, 1, ["rossi"]),
        lambda story: story.update(RUN, 1, "verdi", **LATE),
    ),
    "verdict-check": (
        lambda story: story.open_round(RUN, 1, SITES),
        lambda story: story.update(RUN, 1, "rossi", check=7, check_name="schema"),
    ),
    "weight-of-nothing": (
        lambda story: story.entries.extend(_opened(story, Update.model_validate({**_rejected(story), "weight": 0.5}))),
    ),
    "privacy-untold": (
        lambda story: story.open_round(RUN, 1, SITES),
        lambda story: story.update(RUN, 1, "rossi", privacy=None),
    ),
    "privacy-overspent": (
        lambda story: story.open_round(RUN, 1, SITES),
        lambda story: story.update(RUN, 1, "rossi", privacy=_epsilon(9.0)),
    ),
    "privacy-backwards": (
        lambda story: a_round(story, 1),
        lambda story: story.open_round(RUN, 2, SITES),
        lambda story: story.update(RUN, 2, "rossi", privacy=_epsilon(1.0)),
    ),
    "adapter-from-nowhere": (
        lambda story: a_round(story, 1),
        lambda story: story.adapters.update({(RUN, 1): b"another"}),
        lambda story: story.open_round(RUN, 2, SITES),
    ),
    "asked-stranger": (lambda story: story.open_round(RUN, 1, [*SITES, "vandal"]),),
    "round-outcome": (
        lambda story: story.open_round(RUN, 1, SITES),
        lambda story: story.close_round(RUN, 1, [], "measured"),
    ),
    "run-short": (lambda story: story.end(RUN, "finished"),),
    "checked-another": (
        lambda story: a_round(story, 1),
        lambda story: story.adapters.update({(RUN, 1): b"another"}),
        lambda story: story.check(RUN, 1),
    ),
    "checked-wrongly": (
        lambda story: a_round(story, 1),
        lambda story: story.check(RUN, 1, after=0.3, worse=False),
    ),
    "released-another": (
        lambda story: a_round(story, 1),
        lambda story: story.adapters.update({(RUN, 1): b"another"}),
        lambda story: story.release(RUN, 1),
    ),
    "taken-back-unaveraged": (
        lambda story: a_round(story, 1),
        lambda story: story.entries.append(_taken_back(story, 1, 2, "vandal")),
    ),
    "taken-back-before": (
        lambda story: a_round(story, 1),
        lambda story: story.entries.append(_taken_back(story, 1, 1, "rossi")),
    ),
    "averaged-revoked": (
        lambda story: story.revoke("rossi", "left"),
        lambda story: a_round(story, 1),
    ),
    "joined-twice": (
        lambda story: story.entries.append(Joined(at=story.at(), member=story.site("rossi"), keys=digest("again"))),
    ),
    "revoked-twice": (
        lambda story: story.revoke("rossi", "left"),
        lambda story: story.revoke("rossi", "left"),
    ),
    "revoked-stranger": (lambda story: story.revoke("nobody", "left"),),
    "reinstated-stranger": (lambda story: story.reinstate("nobody", "talked to them"),),
    "rotation-missing": (
        lambda story: story.entries.append(
            Rotated(at=story.at(), member=story.site("rossi"), serial=2, keys=digest("new"))
        ),
    ),
    "roster-backwards": (
        lambda story: story.entries.append(RosterSigned(at=story.at(), version=2, digest=digest("roster"))),
    ),
    "beginning": (lambda story: story.found(b"k" * 32, digest("authority")),),
    "operator-revoked": (
        lambda story: story.entries.append(_revoked_operator(story)),
        lambda story: story.start("20261103-101500-cd34", SITES, RunSettings()),
    ),
    "round-without-adapter": (
        lambda story: story.entries.extend(
            _opened(
                story,
                RoundClosed(
                    at=story.at(),
                    run=RUN,
                    round=1,
                    outcome="aggregated",
                    rule="weighted mean",
                    averaged=[],
                    adapter=None,
                ),
            )
        ),
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_found_at_the_entry_that_tells_it(what: str) -> None:
    story = begun()
    before = len(story.entries)
    for tell in FAULTS[what]:
        tell(story)
    wrong = [one for one in found(story.entries) if one.fault]
    assert what in {one.what for one in wrong}
    assert all(one.entry is not None and before <= one.entry < len(story.entries) for one in wrong)


def test_a_clock_that_goes_back_is_a_remark_and_a_little_is_none() -> None:
    story = begun()
    story.now -= 30
    a_round(story, 1)
    assert found(story.entries) == []
    story.now -= 7200
    a_round(story, 2)
    (only,) = found(story.entries)
    assert (only.what, only.fault) == ("clock", False)
    assert "7199 s" in only.words


def test_a_restored_server_may_sign_the_versions_again_that_were_lost_and_is_told() -> None:
    story = begun()
    story.entries.append(Restored(at=story.at(), roster=3))
    story.entries.append(RosterSigned(at=story.at(), version=3, digest=digest("roster 3")))
    assert [(one.what, one.fault) for one in found(story.entries)] == [("restored", False)]


def test_a_release_despite_an_objection_is_a_remark_with_its_reason() -> None:
    story = begun()
    a_round(story, 1)
    story.release(RUN, 1, despite="rossi agreed by letter")
    (only,) = found(story.entries)
    assert (only.what, only.fault) == ("released-despite", False)
    assert "rossi agreed by letter" in only.words


def test_a_round_left_open_by_a_run_that_ended_is_a_remark() -> None:
    story = begun()
    story.open_round(RUN, 1, SITES)
    story.entries.append(RunEnded(at=story.at(), run=RUN, status="stopped", reason="by anna"))
    assert [(one.what, one.fault) for one in found(story.entries)] == [("round-left-open", False)]


def test_a_run_without_privacy_need_tell_none() -> None:
    story = begun(1, RunSettings(rounds=1, privacy=False))
    story.open_round(RUN, 1, SITES)
    for site in SITES:
        story.update(RUN, 1, site, privacy=None)
    story.close_round(RUN, 1, SITES)
    assert found(story.entries) == []


def _epsilon(spent: float) -> dict[str, object]:
    return {
        "epsilon": spent, "delta": 1e-4, "unit": "drawing", "multiplier": 1.1, "clip": 1e-3, "rate": 0.25, "steps": 2,
        "multiplicity": 4,
    }  # fmt: skip


def _opened(story: Story, *entries: Entry) -> list[Entry]:
    story.open_round(RUN, 1, SITES)
    return list(entries)


def _rejected(story: Story) -> dict[str, object]:
    return {"at": story.at(), "run": RUN, "round": 1, "site": "rossi", **REJECTED}


def _taken_back(story: Story, number: int, found_in: int, site: str) -> TakenBack:
    return TakenBack(
        at=story.at(), run=RUN, round=number, found_in=found_in, sites=[site], reason="it made the model worse"
    )


def _revoked_operator(story: Story) -> Entry:
    from security.entries import Revoked

    return Revoked(at=story.at(), member=story.operator, reason="left")
