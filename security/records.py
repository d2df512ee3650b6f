"""What the records of enrolment have in common: how they are read, what is signed, how old they may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from common.errors import IdentityError
from security.header import parse
from security.names import shown

if TYPE_CHECKING:
    from cryptography.utils import Buffer

VERSION = 1
"""Of every record of enrolment."""

PAST_MS = 30 * 24 * 3600 * 1000
"""How old a request or a grant may be, in milliseconds: thirty days, for those that travel as files."""

FUTURE_MS = 300_000
"""How far the clock of who made it may be ahead: five minutes, as certificates allow for."""

ADVICE = "Nothing of it was used. Ask for it again; if it repeats, treat the way it came as hostile."
"""The next step after a record of enrolment that will not do."""

_Record = TypeVar("_Record", bound=Message)


def joined(domain: bytes, *parts: Buffer) -> bytes:
    """Join what is signed or digested; lengths before the parts let no byte move from one to the next.

    Args:
        domain: What this is for; it ends in a zero byte and is the beginning of no other.
        parts: Any bytes.

    Returns:
        The domain, then each part after its length in eight bytes.
    """
    views = [memoryview(part) for part in parts]
    return domain + b"".join(view.nbytes.to_bytes(8, "big") + view for view in views)


def read_record(record: type[_Record], data: bytes, what: str, *, most: int) -> _Record:
    """Read a record of bounded size, in its plain encoding.

    Args:
        record: The protobuf class.
        data: From anywhere.
        what: Its name in the error.
        most: The longest, in bytes.

    Returns:
        The record.

    Raises:
        IdentityError: ``data`` is too long, no such record, or another encoding of it.
    """
    if len(data) > most:
        raise refused(f"the {what} is too long", got=f"{len(data)} bytes", expected=f"at most {most}")
    try:
        return parse(record, data, what, error=IdentityError)
    except IdentityError as problem:
        raise refused(problem.what) from None


def require(what: str, got: object, expected: object) -> None:
    """Refuse a record of which one thing is not what it should be.

    Args:
        what: The record and the thing: "the grant's recipient".
        got: What it is.
        expected: What it should be.

    Raises:
        IdentityError: The two differ.
    """
    if got != expected:
        safe = shown(got) if isinstance(got, str) else got  # a stranger may have written it
        raise refused(f"{what} does not match", got=safe, expected=expected)


def require_fresh(what: str, created_at_ms: int, now_ms: int) -> None:
    """Refuse a record that is too old, or from the future.

    Args:
        what: Its name in the error.
        created_at_ms: When it says it was made; Unix time, milliseconds.
        now_ms: Unix time, milliseconds.

    Raises:
        IdentityError: It is more than :data:`PAST_MS` old, or more than :data:`FUTURE_MS` ahead.
    """
    age = now_ms - created_at_ms
    if age > PAST_MS:
        raise refused(f"the {what} is stale", got=f"{age} ms old", expected=f"at most {PAST_MS} ms")
    if -age > FUTURE_MS:
        raise IdentityError(
            f"the {what} is from the future",
            got=f"{-age} ms ahead",
            expected=f"at most {FUTURE_MS} ms",
            advice="Nothing of it was used. Set the clocks of both machines (NTP) and have it made again.",
        )


def refused(what: str, *, got: object = None, expected: object = None) -> IdentityError:
    """Make the error for a record that will not do; its advice is :data:`ADVICE`."""
    return IdentityError(what, got=got, expected=expected, advice=ADVICE)
