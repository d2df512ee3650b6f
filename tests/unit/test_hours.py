"""Hours of the week: what a person writes is what the clock on the wall is held to."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client.hours import DAYS, MINUTES_A_DAY, Hours, read_hours, zone_of

WEEK = 7 * MINUTES_A_DAY
ROME = ZoneInfo("Europe/Rome")
MONDAY = dt.datetime(2026, 11, 23)

minutes = st.integers(0, MINUTES_A_DAY - 1)


def written(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


@given(first=st.integers(0, 6), last=st.integers(0, 6), begins=minutes, ends=st.integers(1, MINUTES_A_DAY), now=minutes)
@example(first=4, last=4, begins=19 * 60, ends=7 * 60, now=6 * 60 + 59)
@example(first=5, last=0, begins=23 * 60, ends=MINUTES_A_DAY, now=0)
def test_hours_hold_just_the_minutes_that_follow_their_beginning_till_their_end(
    first: int, last: int, begins: int, ends: int, now: int
) -> None:
    if begins == ends:
        return
    hours = read_hours(f"{DAYS[first]}-{DAYS[last]} {written(begins)}-{written(ends)}")
    # Counted out: every minute of every span, on a week that closes in a ring.
    days = [
        (first + n) % 7 for n in range(7) if (first + n) % 7 == last or all((first + k) % 7 != last for k in range(n))
    ]
    long = (ends - begins) % MINUTES_A_DAY or MINUTES_A_DAY
    inside = {(day * MINUTES_A_DAY + begins + n) % WEEK for day in days for n in range(long)}
    for day in range(7):
        local = MONDAY + dt.timedelta(days=day, minutes=now, seconds=59)
        assert hours.contain(local) == (day * MINUTES_A_DAY + now in inside)


@given(at=st.integers(0, 2 * 366 * MINUTES_A_DAY), begins=minutes, ends=minutes)
def test_hours_and_those_between_them_share_all_time_out_also_when_clocks_change(
    at: int, begins: int, ends: int
) -> None:
    if begins == ends:
        return
    now = (dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=at)).astimezone(ROME)
    one, other = read_hours(f"{written(begins)}-{written(ends)}"), read_hours(f"{written(ends)}-{written(begins)}")
    assert one.contain(now) != other.contain(now)


@pytest.mark.parametrize(("begins", "ends", "inside"), [("01:30", "02:30", 90), ("00:00", "24:00", 25 * 60)])
def test_in_the_night_of_25_hours_the_hour_that_comes_twice_counts_twice(begins: str, ends: str, inside: int) -> None:
    hours = read_hours(f"Sun {begins}-{ends}")
    start = dt.datetime(2026, 10, 25, tzinfo=ROME).astimezone(dt.UTC)
    night = ((start + dt.timedelta(minutes=n)).astimezone(ROME) for n in range(25 * 60))
    assert sum(map(hours.contain, night)) == inside


def test_in_the_night_of_23_hours_the_hour_that_is_skipped_never_comes() -> None:
    hours = read_hours("Sun 02:00-03:00")
    start = dt.datetime(2026, 3, 29, tzinfo=ROME).astimezone(dt.UTC)
    assert not any(hours.contain((start + dt.timedelta(minutes=n)).astimezone(ROME)) for n in range(23 * 60))


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("Mon-Fri 19:00-07:00", Hours(frozenset(range(5)), 1140, 420)),
        ("sat,SUN", Hours(frozenset({5, 6}), 0, 1440)),
        ("Sat-Mon,Wed 00:00-24:00", Hours(frozenset({5, 6, 0, 2}), 0, 1440)),
        ("22:00-06:00", Hours(frozenset(range(7)), 1320, 360)),
        ("Fri 23:59-00:00", Hours(frozenset({4}), 1439, 0)),
    ],
)
def test_hours_are_days_or_times_or_both(text: str, hours: Hours) -> None:
    assert read_hours(text) == hours


@pytest.mark.parametrize(
    "text",
    ["", " ", "Mon-", "Mon-Fri-Sun", "Mo", "Mon,", "Mon ", "Mon  10:00-11:00", " 10:00-11:00", "10:00", "10-11",
     "10:00-25:00", "24:00-01:00", "10:60-11:00", "10:00-24:01", "10:00-10:00", "9:00-17:00",
     "Mon 10:00-11:00 12:00-13:00", "10:00\u201311:00", "\u0661\u0660:00-11:00", "Mon\n10:00-11:00"],
)  # fmt: skip
def test_what_is_no_hours_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as|24:00"):
        read_hours(text)


@given(st.text(max_size=30))
def test_any_text_is_hours_or_refused(text: str) -> None:
    try:
        hours = read_hours(text)
    except ValueError:
        return
    assert hours.days <= set(range(7))
    assert hours.days
    assert 0 <= hours.begins < MINUTES_A_DAY
    assert hours.begins != hours.ends <= MINUTES_A_DAY


def test_no_zone_is_the_machines_own() -> None:
    assert zone_of(None) is None
    assert zone_of("Europe/Rome") == ROME
    with pytest.raises(ValueError, match="Europe/Rome"):
        zone_of("Nowhere/Here")
