"""How a site stands: what its updates were found to be in the rounds of all runs, the late ones more than the early.

Each update that was no honest work counts 1, and with each later one of the same site that count is worth a fifth
less: so a site's record decays, and honest work mends it. Three in a row suspend a site, or every second of nine; one
in three never does, nor does an honest site that is rejected once in a hundred rounds.

A suspended site is asked by no new run until an operator reinstates it. A run that is under way goes on asking it: its
order names it, and every round is judged by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from security.admission import Check

COUNTING = (
    Check.SCHEMA, Check.FINITE, Check.CLAIMS, Check.NORM, Check.PRIVACY, Check.SIZE, Check.COPY, Check.ANOMALY,
    Check.HARM,
)  # fmt: skip
"""The checks that tell of dishonest work, or of broken work. A late answer or an unwilling site does no harm."""

KEPT = 0.8
"""What is left of a count with each update that follows."""

SUSPENDED_FROM = 2.4

REMEMBERED = 40
"""Updates that are looked at; what came before them weighs less than 0.001."""


def weight_of(rejected: Sequence[bool]) -> float:
    """Return how heavily a site's rejections weigh.

    Args:
        rejected: Of each of its updates, the earliest first, whether it was rejected.
    """
    weight = 0.0
    for one in rejected:
        weight = KEPT * weight + one
    return weight


def why_suspended(rejected: Sequence[bool]) -> str:
    """Return why a site is suspended, as words; empty when it is not.

    Args:
        rejected: As of :func:`weight_of`.
    """
    if weight_of(rejected) < SUSPENDED_FROM:
        return ""
    late = rejected[-10:]
    return f"rejected in {sum(late)} of its last {len(late)} rounds"
