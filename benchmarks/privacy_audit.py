"""What an attacker can tell of private training: ``python -m benchmarks.privacy_audit [--quick] [--json]``.

The one-run audit of :mod:`client.privacy_audit`, on the real :func:`client.private_training.train_privately` with the
embedded base: 16 steps, one drawing, and thousands of canaries that are in or out by fair coins.

* *honest*: for claimed epsilon 1, 3 and 8 (delta 1e-5), with full batches and with Poisson samples at a rate of 1/4.
  All bounds of one claim hold together at 95 %. Full batches are where a bound can be tight: under Poisson samples the
  canary's own coins blur its score, and the scores' mean shows less than the whole law of the samples would.
* *broken*: the six seeded bugs of ``tests/attacks/broken_privacy.py``, each against all three claims. One counts as
  caught when every claim is refuted. Shuffled batches, which no bound of such a size can tell from Poisson samples, are
  caught by the samples themselves, read from steps with hardly any noise. The training as it is goes through the same,
  as a control: it must not be caught.

Noise and coins come from fixed seeds, so that the figures can be made again; one row more is with noise that cannot be
foretold, as sites use it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor

from benchmarks.reporting import Bar, finish, table
from client.privacy_audit import Audit, audit_training, contributions, flip_coins, poisson_p_value, right_angles
from common.models import Base, load_base
from common.settings import LoraSettings
from security.noise import NoiseSource, SecureNoise, SeededNoise
from tests.attacks.broken_privacy import BUGS, DELTA, subject_of

CLAIMS = (1, 3, 8)
STEPS = 16
SAMPLED = 0.25
RUNS = ((1.0, 1), (1.0, 2), (SAMPLED, 3))
"""Sampling rate and seed of the honest runs of each claim."""
CONFIDENCE = 1 - 0.05 / len(RUNS)
FFA, BOTH = LoraSettings(rank=2), LoraSettings(rank=1, method="both")
SHUFFLED = "shuffled, not Poisson"
NOT_POISSON = 1e-6
"""A p-value below which samples are no Poisson samples."""


@dataclass(frozen=True)
class Honest:
    """One audit of the training as it is."""

    rate: float
    noise: str
    audit: Audit


@dataclass(frozen=True)
class Broken:
    """What was found of one seeded bug."""

    name: str
    audits: tuple[Audit, ...]
    p_value: float | None
    """That the samples are Poisson samples; none for full batches."""

    @property
    def caught(self) -> bool:
        """Whether no claim is left standing."""
        return (self.p_value is not None and self.p_value < NOT_POISSON) or all(audit.refuted for audit in self.audits)


def main() -> None:
    """Audit, print the tables and the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help="500 canaries instead of 4000")
    args = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base()
    honest = _honest(base, canaries=500 if args.quick else 4000)
    control, *broken = _broken(base, canaries=500)
    if not args.json:
        _print(honest, [control, *broken])
    bounds = {claim: [h for h in honest if h.audit.claimed == claim and h.noise == "seeded"] for claim in CLAIMS}
    bars = [Bar(f"lower_bound_below_claim_{c}", max(h.audit.bound for h in bounds[c]), c) for c in CLAIMS]
    bars.append(Bar("seeded_bugs_caught", sum(one.caught for one in broken), len(BUGS), at_least=True))
    bars.append(Bar("honest_training_caught", float(control.caught), 0))
    figures = {
        f"full_batch_bound_over_claim_{c}": mean(h.audit.bound / c for h in bounds[c] if h.rate == 1) for c in CLAIMS
    }
    figures |= {f"lower_bound_by_guesses_{c}": max(_by_guesses(h.audit) for h in bounds[c]) for c in CLAIMS}
    finish(bars, figures, quiet=args.json)


def _honest(base: Base, canaries: int) -> list[Honest]:
    directions = right_angles(canaries, subject_of(base, FFA, STEPS, 1.0, 8).size, seed=1)
    runs = [
        Honest(rate, "seeded", _audit(base, FFA, directions, claim, rate, seed, SeededNoise(seed)))
        for claim in CLAIMS
        for rate, seed in RUNS
    ]
    return [*runs, Honest(1.0, "secure", _audit(base, FFA, directions, 3, 1.0, 4, SecureNoise()))]


def _broken(base: Base, canaries: int) -> list[Broken]:
    directions = right_angles(canaries, subject_of(base, BOTH, STEPS, 1.0, 8).size, seed=1)
    return [_attacked(base, directions, name) for name in ("", *BUGS)]


def _attacked(base: Base, directions: Tensor, name: str) -> Broken:
    rate = SAMPLED if name in ("", SHUFFLED) else 1.0
    with BUGS[name](STEPS) if name else nullcontext():
        audits = tuple(_audit(base, BOTH, directions, claim, rate, 5, SeededNoise(5)) for claim in CLAIMS)
        if rate == 1.0:
            return Broken(name, audits, None)
        added = contributions(subject_of(base, BOTH, STEPS, rate, 3), directions, SeededNoise(6), seed=6)
    return Broken(name or "none", audits, poisson_p_value(added > 0.5, rate))


def _audit(
    base: Base, lora: LoraSettings, directions: Tensor, claim: float, rate: float, seed: int, source: NoiseSource
) -> Audit:
    subject = subject_of(base, lora, STEPS, rate, claim)
    return audit_training(subject, flip_coins(directions, seed), source, claim, DELTA, CONFIDENCE)


def _by_guesses(audit: Audit) -> float:
    return max(one.by_guesses for one in audit.findings)


def _print(honest: Iterable[Honest], broken: Iterable[Broken]) -> None:
    table(
        f"epsilon at least, of the training as it is (delta {DELTA:g})",
        ("claimed", "rate", "noise", "view", "guesses", "by guesses", "by scores", "of the claim"),
        [
            (
                f"{h.audit.claimed:g}", f"{h.rate:g}", h.noise, one.view, f"{one.right}/{one.guesses}",
                f"{one.by_guesses:.2f}", f"{one.by_scores:.2f}", f"{one.by_scores / h.audit.claimed:.0%}",
            )
            for h in honest
            for one in h.audit.findings
        ],
    )  # fmt: skip
    table(
        "epsilon at least, of broken training",
        ("seeded bug", *(f"claimed {claim}" for claim in CLAIMS), "p of Poisson", ""),
        [
            (
                one.name, *(f"{a.bound:.3g}" for a in one.audits),
                "" if one.p_value is None else f"{one.p_value:.2g}", "caught" if one.caught else "",
            )
            for one in broken
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
