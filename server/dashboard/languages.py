"""The pages' languages: every string in each of them, and how numbers and moments are written.

One JSON file a language, flat. A string that counts something comes in two forms, ``KEY.one`` and ``KEY.other``.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

CODES = ("en", "es")
"""The languages there are; the first is spoken to whoever asks for none of them."""

_THIN = "\u202f"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Language:
    """One language.

    Attributes:
        code: BCP 47.
        words: Its strings by key.
    """

    code: str
    words: Mapping[str, str]

    def __call__(self, key: str, /, **values: object) -> str:
        """Return a string with its values filled in; ``n`` chooses between the form for one and the other."""
        if "n" in values:
            key = f"{key}.{'one' if values['n'] == 1 else 'other'}"
        shown = {name: self.number(value) if type(value) is int else value for name, value in values.items()}
        return self.words[key].format(**shown)

    def knows(self, key: str) -> bool:
        """Return whether there is a string under this key."""
        return key in self.words

    def number(self, value: float, digits: int = 0) -> str:
        """Return a number with so many digits after its mark; whole numbers of five digits and more in groups."""
        text = f"{value:,.{digits}f}" if abs(value) >= 10_000 else f"{value:.{digits}f}"
        whole, mark, rest = text.replace("-", "\u2212").partition(".")
        return whole.replace(",", _THIN) + (self.words["number.mark"] + rest if mark else "")

    def figures(self, value: float, digits: int = 3) -> str:
        """Return a number with so many figures that count: 0.00412 keeps its 412."""
        if value == 0:
            return "0"
        if not 1e-4 <= abs(value) < 1e6:
            mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
            return f"{mantissa.replace('.', self.words['number.mark'])}\u00a0\u00d7\u00a010{_raised(int(exponent))}"
        return self.number(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))

    def moment(self, at: str) -> str:
        """Return a moment, as entries have it, for reading: day and time, UTC."""
        when = dt.datetime.fromisoformat(at).astimezone(dt.UTC)
        return self("moment", day=self.day(at), time=f"{when:%H:%M:%S}")

    def day(self, at: str) -> str:
        """Return the day of a moment."""
        when = dt.datetime.fromisoformat(at).astimezone(dt.UTC)
        return self("day", day=str(when.day), month=self.words[f"month.{when.month}"], year=str(when.year))

    def length(self, seconds: float) -> str:
        """Return how long something took."""
        if seconds < 1:
            return self("length.ms", ms=self.number(1000 * seconds))
        if seconds < 120:
            return self("length.seconds", s=self.number(seconds, 1 if seconds < 10 else 0))
        if seconds < 7200:
            return self("length.minutes", m=self.number(seconds / 60))
        return self("length.hours", h=self.number(seconds / 3600, 1))


@cache
def language(code: str) -> Language:
    """Return a language of :data:`CODES`."""
    text = resources.files("server.dashboard").joinpath("words", f"{code}.json").read_text(encoding="utf-8")
    return Language(code, json.loads(text))


def chosen(cookie: str | None, accepted: str) -> Language:
    """Return the language for a reader.

    Args:
        cookie: What they chose on a page, if they did.
        accepted: The ``Accept-Language`` of their browser (RFC 9110, 12.5.4); anything may stand there.
    """
    if cookie in CODES:
        return language(cookie)
    for tag in _preferred(accepted[:1000].split(",")):
        if (code := tag.split("-")[0]) in CODES:
            return language(code)
    return language(CODES[0])


def _preferred(ranges: Iterable[str]) -> list[str]:
    weighed: list[tuple[float, str]] = []
    for one in ranges:
        tag, _, parameter = one.strip().lower().partition(";")
        try:
            weight = float(parameter.strip().removeprefix("q=") or 1)
        except ValueError:
            weight = 0.0
        if tag and weight > 0:
            weighed.append((weight, tag.strip()))
    return [tag for _, tag in sorted(weighed, key=lambda pair: -pair[0])]


def _raised(number: int) -> str:
    return str(number).translate(_RAISED)
