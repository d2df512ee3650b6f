"""What an envelope says in the clear: its header, the rules that every header keeps, and its one encoding."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from common.errors import BottegaError, EnvelopeError, IdentityError
from common.proto import bottega_pb2 as pb
from security import gcm
from security.names import Role, SpiffeId, shown

MAX_BODY_BYTES = 2**31 - 2**25
"""The longest body as plaintext; encrypted and with its letter it still fits one protobuf message."""

NONCE_BYTES = 16
"""A letter's nonce, in bytes: random, and never seen twice."""

_VERSION = 1
_DIGEST_BYTES = 32
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

_Record = TypeVar("_Record", bound=Message)


class Kind(IntEnum):
    """What an envelope is; the numbers are those of ``bottega.proto``."""

    TASK = pb.KIND_TASK
    UPDATE = pb.KIND_UPDATE
    REFUSAL = pb.KIND_REFUSAL


_DIRECTION = {
    Kind.TASK: (Role.SERVER, Role.SITE),
    Kind.UPDATE: (Role.SITE, Role.SERVER),
    Kind.REFUSAL: (Role.SITE, Role.SERVER),
}


@dataclass(frozen=True)
class Header:
    """What a letter says in the clear. Until :func:`open_letter` returns it, anybody may have written it.

    Args:
        kind: What it is.
        federation: The trust domain of sender and recipient.
        run: The run's id.
        round_number: The round, from 0.
        sender: Who says they sent it.
        recipient: For whom it is.
        nonce: 16 random bytes.
        in_reply_to: The task's nonce; empty in a task.
        created_at_ms: When it was sealed, Unix time in milliseconds, by the sender's clock.
        body_sha256: Of the encrypted body, 32 bytes.
        body_size: Of the encrypted body, bytes.
    """

    kind: Kind
    federation: str
    run: str
    round_number: int
    sender: SpiffeId
    recipient: SpiffeId
    nonce: bytes
    in_reply_to: bytes
    created_at_ms: int
    body_sha256: bytes
    body_size: int


def read_header(data: bytes) -> Header:
    """Read and check an encoded header.

    Args:
        data: A serialised ``EnvelopeHeader``, from anywhere.

    Returns:
        The header: well formed, not authenticated.

    Raises:
        EnvelopeError: It is no header, or of another version, or breaks the rules.
    """
    wire = parse(pb.EnvelopeHeader, data, "header")
    require("version", wire.version, _VERSION)
    try:
        kind = Kind(wire.kind)
    except ValueError:
        raise EnvelopeError("the letter's kind does not match", got=wire.kind, expected="a known kind") from None
    try:
        sender, recipient = SpiffeId.parse(wire.sender), SpiffeId.parse(wire.recipient)
    except IdentityError as problem:
        raise EnvelopeError("the letter's sender or recipient has no valid name", got=problem.got) from None
    header = Header(
        kind=kind,
        federation=wire.federation,
        run=wire.run,
        round_number=wire.round,
        sender=sender,
        recipient=recipient,
        nonce=wire.nonce,
        in_reply_to=wire.in_reply_to,
        created_at_ms=wire.created_at_ms,
        body_sha256=wire.body_sha256,
        body_size=wire.body_size,
    )
    check_rules(header)
    return header


def encode_header(header: Header) -> bytes:
    """Encode a header; these exact bytes are what is signed and bound."""
    return pb.EnvelopeHeader(
        version=_VERSION,
        kind=pb.Kind.ValueType(header.kind),
        federation=header.federation,
        run=header.run,
        round=header.round_number,
        sender=str(header.sender),
        recipient=str(header.recipient),
        nonce=header.nonce,
        in_reply_to=header.in_reply_to,
        created_at_ms=header.created_at_ms,
        body_sha256=header.body_sha256,
        body_size=header.body_size,
    ).SerializeToString()


def check_rules(header: Header) -> None:
    """Refuse a header that nobody should write or believe, whatever is expected.

    Args:
        header: To be written, or just read.

    Raises:
        EnvelopeError: Sender and recipient are not of its federation or not in the roles of its kind, or a field has
            another form, length or range than :class:`Header` says.
    """
    require("sender's federation", header.sender.federation, header.federation)
    require("recipient's federation", header.recipient.federation, header.federation)
    require("roles", (header.sender.role.value, header.recipient.role.value), _roles(header.kind))
    if not is_run(header.run):
        raise EnvelopeError("the letter's run does not match", got=shown(header.run), expected="a run's id")
    if not 0 <= header.round_number < 2**32 or not 0 <= header.created_at_ms < 2**63:
        raise EnvelopeError("the letter's round or time is out of range")
    require("nonce length", len(header.nonce), NONCE_BYTES)
    require("in_reply_to length", len(header.in_reply_to), 0 if header.kind is Kind.TASK else NONCE_BYTES)
    require("body sha256 length", len(header.body_sha256), _DIGEST_BYTES)
    if not gcm.TAG_BYTES <= header.body_size <= MAX_BODY_BYTES + gcm.TAG_BYTES:
        raise EnvelopeError(
            "the letter's body size is out of range",
            got=header.body_size,
            expected=f"{gcm.TAG_BYTES} to {MAX_BODY_BYTES + gcm.TAG_BYTES}",
        )


def is_run(text: str) -> bool:
    """Return whether this can be the id of a run: it is a file name too, and never leads out of its folder."""
    return _RUN.fullmatch(text) is not None


def parse(record: type[_Record], data: bytes, what: str, *, error: type[BottegaError] = EnvelopeError) -> _Record:
    """Read a record that is in its plain encoding: known fields, in order, each once, none with its default written.

    What is signed and bound is always ``data`` itself; the encoding made here is only compared with it.

    Args:
        record: The protobuf class.
        data: From anywhere.
        what: Its name in the error.
        error: The class to raise.

    Returns:
        The record.

    Raises:
        BottegaError: (as ``error``) ``data`` is no such record, or another encoding of it.
    """
    parsed = record()
    try:
        parsed.ParseFromString(data)
    except DecodeError:
        raise error(f"these bytes are no {what}") from None
    parsed.DiscardUnknownFields()
    if parsed.SerializeToString(deterministic=True) != data:
        raise error(f"the {what} is not in its plain encoding: bytes were added, moved or changed")
    return parsed


def require(binding: str, got: object, expected: object) -> None:
    """Refuse a letter of which one thing is not what it should be.

    Args:
        binding: The name of that thing.
        got: What it is.
        expected: What it should be.

    Raises:
        EnvelopeError: The two differ.
    """
    if got != expected:
        safe = shown(got) if isinstance(got, str) else got  # a stranger may have written it
        raise EnvelopeError(f"the letter's {binding} does not match", got=safe, expected=expected)


def _roles(kind: Kind) -> tuple[str, str]:
    sender, recipient = _DIRECTION[kind]
    return sender.value, recipient.value
