"""Judging round after round: learning goes on aside, is waited for, and is not lost when it breaks."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from common.adapter_schema import Adapter, AdapterSchema, LoraModule
from common.settings import DetectorSettings
from security.detector import Rows
from security.features import Frame, Imprint, features_of
from security.judgement import Judgement
from security.rehearsal import Rehearsal
from server.judging import Judging, Sitting

SCHEMA = AdapterSchema((LoraModule("mid_block.q", 24, 20, 2), LoraModule("up_blocks.k", 16, 20, 2)))
START = Adapter(SCHEMA, np.ones(SCHEMA.numel("A"), np.float32), np.zeros(SCHEMA.numel("B"), np.float32))
FRAME = Frame(START, "B", 7)
SITES = tuple("abcdef")
SETTINGS = DetectorSettings(kind="knn", false_rejections=0.05)


@pytest.fixture
def judging() -> Judging:
    played = {number: features_of(honest(number), FRAME) for number in range(1, 41)}
    return Judging(SETTINGS, Rehearsal("made here", Rows.of(played)).to_bytes())


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Is open at the end, whatever a test did, so that no thread stays before it."""
    gate = threading.Event()
    yield gate
    gate.set()


def honest(seed: int) -> dict[str, Imprint]:
    chance = np.random.default_rng(seed)
    common = chance.standard_normal(SCHEMA.numel("B"))
    made = [(common + chance.standard_normal(len(common))).astype(np.float32) for _ in SITES]
    return {site: FRAME.imprint(update, 10) for site, update in zip(SITES, made, strict=True)}


def judged(judging: Judging, number: int) -> Judgement:
    sitting = Sitting(number, FRAME, [])
    sitting._imprints = honest(100 + number)
    return judging.judge(sitting, SITES)


def test_learning_aside_holds_nobody_up_and_is_what_learning_at_once_would_be(
    judging: Judging, gate: threading.Event
) -> None:
    kept: list[bytes] = []

    def slowly(memory: bytes) -> None:
        gate.wait(30)
        kept.append(memory)

    first = judged(judging, 1)
    judging.learn_aside(1, first, slowly)
    assert not kept, "it returned while what was learned was being kept"
    gate.set()
    judging.wait()
    again = Judging(SETTINGS, judging._rehearsal)
    assert kept == [again.learn(1, judged(again, 1))]


def test_the_next_round_is_judged_by_what_was_learned_aside(judging: Judging) -> None:
    kept: list[bytes] = []
    judging.learn_aside(1, judged(judging, 1), kept.append)
    second = judged(judging, 2)
    assert len(kept) == 1, "judging waits"
    resumed = Judging(SETTINGS, judging._rehearsal, kept[0])
    assert judged(resumed, 2).findings == second.findings


def test_what_breaks_aside_breaks_for_who_waits_and_only_once(judging: Judging) -> None:
    def full(memory: bytes) -> None:
        raise OSError("no room")

    judging.learn_aside(1, judged(judging, 1), full)
    with pytest.raises(OSError, match="no room"):
        judging.wait()
    judging.wait()
    assert judged(judging, 2).findings.keys() == set(SITES)
