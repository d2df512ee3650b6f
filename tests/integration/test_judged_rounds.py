"""Rounds whose updates are judged: rejected, cut down, remembered, and what is said where nothing can be said."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from common.settings import AggregationSettings, DetectorSettings, RunSettings
from security.detector import Rows
from security.features import Frame, features_of
from security.rehearsal import Rehearsal
from server import pulling, rounds
from server.judging import JudgingFiles
from server.start import fresh_state
from tests.integration.federation import RUN, SCHEMA, SETTINGS, Federation, Way, a_delta

SITES = ("anna", "bruno", "carla", "dora", "emil", "frida")
JUDGED = SETTINGS.model_copy(
    update={
        "rounds": 2, "quorum": 3, "detector": DetectorSettings(kind="knn", false_rejections=0.05),
        "aggregation": AggregationSettings(norm_bound=1e6, refresh_every=0),
    }
)  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds here take fractions of a second, and so may the last sites."""
    monkeypatch.setattr(rounds, "GRACE_S", 0.4)
    monkeypatch.setattr(pulling, "POLL_S", 0.01)


def rehearsal() -> Rehearsal:
    """What sites of this federation do when they are honest, in rounds that never were."""
    start = fresh_state(SCHEMA, JUDGED).adapter
    frame = Frame(start, "B", 11)
    zero = np.zeros(SCHEMA.numel("B"), np.float32)
    played = {
        number: features_of({name: frame.imprint(a_delta(f"{name}{number}", 1, zero), 12) for name in SITES}, frame)
        for number in range(1, 31)
    }
    return Rehearsal("made here", Rows.of(played))


def federation(root: Path, settings: RunSettings = JUDGED, *, rehearsed: bool = True) -> Federation:
    made = Federation(root, SITES, settings)
    if rehearsed:
        files(made).keep_rehearsal(rehearsal().to_bytes())
    return made


def files(made: Federation) -> JudgingFiles:
    return JudgingFiles(made.home.run(RUN), RUN, made.house.keys.vault)


def test_honest_sites_are_averaged_as_without_a_detector(tmp_path: Path) -> None:
    judged = federation(tmp_path / "judged", rehearsed=False)
    plain = federation(tmp_path / "plain", JUDGED.model_copy(update={"detector": False}), rehearsed=False)
    for one in (judged, plain):
        one.play()
    assert set(judged.checks().values()) == {"admitted"}
    assert judged.digest(2) == plain.digest(2)


def test_a_huge_update_is_rejected_and_the_round_is_as_if_it_had_not_come(tmp_path: Path) -> None:
    attacked = federation(tmp_path / "attacked", rehearsed=False)
    without = Federation(tmp_path / "without", SITES[:-1], JUDGED)
    attacked.sites["frida"].behave(Way.HUGE)
    attacked.play()
    without.play()
    for number in (1, 2):
        verdict = attacked.verdicts(number)["frida"]
        assert (verdict.admitted, verdict.check, verdict.number) == (False, "size", 15)
        assert "times as large as the others are" in verdict.reason
        assert attacked.outcome(number) == "aggregated"
    assert attacked.digest(1) == without.digest(1)


def test_two_that_send_the_same_are_rejected(tmp_path: Path) -> None:
    made = federation(tmp_path, rehearsed=False)
    for name in ("emil", "frida"):
        made.sites[name].easel._site = "one hand"
    made.play()
    assert {name: made.checks()[name] for name in ("emil", "frida")} == {"emil": "copy", "frida": "copy"}
    assert {made.checks()[name] for name in SITES[:4]} == {"admitted"}


def test_a_round_that_has_too_few_left_keeps_the_adapter(tmp_path: Path) -> None:
    made = federation(tmp_path, JUDGED.model_copy(update={"quorum": 5}))
    for name in ("emil", "frida"):
        made.sites[name].easel._site = "one hand"
    made.play()
    assert made.outcome(1) == "kept"
    assert not made.state(1).adapter.b.any()


def test_the_store_says_whether_the_detector_judged(tmp_path: Path) -> None:
    judged, unsure = federation(tmp_path / "judged"), federation(tmp_path / "unsure", rehearsed=False)
    for made in (judged, unsure):
        made.play()
    assert judged.store.unsure(RUN, 1) == ""
    assert judged.store.metrics(RUN, 1)["anna"]["p_value"] > 0
    assert unsure.store.unsure(RUN, 1) == "there is no rehearsal of this run to know honest updates from"
    assert unsure.outcome(1) == "aggregated"


def test_a_run_that_waits_keeps_the_adapter_while_the_detector_cannot_judge(tmp_path: Path) -> None:
    waits = JUDGED.model_copy(update={"detector": DetectorSettings(unsure="wait")})
    made = federation(tmp_path, waits, rehearsed=False)
    made.play()
    assert [made.outcome(number) for number in (1, 2)] == ["kept", "kept"]
    assert set(made.checks().values()) == {"admitted"}


def test_what_was_learned_is_remembered_encrypted_and_used_by_the_next_loop(tmp_path: Path) -> None:
    made = federation(tmp_path)
    made.play()
    file = made.home.run(RUN) / "detector.sealed"
    assert b"values" not in file.read_bytes()
    memory = files(made)._read("detector")
    assert memory is not None
    learning = files(made).judging(DetectorSettings(kind="knn"))._learned(3)
    assert sorted(set(learning._accepted.rounds.tolist())) == [1, 2]
    earlier = files(made).judging(DetectorSettings(kind="knn"))._learned(2)
    assert sorted(set(earlier._accepted.rounds.tolist())) == [1], "a round that was not closed is not learned from"


def test_a_damaged_memory_is_left_aside_and_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = federation(tmp_path)
    made.home.run(RUN).mkdir(parents=True, exist_ok=True)
    (made.home.run(RUN) / "detector.sealed").write_bytes(b"x" * 100)
    with caplog.at_level(logging.WARNING, "bottega.rounds"):
        made.play()
    assert made.outcome(2) == "aggregated"
    assert "the file of the run's detector is of no use" in caplog.text
    assert made.store.unsure(RUN, 1) == ""


def test_a_damaged_rehearsal_leaves_the_detector_unsure(tmp_path: Path) -> None:
    made = federation(tmp_path, rehearsed=False)
    files(made).keep_rehearsal(rehearsal().to_bytes()[:-5])
    made.play()
    assert made.store.unsure(RUN, 1) == "there is no rehearsal of this run to know honest updates from"
    assert made.outcome(1) == "aggregated"
