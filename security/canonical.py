"""Canonical JSON (RFC 8785): one value, one writing, so that a hash of the writing is a hash of the value."""

from __future__ import annotations

import json
from typing import NoReturn, TypeAlias

import rfc8785

from common.errors import LedgerError

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"

_LARGEST_INTEGER = 2**53 - 1


def canonical(value: object) -> bytes:
    """Return the one canonical writing of a JSON value.

    Args:
        value: None, booleans, numbers, text, lists (or tuples) and dictionaries with keys of text.

    Raises:
        LedgerError: It has none: NaN, an infinity, an integer beyond 2**53 - 1 that a double could not carry, half a
            surrogate pair, a key that is no text, another type, or more levels than can be followed.
    """
    try:
        return rfc8785.dumps(value)  # type: ignore[arg-type]  # it looks at the types itself
    except (ValueError, TypeError, RecursionError):
        raise LedgerError(
            "a value has no canonical JSON",
            expected="text, finite numbers, whole numbers under 2**53, lists and objects of them",
            advice="Nothing was written. This is a fault of the program that made the value.",
        ) from None


def parse_canonical(data: bytes) -> Value:
    """Return the value of which these bytes are the canonical writing.

    Guarantees: ``canonical(parse_canonical(data)) == data``, or an error; whatever the bytes are.

    A number that is written without a fraction is an ``int`` up to 2**53 - 1, and a ``float`` beyond.

    Raises:
        LedgerError: They are no JSON, or another writing than the canonical one, such as one with a key twice.
    """
    try:
        value: Value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_int=_integer, parse_constant=_refuse
        )
        same = rfc8785.dumps(value) == data
    except (ValueError, RecursionError):
        raise LedgerError("this is no canonical JSON", got="what no JSON value has for its writing") from None
    if not same:
        raise LedgerError("this is no canonical JSON", got="another writing of the value", expected="RFC 8785")
    return value


def _object(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _integer(digits: str) -> int | float:
    """Read digits as RFC 8785 understands numbers: as a double where an ``int`` would promise more than that."""
    if len(digits) <= 17 and abs(whole := int(digits)) <= _LARGEST_INTEGER:
        return whole
    return float(digits)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
