"""Ballots: they speak for what brings held-out drawings further, and no drawing has more of a say than it may."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from client.ballot import Secrecy, _gains, cast
from client.dataset import TrainingSet
from client.training import train
from client.units import Unit
from common.adapter_schema import Adapter
from common.models import Base, attach_lora
from common.quantise import Flat
from common.settings import LoraSettings, RunSettings, TrainingSettings
from security.accounting import Steps
from security.noise import SecureNoise, SeededNoise
from server.start import fresh_state

LORA = LoraSettings(rank=2, targets=("to_q", "to_v"))
RUN = RunSettings(lora=LORA, privacy=False)
Latents = Callable[[int], TrainingSet]


class Silence:
    """A source of no noise, whose coins all fall alike."""

    def __init__(self, coin: float = 0.5) -> None:
        self._coin = coin

    def normals(self, count: int) -> np.ndarray:
        return np.zeros(count)

    def uniforms(self, count: int) -> np.ndarray:
        return np.full(count, self._coin)


def units(*rows: int) -> list[Unit]:
    return [Unit(frozenset(), (row,)) for row in rows]


def adapters(base: Base, *scales: float) -> list[Adapter]:
    """Return adapters that differ in B alone, by so much."""
    fresh = fresh_state(attach_lora(base.unet, LORA), RUN).adapter
    change = np.random.default_rng(0).standard_normal(fresh.b.size).astype(np.float32)
    return [replace(fresh, b=np.asarray(fresh.b + np.float32(scale) * change, np.float32)) for scale in scales]


def test_a_ballot_speaks_for_what_was_learned_and_against_its_opposite(base: Base, latents: Latents) -> None:
    before = fresh_state(attach_lora(base.unet, LORA), RUN).adapter
    data = latents(8)
    learned: Flat = train(base, before, data, LORA, TrainingSettings(steps=6, batch=8), 1).delta
    after, half, opposite = (replace(before, b=before.b + np.float32(share) * learned) for share in (1, 0.5, -1))
    ballot = cast(base, after, [before, half, opposite], data, units(*range(8)))
    assert np.linalg.norm(ballot) == pytest.approx(1)
    assert ballot[0] > 0
    assert ballot[2] < 0 < ballot[1]


def test_without_candidates_or_drawings_nothing_is_said(base: Base, latents: Latents) -> None:
    before, after = adapters(base, 0.0, 0.1)
    assert cast(base, after, [], latents(4), units(0, 1)) == []
    assert cast(base, after, [before, after], latents(4), []) == []
    assert cast(base, before, [before, before], latents(4), units(0, 1)) == [], "no drawing prefers what is the same"


def said(base: Base, data: TrainingSet, seen: Sequence[Unit], secrecy: Secrecy | None = None) -> np.ndarray:
    before, after, other = adapters(base, 0.0, 0.2, -0.3)
    return np.array(cast(base, after, [before, other], data, seen, secrecy))


def test_what_a_drawing_says_does_not_hang_on_the_others(base: Base, latents: Latents) -> None:
    """The sum of two drawings' unit vectors, each taken alone, is what both say together."""
    data = latents(6)
    alone = [said(base, data, units(row)) for row in (1, 4)]
    together = said(base, data, units(1, 4))
    summed = alone[0] + alone[1]
    np.testing.assert_allclose(together, summed / np.linalg.norm(summed), atol=1e-6)


@pytest.mark.parametrize("apart", [0.3, 1e-5, 1e-7])
def test_however_near_the_candidates_no_drawing_moves_what_another_says(
    base: Base, latents: Latents, apart: float
) -> None:
    """The server chooses candidates. Rounding that hung on the others would be as loud as a drawing, at unit length."""
    data = latents(6)
    near = adapters(base, 0.0, apart, -apart)
    everybody = _gains(base, near, data, units(*range(6)))
    for row in (0, 5):
        torch.testing.assert_close(_gains(base, near, data, units(row))[0], everybody[row], rtol=0, atol=0)
    without = _gains(base, near, data, units(*(other for other in range(6) if other != 3)))
    torch.testing.assert_close(without[3], everybody[4], rtol=0, atol=0)


def test_what_is_within_rounding_says_nothing(base: Base, latents: Latents) -> None:
    before, after = adapters(base, 0.0, 1e-7)
    assert cast(base, after, [before, after], latents(4), units(0, 1)) == []


def test_a_unit_of_several_rows_has_one_say(base: Base, latents: Latents) -> None:
    data = latents(6)
    twice = Unit(frozenset(), (2, 2))
    np.testing.assert_allclose(said(base, data, [twice, *units(3)]), said(base, data, units(2, 3)), atol=1e-6)


def test_a_secret_ballot_looks_at_a_poisson_sample(base: Base, latents: Latents) -> None:
    data, step = latents(4), Steps(1.0, 0.3, 1)
    assert said(base, data, units(0, 1), Secrecy(step, Silence(0.9))).size == 0, "no coin fell for any, and no noise"
    all_seen = said(base, data, units(0, 1), Secrecy(step, Silence(0.2)))
    np.testing.assert_allclose(all_seen, said(base, data, units(0, 1)), atol=1e-6)


def test_without_drawings_a_secret_ballot_is_noise_of_the_same_length(base: Base, latents: Latents) -> None:
    ballot = said(base, latents(2), [], Secrecy(Steps(2.0, 1.0, 1), SecureNoise()))
    assert ballot.shape == (2,)
    assert np.linalg.norm(ballot) == pytest.approx(1)


def test_the_noise_is_of_the_multiplier(base: Base, latents: Latents, monkeypatch: pytest.MonkeyPatch) -> None:
    """The angle of the sum of n equal unit vectors under noise tells its deviation; KS at sigma, not at 2/3 or 3/2."""
    data, sigma, count = latents(4), 0.5, 3
    plain = said(base, data, units(*[1] * count))
    monkeypatch.setattr("client.ballot._gains", lambda *_: torch.tensor(plain, dtype=torch.float32).repeat(count, 1))
    across = np.array([-plain[1], plain[0]])
    before, after, other = adapters(base, 0.0, 0.2, -0.3)
    seen_thrice = units(*[1] * count)
    told = [
        np.array(cast(base, after, [before, other], data, seen_thrice, Secrecy(Steps(sigma, 1.0, 1), SeededNoise(s))))
        for s in range(400)
    ]
    chance = np.random.default_rng(7)

    def angles(deviation: float) -> np.ndarray:
        noisy = chance.normal((count, 0), deviation, (20_000, 2))
        return np.arctan2(noisy[:, 1], noisy[:, 0])

    seen = [float(np.arctan2(one @ across, one @ plain)) for one in told]
    assert kstest(seen, angles(sigma)).pvalue > 0.01
    assert kstest(seen, angles(sigma * 2 / 3)).pvalue < 1e-3
    assert kstest(seen, angles(sigma * 3 / 2)).pvalue < 1e-3
