"""The pages' languages: every string in both, none missing, none left over; numbers as people write them."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

from security.admission import Check
from server.dashboard.languages import CODES, chosen, language
from server.dashboard.places import KINDS, VERDICTS

FOLDER = Path(__file__).resolve().parents[2] / "server" / "dashboard"
SOURCES = "\n".join(file.read_text() for file in (*FOLDER.glob("*.py"), *FOLDER.glob("templates/*.html")))


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def whole_keys() -> set[str]:
    """Return the keys that are named in full, in code and templates."""
    return set(re.findall(r"""\b(?:t|self)\("([a-z][a-z0-9._-]*[a-z0-9])"(?! ~)""", SOURCES))


def beginnings() -> set[str]:
    """Return what keys begin with whose end is put together at the moment."""
    put = re.findall(r"""\bt\("([a-z._-]+\.)" ~""", SOURCES) + re.findall(r"""[tf]?\(?f"([a-z._-]+\.)\{""", SOURCES)
    return {one for one in put if one.rstrip(".")}


@pytest.mark.parametrize("code", CODES)
def test_no_string_is_missing(code: str) -> None:
    words = language(code).words
    missing = {key for key in whole_keys() if key not in words and f"{key}.other" not in words}
    assert len(whole_keys()) > 100
    assert missing - {"number.mark"} == set()
    for kind in KINDS:
        assert f"kind.{kind}" in words
        assert any(key == f"told.{kind}" or key.startswith(f"told.{kind}.") for key in words)
    for verdict in (*VERDICTS, "taken-back", "silent"):
        assert f"verdict.{verdict}" in words
    for check in Check:
        assert check is Check.ADMITTED or f"check.{int(check)}" in words


def test_both_languages_have_the_same_strings_with_the_same_values_in_them() -> None:
    english, spanish = (language(code).words for code in ("en", "es"))
    assert english.keys() == spanish.keys()
    for key in english:
        assert english[key].strip(), key
        assert spanish[key].strip(), key
        if not key.startswith("day"):
            assert placeholders(english[key]) - {"n"} == placeholders(spanish[key]) - {"n"}, key


def test_what_counts_has_a_form_for_one_and_a_form_for_others() -> None:
    for key in language("en").words:
        if key.endswith(".one"):
            assert f"{key.removesuffix('.one')}.other" in language("en").words
        if key.endswith(".other") and key != "language.other":
            assert f"{key.removesuffix('.other')}.one" in language("en").words


def test_no_string_is_left_over() -> None:
    used, begun = whole_keys(), tuple(beginnings())
    quoted = set(re.findall(r'"([a-z][a-z0-9._-]+)"', SOURCES))
    left = {
        key
        for key in language("en").words
        if re.sub(r"\.(one|other)$", "", key) not in used | quoted
        and key not in used | quoted
        and not key.startswith(begun)
    }
    assert left == set()


@pytest.mark.parametrize(
    ("cookie", "accepted", "code"),
    [
        (None, "", "en"), (None, "es-MX,es;q=0.9,en;q=0.8", "es"), (None, "fr,en;q=0.5,es;q=0.7", "es"),
        ("es", "en", "es"), ("fr", "en", "en"), (None, "es;q=0, en;q=0.1", "en"), (None, "de", "en"),
        (None, "*;q=x,;;,es;q=nan", "en"), (None, "," * 5000 + "es", "en"),
    ],
)  # fmt: skip
def test_the_reader_gets_what_they_ask_for(cookie: str | None, accepted: str, code: str) -> None:
    assert chosen(cookie, accepted).code == code


def test_numbers_are_written_as_the_language_writes_them() -> None:
    english, spanish = language("en"), language("es")
    assert english.number(1234.5, 1) == "1234.5"
    assert spanish.number(1234.5, 1) == "1234,5"
    assert english.number(1_000_000) == "1\u202f000\u202f000"
    assert spanish.number(-0.25, 2) == "\u22120,25"
    assert english.figures(0.004123) == "0.00412"
    assert english.figures(0.0000041) == "4.10\u00a0\u00d7\u00a010⁻⁶"
    assert spanish.figures(0.0000041, 1) == "4\u00a0\u00d7\u00a010⁻⁶"
    assert english.figures(0.0) == "0"
    assert english.figures(12345.6) == "12\u202f346"


def test_moments_are_told_in_utc() -> None:
    at = "2026-11-02T09:05:07.123Z"
    assert language("en").moment(at) == "2 November 2026, 09:05:07 UTC"
    assert language("es").moment(at) == "2 de noviembre de 2026, 09:05:07 UTC"
    assert language("en").length(0.0034) == "3 ms"
    assert language("es").length(5400) == "90 min"
