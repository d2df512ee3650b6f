"""Hours of the week, as a person writes them (``Mon-Fri 19:00-07:00``) and as a clock on the wall tells them."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from functools import lru_cache
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_A_DAY = 24 * 60

_TIMES = re.compile(r"([0-9]{2}):([0-5][0-9])-([0-9]{2}):([0-5][0-9])")
_FORM = "days, times or both, such as 'Mon-Fri 19:00-07:00', 'Sat,Sun' or '22:00-06:00'"


@dataclass(frozen=True)
class Hours:
    """The same span of time on some days of every week, its end not counted in.

    A span that ends earlier on the clock than it begins goes over midnight, and belongs to the day on which it begins:
    ``Fri 19:00-07:00`` ends on Saturday. It is compared with what the clock on the wall shows, so it needs no rule for
    the nights when clocks change: an hour that comes twice is inside twice, one that is skipped never comes.

    Attributes:
        days: On which it begins, 0 for Monday.
        begins: Minutes after midnight, below 24 hours.
        ends: Minutes after midnight, at most 24 hours; not ``begins``.
    """

    days: frozenset[int]
    begins: int
    ends: int

    def contain(self, local: dt.datetime) -> bool:
        """Return whether a time lies in these hours, by its own weekday, hour and minute."""
        today, minute = local.weekday(), local.hour * 60 + local.minute
        if self.begins < self.ends:
            return today in self.days and self.begins <= minute < self.ends
        since_yesterday = (today - 1) % 7 in self.days and minute < self.ends
        return since_yesterday or (today in self.days and minute >= self.begins)


@lru_cache(maxsize=64)
def read_hours(text: str) -> Hours:
    """Read hours.

    Args:
        text: Days, times of a 24-hour clock, or both. Days are three letters, in ranges or with commas between.

    Returns:
        The hours; every day, or all day, where one part is left out.

    Raises:
        ValueError: It is nothing of the kind, or begins and ends at once.
    """
    days, _, times = text.lower().rpartition(" ") if ":" in text else (text.lower(), "", "00:00-24:00")
    found = _TIMES.fullmatch(times)
    if not text or found is None or (" " in text and not days):
        raise ValueError(_FORM)
    begin_hour, begin_minute, end_hour, end_minute = map(int, found.groups())
    begins, ends = begin_hour * 60 + begin_minute, end_hour * 60 + end_minute
    if begins >= MINUTES_A_DAY or ends > MINUTES_A_DAY:
        raise ValueError("a time of day is from 00:00 to 23:59, and 24:00 for the end of a day")
    if begins == ends:
        raise ValueError("hours that begin and end at once could mean all day or never; 00:00-24:00 is all day")
    return Hours(_days(days), begins, ends)


def zone_of(name: str | None) -> dt.tzinfo | None:
    """Return a time zone by its IANA name; None, which is this machine's own, for None.

    Raises:
        ValueError: This machine knows no such zone.
    """
    try:
        return None if name is None else ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # an unknown name; one that leads out of the zones; a folder of zones
        raise ValueError("a time zone that this machine knows, such as 'Europe/Rome'") from None


def _days(text: str) -> frozenset[int]:
    if not text:
        return frozenset(range(7))
    return frozenset(day for part in text.split(",") for day in _range(part))


def _range(text: str) -> list[int]:
    """Return the days of ``mon-fri`` or ``sat``; a range may go over the end of the week."""
    names = text.split("-")
    if len(names) > 2 or not set(names) <= set(DAYS):
        raise ValueError(_FORM)
    first, last = DAYS.index(names[0]), DAYS.index(names[-1])
    return [(first + n) % 7 for n in range((last - first) % 7 + 1)]
