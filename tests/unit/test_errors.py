"""Errors are an interface: what happened, got and expected, what to do next."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from common.errors import BottegaError, EnvelopeError

ROOT = Path(__file__).resolve().parents[2]


def every_error() -> list[type[BottegaError]]:
    for floor in ("common", "security", "client", "server"):
        for file in (ROOT / floor).glob("*.py"):
            importlib.import_module(f"{floor}.{file.stem}" if file.stem != "__init__" else floor)

    def below(error: type[BottegaError]) -> list[type[BottegaError]]:
        return [error, *(e for sub in error.__subclasses__() for e in below(sub))]

    return [e for e in below(BottegaError) if e is not BottegaError and e.__module__.split(".")[0] != "tests"]


@pytest.mark.parametrize("error", every_error(), ids=lambda e: e.__name__)
def test_every_error_has_advice_that_is_a_sentence(error: type[BottegaError]) -> None:
    assert len(error.advice) > 20
    assert error.advice.endswith(".")
    assert error.__doc__


def test_a_message_says_what_got_expected_and_next() -> None:
    error = EnvelopeError("the letter is old", got="12 min", expected="at most 10 min", advice="Set the clock.")
    assert str(error) == "the letter is old; got 12 min; expected at most 10 min. Set the clock."


def test_a_message_without_got_and_expected_uses_the_class_advice() -> None:
    assert str(EnvelopeError("the letter is torn")) == f"the letter is torn. {EnvelopeError.advice}"


def test_zero_is_something_that_was_got() -> None:
    assert "got 0;" in str(EnvelopeError("empty", got=0, expected=1))
