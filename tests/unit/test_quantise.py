"""Rounding to fp16 is NumPy's own, bit by bit."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from common.quantise import encode

BITS = st.integers(0, 2**32 - 1)


@given(st.lists(BITS, min_size=1, max_size=40))
@example([0x33000000, 0x33000001, 0xB3000000, 0x337FFFFF, 0x387FFFFF, 0x38800000, 0x387FE000, 0x80000001, 0x477FF000])
def test_fp16_is_rounded_as_numpy_rounds(bits: list[int]) -> None:
    flat = np.array(bits, np.uint32).view(np.float32)
    flat = np.ascontiguousarray(flat[np.isfinite(flat)])
    with np.errstate(over="ignore"):
        expected = flat.astype("<f2")
    assert encode(flat, "fp16", 0)[0].tobytes() == expected.tobytes()
