"""Our rules beside those of ``byzfl`` 0.0.11, on the same rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as how
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.settings import RuleName
from tests.unit.robust import byzfl_alone
from tests.unit.robust.rounds import EVERY, Rows, drawn, outcome, settings

theirs = byzfl_alone.aggregators()
RADIUS = 1.5

THEIRS: dict[RuleName, Callable[[int], Any]] = {
    "mean": lambda _: theirs.Average(),
    "median": lambda _: theirs.Median(),
    "trimmed_mean": theirs.TrMean,
    "geometric_median": lambda _: theirs.GeometricMedian(nu=1e-9, T=1000),
    "multi_krum": theirs.MultiKrum,
    "centred_clipping": lambda _: theirs.CenteredClipping(L=4, tau=RADIUS),
}


def attacked(seed: int, count: int, hostile: int, size: float) -> Rows:
    rows = drawn(seed, count, 12)
    rows[:hostile] *= np.float32(-size)
    return rows


def krum_is_torn(wide: NDArray[np.float64], hostile: int) -> bool:
    """Return whether equal scores compete for the last places: theirs takes any of them, ours divides the places."""
    kept = len(wide) - hostile
    squares = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)
    scores = np.sort(np.sort(squares, axis=1)[:, :kept].sum(axis=1))
    return hostile > 0 and scores[kept] - scores[kept - 1] <= 1e-6 * scores[kept]


def geometric_median_is_torn(wide: NDArray[np.float64]) -> bool:
    """Return whether an even number of updates lies on a line: then it is not one point, but all between two."""
    return len(wide) % 2 == 0 and bool(np.linalg.matrix_rank(wide - wide[0], tol=1e-9) <= 1)


@pytest.mark.parametrize(("rule", "mix"), EVERY)
@how(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(5, 14),
    share=st.floats(0, 0.49),
    size=st.sampled_from([0.5, 1.0, 10.0, 1e4]),
)
def test_byzfl_says_the_same(rule: RuleName, mix: bool, seed: int, count: int, share: float, size: float) -> None:
    hostile = 0 if rule == "mean" else min(int(share * count), (count - 3) // 2)
    rows = attacked(seed, count, hostile, size)
    options = {"clip_radius": RADIUS, "clip_steps": 4} if rule == "centred_clipping" else {}
    wide = rows.astype(np.float64)
    if mix:
        wide = theirs.NNM(hostile)(wide)
    assume(rule != "multi_krum" or not krum_is_torn(wide, hostile))
    assume(rule != "geometric_median" or not geometric_median_is_torn(wide))
    with np.errstate(divide="ignore"):  # theirs divides by a distance of zero, and gets the right minimum
        expected = THEIRS[rule](hostile)(wide)
    found = outcome(rows, settings(rule, mix, hostile, **options)).update
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
