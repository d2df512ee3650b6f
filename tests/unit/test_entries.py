"""Entries of the ledger: each has one writing, and what is none of them is refused, whatever the bytes are."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import LedgerError
from security.canonical import canonical
from security.entries import Checked, Released, RoundClosed, Update, moment, read_entry, seconds_of, write_entry

AT = "2026-11-27T08:00:00.123Z"
DIGEST = "ab" * 32
UPDATE = Update(
    at=AT, run="r1", round=2, site="rossi", verdict="clipped", check=15, check_name="size", reason="too large",
    sealed=DIGEST, signed=DIGEST, examples=400, weight=0.5, norm=1e-7, p_value=1.0, metrics={"held_out_loss": 0.25},
)  # fmt: skip


def test_an_entry_is_what_people_can_read_and_reads_back_the_same() -> None:
    data = write_entry(UPDATE)
    assert json.loads(data)["reason"] == "too large"
    assert b'"weight":0.5' in data
    assert read_entry(data) == UPDATE
    assert write_entry(read_entry(data)) == data


def test_what_has_no_value_is_left_out() -> None:
    closed = RoundClosed(at=AT, run="r1", round=1, outcome="kept", rule="mean", averaged=[])
    assert json.loads(write_entry(closed)).keys() == {"at", "kind", "run", "round", "outcome", "rule", "averaged"}


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "unknown"}, {"kind": None}, {"drawing": "scan.png"}, {"verdict": "maybe"}, {"at": "yesterday"},
        {"site": "../rossi"}, {"sealed": "xyz"}, {"round": 0}, {"reason": "x" * 1001}, {"norm": "1"}, {"round": "2"},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_entry_is_refused(change: dict[str, object]) -> None:
    told = json.loads(write_entry(UPDATE)) | change
    with pytest.raises(LedgerError):
        read_entry(canonical(told))


def test_another_writing_of_an_entry_is_refused() -> None:
    data = write_entry(UPDATE)
    for other in (
        data + b" ",
        b" " + data,
        data.replace(b'"r1"', b'"\\u0072\\u0031"'),
        json.dumps(json.loads(data)).encode(),
    ):
        with pytest.raises(LedgerError):
            read_entry(other)


@given(st.binary(max_size=300))
def test_bytes_from_anywhere_are_an_entry_or_a_ledger_error(data: bytes) -> None:
    with pytest.raises(LedgerError):
        read_entry(data)


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=9), st.lists, max_leaves=5))
def test_json_from_anywhere_is_an_entry_or_a_ledger_error(value: object) -> None:
    for told in (value, {"kind": value}, {"kind": "released", "at": AT, "run": value}):
        with pytest.raises(LedgerError):
            read_entry(canonical(told))


@given(st.text(max_size=1000), st.floats(allow_nan=False, allow_infinity=False))
def test_any_words_and_numbers_come_back(words: str, number: float) -> None:
    entry = UPDATE.model_copy(update={"reason": words, "norm": number})
    try:
        data = write_entry(entry)
    except LedgerError:
        assert any(0xD800 <= ord(letter) < 0xE000 for letter in words), "half a surrogate pair has no JSON"
        return
    assert read_entry(data) == entry


def test_a_moment_is_utc_in_milliseconds_and_comes_back() -> None:
    assert moment(0.0019) == "1970-01-01T00:00:00.001Z"
    assert seconds_of(moment(1_800_000_000.25)) == 1_800_000_000.25


def test_a_release_says_by_whom() -> None:
    entry = Released(at=AT, run="r1", round=3, adapter=DIGEST, by="spiffe://a.test/operator/anna")
    assert read_entry(write_entry(entry)) == entry


def test_a_check_whose_loss_is_no_number_is_written_down_without_it_and_told() -> None:
    told = Checked(
        at=AT, run="r1", round=3, adapter=DIGEST, by="spiffe://a.test/operator/anna", drawings=64, of=DIGEST,
        alike=False, before=0.2, worse=True,
    )  # fmt: skip
    assert read_entry(write_entry(told)) == told
    assert b"after" not in write_entry(told)
    assert told.words() == "on 64 procedural drawings it does far worse than the bare base (its loss is no number)"


@given(st.floats(1e-6, 10), st.floats(1e-6, 10), st.booleans(), st.booleans())
def test_a_check_says_in_words_what_it_found(before: float, after: float, alike: bool, worse: bool) -> None:
    told = Checked(
        at=AT, run="r1", round=3, adapter=DIGEST, by="spiffe://a.test/operator/anna", drawings=64, of=DIGEST,
        alike=alike, before=before, after=after, margin=0.03, worse=worse,
    )  # fmt: skip
    assert read_entry(write_entry(told)) == told
    assert f"{after / before - 1:+.0%} loss, within 3%" in told.words()
    assert ("not" in told.words()) is (worse is alike)
