"""How a site stands: rejections weigh less with time, and enough of them suspend it until somebody says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.admission import Check
from security.names import Role, SpiffeId
from server.standing import COUNTING, REMEMBERED, SUSPENDED_FROM, weight_of, why_suspended
from server.store import Store, Verdict

ANNA = SpiffeId("studios.example", Role.OPERATOR, "anna")


def site_id(name: str) -> SpiffeId:
    return SpiffeId("studios.example", Role.SITE, name)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "bottega.db")
    store.start_run("r", b"")
    return store


def found(store: Store, checks: list[Check], site: str = "rossi", first: int = 1, work: str = "train") -> None:
    """Record the verdicts of a site in some rounds."""
    for number, check in enumerate(checks, first):
        store.open_round("r", number, work, 4)
        store.record("r", number, Verdict(site, check is Check.ADMITTED, int(check), check.slug), {})


def test_three_in_a_row_suspend_and_two_do_not() -> None:
    assert why_suspended([True, True]) == ""
    assert why_suspended([False] * 20 + [True] * 3) == "rejected in 3 of its last 10 rounds"
    assert why_suspended([True] * 3) == "rejected in 3 of its last 3 rounds"


def test_every_second_suspends_in_the_ninth_round_and_every_third_never() -> None:
    assert why_suspended([True, False] * 4) == ""
    assert why_suspended([True, False] * 4 + [True])
    assert not any(why_suspended(([True, False, False] * 40)[:rounds]) for rounds in range(121))


@given(st.lists(st.booleans(), max_size=60))
def test_honest_work_mends_a_record_and_a_rejection_never_does(rejected: list[bool]) -> None:
    weight = weight_of(rejected)
    assert weight_of([*rejected, False]) <= weight < weight_of([*rejected, True]) or weight == 0
    assert weight_of([*rejected, *[False] * REMEMBERED]) < 0.001
    assert 0 <= weight < 5


def test_what_is_not_remembered_any_more_does_not_decide() -> None:
    assert 5 * 0.8**REMEMBERED < 0.001 < SUSPENDED_FROM


def test_rejections_in_a_row_suspend_a_site_over_all_runs(store: Store) -> None:
    found(store, [Check.ANOMALY, Check.SIZE])
    assert store.suspended() == {}
    store.start_run("r2", b"")
    store.open_round("r2", 1, "train", 4)
    store.record("r2", 1, Verdict("rossi", False, int(Check.COPY), "copy"), {})
    assert store.suspended() == {"rossi": "rejected in 3 of its last 3 rounds"}


def test_being_late_unwilling_or_revoked_counts_for_nothing(store: Store) -> None:
    found(store, [Check.IN_TIME, Check.WILLING, Check.DELIVERED, Check.MEMBER, Check.FIRST_ANSWER] * 2)
    assert store.suspended() == {}


@pytest.mark.parametrize("check", COUNTING)
def test_every_sign_of_dishonest_work_counts(store: Store, check: Check) -> None:
    found(store, [check] * 3)
    assert list(store.suspended()) == ["rossi"]


def test_an_update_that_was_cut_down_is_honest_work(store: Store) -> None:
    for number in range(1, 5):
        store.open_round("r", number, "train", 4)
        store.record("r", number, Verdict("rossi", True, int(Check.SIZE), "size"), {})
    assert store.suspended() == {}


def test_a_last_look_mends_nothing(store: Store) -> None:
    found(store, [Check.NORM] * 3)
    found(store, [Check.ADMITTED] * 9, first=4, work="evaluate")
    assert list(store.suspended()) == ["rossi"]


def test_who_is_reinstated_begins_anew(store: Store) -> None:
    found(store, [Check.ANOMALY] * 5)
    store.reinstate(site_id("rossi"), "they draw on black paper", ANNA)
    assert store.suspended() == {}
    found(store, [Check.ANOMALY] * 2, first=6)
    assert store.suspended() == {}
    found(store, [Check.ANOMALY], first=8)
    assert store.suspended() == {"rossi": "rejected in 3 of its last 3 rounds"}


def test_one_sites_record_is_no_other_sites(store: Store) -> None:
    found(store, [Check.ANOMALY] * 3)
    store.reinstate(site_id("bianchi"), "no reason", ANNA)
    assert list(store.suspended()) == ["rossi"]
