"""Rounds that sites examine: who makes the model worse for others is left out, and what they did is taken back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from common.adapter_schema import Adapter
from common.settings import AggregationSettings, DetectorSettings, RunSettings
from server import pulling, rounds
from tests.integration.federation import RUN, SCHEMA, SETTINGS, Easel, Federation, Way

SITES = tuple(f"s{place:02}" for place in range(9))
BAD = ("s02", "s06")
TARGET = np.random.default_rng(0).standard_normal(SCHEMA.numel("B")).astype(np.float32)
EXAMINED = SETTINGS.model_copy(
    update={
        "rounds": 6, "quorum": 3, "detector": DetectorSettings(),
        "aggregation": AggregationSettings(norm_bound=1e6, refresh_every=0),
    }
)  # fmt: skip


class Painter(Easel):
    """A bench whose held-out drawings are liked best where B is the target, and that learns to get there.

    Args:
        site: Whose.
        bad: Whether it learns to get away from there, as who was given wrong drawings does.
        slander: Whether its ballots speak against what is good.
    """

    def __init__(self, site: str, *, bad: bool, slander: bool = False) -> None:
        super().__init__(site, Way.HONEST)
        self._bad, self._slander = bad, slander
        self.candidates: list[int] = []

    def learned(self, number: int, adapter: Adapter) -> NDArray[np.float32]:
        own = np.random.default_rng([number, int(self._site[1:])]).standard_normal(adapter.b.size)
        towards = (-0.3 if self._bad else 0.3) * (TARGET - adapter.b)
        return (towards + 0.05 * own).astype(np.float32)

    def ballot(self, adapter: Adapter, candidates: Sequence[Adapter]) -> list[float]:
        self.candidates.append(len(candidates))
        if not candidates:
            return []
        before, *groups = (float(np.linalg.norm(one.b - TARGET)) for one in candidates)
        told = [before - float(np.linalg.norm(adapter.b - TARGET)), *(before - group for group in groups)]
        return [-one for one in told] if self._slander else told


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds here take fractions of a second, and so may the last sites. Who is dealt together can be foretold."""
    monkeypatch.setattr("secrets.randbits", lambda _: 7)
    monkeypatch.setattr(rounds, "GRACE_S", 0.4)
    monkeypatch.setattr(pulling, "POLL_S", 0.01)


def federation(
    root: Path, bad: Collection[str] = (), settings: RunSettings = EXAMINED, names: Sequence[str] = SITES
) -> Federation:
    made = Federation(root, names, settings)
    for name, site in made.sites.items():
        site.easel = Painter(name, bad=name in bad, slander=name in bad)
        site.restart()
    return made


def distance(made: Federation, number: int) -> float:
    return float(np.linalg.norm(made.state(number).adapter.b - TARGET))


def left_out(made: Federation, number: int) -> set[str]:
    return {name for name, verdict in made.verdicts(number).items() if verdict.check == "harm"}


def test_sites_that_make_it_worse_are_left_out_and_what_they_did_last_is_taken_back(tmp_path: Path) -> None:
    made = federation(tmp_path / "examined", BAD)
    made.play()
    found = [left_out(made, number) for number in range(1, 7)]
    assert found[-1] == set(BAD)
    assert set.union(*found) == set(BAD), "nobody else is ever left out"
    first = next(number for number, one in enumerate(found, start=1) if one)
    assert first <= 4
    back, out = made.verdicts(first)["s02"], made.verdicts(first + 1)["s02"]
    assert (back.admitted, back.number) == (out.admitted, out.number) == (False, 18)
    assert back.reason.startswith("taken back a round later: on the held-out drawings of the other sites, a round goes")
    assert "because of s02, s06" in out.reason
    assert made.store.metrics(RUN, first)["s02"], "what the site reported stays on record"
    plain = federation(tmp_path / "plain", BAD, EXAMINED.model_copy(update={"detector": False}))
    plain.play()
    assert distance(made, 6) < 0.8 * distance(plain, 6)


def test_the_adapter_is_what_it_would_be_without_the_round_that_was_taken_back(tmp_path: Path) -> None:
    made = federation(tmp_path, BAD)
    made.play()
    first = next(number for number in range(1, 7) if left_out(made, number))
    honest = [name for name in SITES if name not in BAD]
    begun = made.state(first - 1).adapter if first > 1 else None
    start = begun.b if begun else np.zeros_like(TARGET)
    painters = {name: site.easel for name, site in made.sites.items()}
    weight = 10 + len("s00")
    corrected = start + np.mean(
        [painters[name].learned(first, Adapter(SCHEMA, made.state(first).adapter.a, start)) * weight / weight
         for name in honest], axis=0,
    )  # fmt: skip
    sent = made.state(first).adapter
    expected = corrected + np.mean([painters[name].learned(first + 1, sent) for name in honest], axis=0)
    np.testing.assert_allclose(made.state(first + 1).adapter.b, expected, atol=2e-3)


@pytest.mark.parametrize("refresh_every", [0, 1])
def test_where_all_are_honest_nobody_is_left_out_and_the_result_is_the_same(tmp_path: Path, refresh_every: int) -> None:
    settings = EXAMINED.model_copy(
        update={"rounds": 4, "aggregation": AggregationSettings(norm_bound=1e6, refresh_every=refresh_every)}
    )
    examined = federation(tmp_path / "examined", settings=settings)
    plain = federation(tmp_path / "plain", settings=settings.model_copy(update={"detector": False}))
    for made in (examined, plain):
        made.play()
    assert not any(left_out(examined, number) for number in range(1, 5))
    assert examined.digest(4) == plain.digest(4)


def test_candidates_are_sent_from_the_second_round_on_and_not_with_the_last_look(tmp_path: Path) -> None:
    made = federation(tmp_path, settings=EXAMINED.model_copy(update={"rounds": 3}))
    made.play()
    easel = made.sites["s00"].easel
    assert isinstance(easel, Painter)
    assert easel.candidates == [0, 7, 7], "where the round began, and twice three groups of three"
    assert not any("spool" in file.parts for file in made.files()), "nothing of a round that is over stays"


def test_with_fewer_than_six_sites_nothing_is_asked(tmp_path: Path) -> None:
    made = federation(tmp_path, settings=EXAMINED.model_copy(update={"rounds": 2}), names=SITES[:5])
    made.play()
    easel = made.sites["s00"].easel
    assert isinstance(easel, Painter)
    assert easel.candidates == [0, 0]


def test_a_loop_that_is_started_again_forgets_the_question_and_goes_on(tmp_path: Path) -> None:
    made = federation(tmp_path, BAD, EXAMINED.model_copy(update={"rounds": 2}))
    made.play()
    rounds_before = made.store.last_closed(RUN)
    made.settings = EXAMINED.model_copy(update={"rounds": 2})
    made.play()
    assert rounds_before == made.store.last_closed(RUN) == 2
    assert not any("spool" in file.parts for file in made.files())
