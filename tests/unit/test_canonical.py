"""Canonical JSON: the examples of RFC 8785, and that there is one writing of a value and no other is read."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import LedgerError
from security.canonical import canonical, parse_canonical

EXAMPLE = r"""
{
  "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}
"""
WRITTEN = (
    r'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
    r'"string":"€$\u000f\nA' + "'" + r'B\"\\\\\"/"}'
)
"""RFC 8785, sections 3.2.2 and 3.2.4."""

SORTED = {
    "\u20ac": "Euro Sign",
    "\r": "Carriage Return",
    "\ufb33": "Hebrew Letter Dalet With Dagesh",
    "1": "One",
    "\U0001f600": "Emoji: Grinning Face",
    "\u0080": "Control",
    "\u00f6": "Latin Small Letter O With Diaeresis",
}
"""RFC 8785, section 3.2.3: keys in the order of their UTF-16 code units."""

NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}
"""RFC 8785, appendix B: doubles by their bits, and how they are written."""

TEXT = st.text(st.characters(codec="utf-8"))
numbers = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def double(bits: str) -> float:
    return float(struct.unpack(">d", bytes.fromhex(bits))[0])


def test_the_example_is_written_as_published() -> None:
    assert canonical(json.loads(EXAMPLE)) == WRITTEN.encode()
    assert parse_canonical(WRITTEN.encode()) == json.loads(EXAMPLE)


def test_keys_are_sorted_as_published() -> None:
    names = ["Carriage Return", "One", "Control", "Latin Small Letter O With Diaeresis", "Euro Sign",
             "Emoji: Grinning Face", "Hebrew Letter Dalet With Dagesh"]  # fmt: skip
    assert list(json.loads(canonical(SORTED)).values()) == names


@pytest.mark.parametrize("bits", NUMBERS)
def test_numbers_are_written_as_published(bits: str) -> None:
    written = NUMBERS[bits].encode()
    assert canonical(double(bits)) == written
    assert parse_canonical(written) == double(bits)


@given(values)
def test_what_is_written_is_read_back(value: Any) -> None:  # noqa: ANN401 (any JSON)
    assert parse_canonical(canonical(value)) == value


@given(st.binary(max_size=40) | values.map(lambda value: json.dumps(value).encode()))
def test_only_the_one_writing_is_read(data: bytes) -> None:
    try:
        value = parse_canonical(data)
    except LedgerError:
        return
    assert canonical(value) == data


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}', b'{"a":1,"a":2}', b'{"b":{"a":1,"a":1}}', b'{"b":1,"a":2}', b'{"a": 1}', b'{"a":1}\n', b" 1",
        b"1.0", b"1e3", b"01", b"-0", b"0.0", b"1E30", b"1e30", b"NaN", b"Infinity", b"-Infinity", b"1e999",
        b"9007199254740993", b"1" * 5000, b'"\\u0041"', b'"\\/"', b'"\\u000a"', b'"\\ud800"', b'"\xff"',
        b'"\xed\xa0\x80"', b"\xef\xbb\xbf1", b"", b"{", b"[1,]", b"nul", b'{"a":1}{"a":1}',
        b"[" * 100_000, b'{"a":' * 100_000, b"\x00",
    ],
)  # fmt: skip
def test_every_other_writing_is_refused(data: bytes) -> None:
    with pytest.raises(LedgerError):
        parse_canonical(data)


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 2**53, -(2**53), "\ud800", {"\ud800": 1}, {1: 2}, {"a": {1, 2}}, b"bytes", object(),
     [math.nan], {"a": {"b": 2**60}}, deep(100_000)],
)  # fmt: skip
def test_a_value_without_a_writing_is_refused(value: object) -> None:
    with pytest.raises(LedgerError) as caught:
        canonical(value)
    assert "nan" not in str(caught.value).lower()
    assert "1152921504606846976" not in str(caught.value)
