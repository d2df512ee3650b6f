"""Envelopes: what one party sends to another so that nobody between can read it, change it or send it again.

An envelope is a letter and a body. The body is encrypted once, with AES-256-GCM under a fresh content key, and is the
same bytes for every recipient. The letter is made for one recipient: a header in the clear, and sealed with it the
manifest (what this is), the content key, and the sender's Ed25519 signature. The seal is HPKE (RFC 9180) with KEM
MLKEM768_X25519, KDF HKDF-SHA256 and AEAD AES-256-GCM.

**What is bound to what.** The header carries the size and sha256 of the encrypted body. The header's exact bytes are
bound to the seal, and signed together with the manifest and the content key, each with its length before it. So a
header, manifest, key or body from elsewhere is refused, and so is any changed byte. The header is bound as
HPKE's ``info``: it enters the key schedule, so another header is another key. That is as strong as associated data
for a context that seals one message, and ``cryptography`` 50 offers associated data only through a private function.
Because protobuf has several encodings of one message, an encoding other than the plain one is refused as well.

**Why the signature fixes the plaintext.** AES-GCM does not commit to its key: somebody can make one ciphertext that
opens under two keys to two plaintexts. Here the sender signs the key itself and (through the header) a
collision-resistant digest of the ciphertext, and key and ciphertext determine the plaintext. A sender cannot later
claim another, and no two recipients of one body and key can be shown different ones. The signature also covers the
recipient (in the header), so a recipient cannot seal the letter again to somebody else as if it were for them.

**Size.** One GCM message in ``cryptography`` and one protobuf message both end at 2^31 - 1 bytes, so a body is one GCM
message of at most :data:`MAX_BODY_BYTES`. A larger one is refused: framing it (as STREAM does) would only move the
limit to the record that carries it, and the adapters this is for are a thousand times smaller.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidTag

from common.errors import EnvelopeError, IdentityError
from common.proto import bottega_pb2 as pb
from security import gcm
from security.header import (
    MAX_BODY_BYTES,
    NONCE_BYTES,
    Header,
    Kind,
    check_rules,
    encode_header,
    parse,
    read_header,
    require,
)
from security.identity import Identity, Peer
from security.names import SpiffeId
from security.records import joined
from security.replay import NonceBook, Remembered
from security.roster import Roster

MAX_LETTER_BYTES = 2**24
"""The longest letter: 16 MiB, a hundred times what a manifest needs."""

_SEAL_DOMAIN = b"bottega/v1/letter-seal\x00"
_SIGNATURE_DOMAIN = b"bottega/v1/letter-signature\x00"
_BODY_DOMAIN = b"bottega/v1/body\x00"


@dataclass(frozen=True)
class SealedBody:
    """A body, encrypted; any number of letters may go with it.

    Args:
        ciphertext: Read-only; 16 bytes (the tag) longer than the plaintext.
        content_key: 32 bytes; opens it. Secret.
        sha256: Of the ciphertext, 32 bytes.
    """

    ciphertext: memoryview = field(repr=False)
    content_key: bytes = field(repr=False)
    sha256: bytes


@dataclass(frozen=True)
class Expectation:
    """What the opener of a letter is waiting for. Whatever does not fit is refused.

    Args:
        kinds: The kinds that will do.
        federation: The opener's own.
        run: The run's id; None for any.
        round_number: The round; None for any.
        in_reply_to: The nonce of the task that was sent; None for any.
        past_ms: How old the letter may be, in milliseconds.
        future_ms: How far the sender's clock may be ahead, in milliseconds.
    """

    kinds: frozenset[Kind]
    federation: str
    run: str | None = None
    round_number: int | None = None
    in_reply_to: bytes | None = None
    past_ms: int = 600_000
    future_ms: int = 60_000


class Unsealer(Protocol):
    """What opens the seal of letters: a sealing key, or what somebody who has the key disclosed."""

    def unseal(self, sealed: bytes, info: bytes, /) -> bytes:
        """Return what was sealed.

        Raises:
            IdentityError: It does not open.
        """


class Opener(Protocol):
    """Whose letters are opened, and with what; an :class:`~security.identity.Identity` is one."""

    @property
    def id(self) -> SpiffeId:
        """Their name."""

    @property
    def sealing(self) -> Unsealer:
        """Opens what was sealed to them."""


@dataclass(frozen=True)
class OpenedLetter:
    """A letter that is what it says, from whom it says.

    Args:
        header: Now to be believed.
        manifest: The exact bytes that the sender signed.
        content_key: 32 bytes; opens the body. Secret.
        signed: SHA-256 of what the sender signed: header, manifest and content key, and so also what the body holds.
    """

    header: Header
    manifest: bytes = field(repr=False)
    content_key: bytes = field(repr=False)
    signed: bytes = b""


def seal_body(plaintext: gcm.Bytes) -> SealedBody:
    """Encrypt a body under a fresh key.

    Args:
        plaintext: Any contiguous buffer: bytes, a memoryview, a numpy array. It may be empty.

    Returns:
        The body and its key.

    Raises:
        EnvelopeError: It is too long, or no contiguous buffer.
    """
    view = _flat(plaintext)
    if view.nbytes > MAX_BODY_BYTES:
        raise EnvelopeError(
            "a body is too long to seal",
            got=f"{view.nbytes} bytes",
            expected=f"at most {MAX_BODY_BYTES}",
            advice="Train an adapter of lower rank or fewer targets, or send it in a shorter encoding.",
        )
    key = os.urandom(gcm.KEY_BYTES)
    ciphertext = gcm.empty(view.nbytes + gcm.TAG_BYTES)
    gcm.seal_into(key, gcm.SINGLE_USE_NONCE, view, _BODY_DOMAIN, ciphertext)
    return SealedBody(ciphertext.toreadonly(), key, hashlib.sha256(ciphertext).digest())


def open_body(opened: OpenedLetter, ciphertext: gcm.Bytes, out: gcm.Bytes | None = None) -> memoryview:
    """Check and decrypt the body that belongs to a letter.

    Args:
        opened: The letter, from :func:`open_letter`.
        ciphertext: The body as it came.
        out: A writable contiguous buffer of exactly the plaintext's size (16 bytes less than the ciphertext's) to
            decrypt into; a new one is made if left out.

    Returns:
        The plaintext as a flat view of ``out`` or of the new buffer.

    Raises:
        EnvelopeError: The body is not the one the letter was sent with, or ``out`` will not do. If ``out`` could be
            written at all, it then holds zeros.
    """
    header, sealed = opened.header, _flat(ciphertext)
    size = header.body_size - gcm.TAG_BYTES
    target = gcm.empty(size) if out is None else _flat(out)
    if target.readonly and target.nbytes:
        raise EnvelopeError("a body cannot be opened into a buffer that cannot be written")
    try:
        require("buffer size", target.nbytes, size)
        require("body size", sealed.nbytes, header.body_size)
        require("body sha256", hashlib.sha256(sealed).hexdigest(), header.body_sha256.hex())
        gcm.open_into(opened.content_key, gcm.SINGLE_USE_NONCE, sealed, _BODY_DOMAIN, target)
    except EnvelopeError:
        gcm.zero(target)
        raise
    except InvalidTag:
        raise EnvelopeError("the body does not open with the letter's content key") from None
    return target


def seal_letter(
    *,
    kind: Kind,
    run: str,
    round_number: int,
    in_reply_to: bytes,
    manifest: bytes,
    body: SealedBody,
    sender: Identity,
    recipient: Peer,
    now_ms: int,
) -> bytes:
    """Sign a letter and seal it to one recipient.

    Args:
        kind: What it is.
        run: The run's id: letters, digits, ``.``, ``_`` and ``-``, at most 128.
        round_number: The round, from 0.
        in_reply_to: The task's nonce (16 bytes); empty in a task.
        manifest: A serialised ``Task``, ``Update`` or ``Refusal``.
        body: What goes with it.
        sender: Signs.
        recipient: The only one who can open it.
        now_ms: Unix time, milliseconds.

    Returns:
        A serialised ``Letter``; its nonce is in :func:`peek_header`.

    Raises:
        EnvelopeError: A field breaks the rules above, or the two are not of one federation, or not in the roles that
            send and receive such a letter.
    """
    header = Header(
        kind=kind,
        federation=sender.id.federation,
        run=run,
        round_number=round_number,
        sender=sender.id,
        recipient=recipient.id,
        nonce=os.urandom(NONCE_BYTES),
        in_reply_to=in_reply_to,
        created_at_ms=now_ms,
        body_sha256=body.sha256,
        body_size=body.ciphertext.nbytes,
    )
    check_rules(header)
    clear = encode_header(header)
    content = pb.LetterContent(
        manifest=manifest,
        content_key=body.content_key,
        signature=sender.signing.sign(_signed_bytes(clear, manifest, body.content_key)),
    )
    try:
        sealed = recipient.sealing.seal(content.SerializeToString(), _SEAL_DOMAIN + clear)
    except IdentityError:
        raise EnvelopeError("nothing can be sealed to the recipient's key", got=recipient.id) from None
    letter = pb.Letter(header=clear, sealed=sealed).SerializeToString()
    if len(letter) > MAX_LETTER_BYTES:
        raise EnvelopeError(
            "a manifest is too long for a letter", got=f"{len(letter)} bytes", expected=f"at most {MAX_LETTER_BYTES}"
        )
    return letter


def peek_header(letter: bytes) -> Header:
    """Read what a letter says in the clear, which anybody may have written: for logs and routing only.

    Args:
        letter: A serialised ``Letter``, from anywhere.

    Returns:
        The header, well formed but not authenticated; use it for no decision.

    Raises:
        EnvelopeError: It is no letter.
    """
    return read_header(_split(letter).header)


def open_letter(
    letter: bytes, *, opener: Opener, sender: Peer | Roster, expect: Expectation, now_ms: int
) -> OpenedLetter:
    """Open a letter, or refuse it.

    The checks, in order:

    1. It is a ``Letter`` in its plain encoding, of this version, with a well-formed header.
    2. It is of the federation, kind, run and round, and in reply to the task, that are expected.
    3. It is for the opener, and says it is from the sender (or from an active member of the roster).
    4. It is fresh.
    5. It opens with the opener's key, under this very header.
    6. The sender signed header, manifest and content key.

    It does not remember what it opened: a :class:`~security.replay.NonceBook` does.

    Args:
        letter: A serialised ``Letter``, from anywhere.
        opener: Whose letter it should be.
        sender: Who it must be from; a roster if it may be from any active member.
        expect: What else must be so.
        now_ms: Unix time, milliseconds.

    Returns:
        The letter.

    Raises:
        EnvelopeError: The first check that failed, with got and expected. Nothing of the letter may be used.
    """
    parts = _split(letter)
    header = read_header(parts.header)
    _check_expected(header, expect, opener)
    peer = _find_sender(header, sender)
    _check_fresh(header, expect, now_ms)
    try:
        plain = opener.sealing.unseal(parts.sealed, _SEAL_DOMAIN + parts.header)
    except IdentityError:
        raise EnvelopeError("the letter's seal does not open: it was changed, or sealed to another key") from None
    content = parse(pb.LetterContent, plain, "letter content")
    require("content key length", len(content.content_key), gcm.KEY_BYTES)
    signed = _signed_bytes(parts.header, content.manifest, content.content_key)
    if not peer.verify.verifies(content.signature, signed):
        raise EnvelopeError("the letter's signature is not by the key of the sender it names", got=peer.id)
    return OpenedLetter(header, content.manifest, content.content_key, hashlib.sha256(signed).digest())


def unsealed(letter: bytes, opener: Opener) -> bytes:
    """Return what is sealed in a letter, whoever sent it and whenever: for who has to show it to somebody else.

    Raises:
        IdentityError: It is no letter, or does not open.
    """
    try:
        parts = _split(letter)
    except EnvelopeError as why:
        raise IdentityError(why.what) from None
    return opener.sealing.unseal(parts.sealed, _SEAL_DOMAIN + parts.header)


def sealed_part(letter: bytes) -> bytes:
    """Return the part of a letter that is sealed; nothing of what is no letter."""
    try:
        return _split(letter).sealed
    except EnvelopeError:
        return b""


def _check_expected(header: Header, expect: Expectation, opener: Opener) -> None:
    require("federation", header.federation, expect.federation)
    if header.kind not in expect.kinds:
        wanted = " or ".join(kind.name for kind in sorted(expect.kinds))
        raise EnvelopeError("the letter's kind does not match", got=header.kind.name, expected=wanted or "none")
    if expect.run is not None:
        require("run", header.run, expect.run)
    if expect.round_number is not None:
        require("round", header.round_number, expect.round_number)
    if expect.in_reply_to is not None:
        require("in_reply_to", header.in_reply_to.hex(), expect.in_reply_to.hex())
    require("recipient", header.recipient, opener.id)


def _find_sender(header: Header, sender: Peer | Roster) -> Peer:
    if isinstance(sender, Peer):
        require("sender", header.sender, sender.id)
        return sender
    try:
        return sender[header.sender]
    except IdentityError:
        raise EnvelopeError(
            "the letter's sender does not match", got=header.sender, expected="an active member of the roster"
        ) from None


def _check_fresh(header: Header, expect: Expectation, now_ms: int) -> None:
    age = now_ms - header.created_at_ms
    if age > expect.past_ms:
        raise EnvelopeError("the letter is stale", got=f"{age} ms old", expected=f"at most {expect.past_ms} ms")
    if -age > expect.future_ms:
        raise EnvelopeError(
            "the letter is from the future",
            got=f"{-age} ms ahead",
            expected=f"at most {expect.future_ms} ms",
            advice="Nothing of it was used. Set the clocks of both machines (NTP) and have it sealed again.",
        )


def _split(letter: bytes) -> pb.Letter:
    if len(letter) > MAX_LETTER_BYTES:
        raise EnvelopeError(
            "the letter is too long", got=f"{len(letter)} bytes", expected=f"at most {MAX_LETTER_BYTES}"
        )
    return parse(pb.Letter, letter, "letter")


def _signed_bytes(header: bytes, manifest: bytes, content_key: bytes) -> bytes:
    """Join what the sender signs."""
    return joined(_SIGNATURE_DOMAIN, header, manifest, content_key)


def _flat(buffer: gcm.Bytes) -> memoryview:
    try:
        return gcm.flat(buffer)
    except (TypeError, ValueError):
        raise EnvelopeError("a body must be one contiguous buffer of bytes", got=type(buffer).__name__) from None


__all__ = [
    "MAX_BODY_BYTES",
    "MAX_LETTER_BYTES",
    "NONCE_BYTES",
    "Expectation",
    "Header",
    "Kind",
    "NonceBook",
    "OpenedLetter",
    "Remembered",
    "SealedBody",
    "open_body",
    "open_letter",
    "peek_header",
    "seal_body",
    "seal_letter",
]
