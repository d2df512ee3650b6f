"""Envelopes: what is refused, what is bound, and that the algorithms are the ones that are named."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import EnvelopeError
from common.proto import bottega_pb2 as pb
from security.envelope import (
    MAX_BODY_BYTES,
    Expectation,
    Kind,
    NonceBook,
    OpenedLetter,
    Remembered,
    SealedBody,
    open_body,
    open_letter,
    peek_header,
    seal_body,
    seal_letter,
)
from security.identity import Identity, Role, SealingKey, SealingPublicKey, SigningKey, SpiffeId
from security.keys import supernode_line
from security.roster import Roster

FEDERATION = "atelier.example"
NOW = 1_800_000_000_000
MANIFEST = b"what is asked"
PLAINTEXT = b"the weights, which nobody between may read " * 8
DATA = Path(__file__).parent / "data" / "envelope_v1.json"

SERVER = Identity.generate(SpiffeId(FEDERATION, Role.SERVER, "hub"))
PRADO = Identity.generate(SpiffeId(FEDERATION, Role.SITE, "prado"))
UFFIZI = Identity.generate(SpiffeId(FEDERATION, Role.SITE, "uffizi"))
BODY = seal_body(PLAINTEXT)


def _roster(*sites: Identity) -> Roster:
    roster = Roster.first(SERVER.peer, NOW)
    for site in sites:
        roster = roster.with_member(
            site.peer, supernode_line(ec.generate_private_key(ec.SECP384R1()).public_key()), NOW
        )
    return roster


A_TASK = Expectation(frozenset({Kind.TASK}), FEDERATION)


def _task(**changes: Any) -> bytes:  # noqa: ANN401  a field of any type
    fields: dict[str, Any] = {
        "kind": Kind.TASK,
        "run": "run-1",
        "round_number": 3,
        "in_reply_to": b"",
        "manifest": MANIFEST,
        "body": BODY,
        "sender": SERVER,
        "recipient": PRADO.peer,
        "now_ms": NOW,
    }
    return seal_letter(**fields | changes)


def _update(**changes: Any) -> bytes:  # noqa: ANN401  a field of any type
    reply = {"kind": Kind.UPDATE, "in_reply_to": b"n" * 16, "sender": PRADO, "recipient": SERVER.peer}
    return _task(**reply | changes)


def _open(letter: bytes, expect: Expectation = A_TASK, *, opener: Identity = PRADO, now_ms: int = NOW) -> OpenedLetter:
    return open_letter(letter, opener=opener, sender=SERVER.peer, expect=expect, now_ms=now_ms)


def _open_all(letter: bytes, body: bytes | memoryview) -> bytes:
    """Open a whole envelope, as a site does."""
    return bytes(open_body(_open(letter), body))


LETTER = _task()
CIPHERTEXT = bytes(BODY.ciphertext)

# --- what arrives ---


def test_an_envelope_arrives_with_all_that_was_put_in() -> None:
    opened = _open(LETTER)
    assert opened.manifest == MANIFEST
    header = opened.header
    assert (header.kind, header.federation, header.run, header.round_number) == (Kind.TASK, FEDERATION, "run-1", 3)
    assert (header.sender, header.recipient) == (SERVER.id, PRADO.id)
    assert (header.in_reply_to, header.created_at_ms) == (b"", NOW)
    assert len(header.nonce) == 16
    assert (header.body_sha256, header.body_size) == (hashlib.sha256(CIPHERTEXT).digest(), len(PLAINTEXT) + 16)
    assert bytes(open_body(opened, CIPHERTEXT)) == PLAINTEXT


def test_a_reply_from_anybody_in_the_roster_arrives() -> None:
    roster = _roster(PRADO, UFFIZI)
    expect = Expectation(frozenset({Kind.UPDATE, Kind.REFUSAL}), FEDERATION, "run-1", 3, b"n" * 16)
    for site in (PRADO, UFFIZI):
        for kind in (Kind.UPDATE, Kind.REFUSAL):
            letter = _update(kind=kind, sender=site)
            opened = open_letter(letter, opener=SERVER, sender=roster, expect=expect, now_ms=NOW)
            assert (opened.header.sender, opened.header.kind) == (site.id, kind)


@pytest.mark.parametrize("manifest", [b"", b"m", b"m" * 1_000_000])
@pytest.mark.parametrize("size", [0, 1, 16, 100_003])
def test_any_body_and_manifest_arrive_the_empty_ones_too(manifest: bytes, size: int) -> None:
    plaintext = os.urandom(size)
    body = seal_body(plaintext)
    opened = _open(_task(body=body, manifest=manifest))
    assert opened.manifest == manifest
    assert bytes(open_body(opened, body.ciphertext)) == plaintext


def test_an_array_is_sealed_and_opened_in_place() -> None:
    array = np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5)
    body = seal_body(array)
    out = np.empty_like(array)
    view = open_body(_open(_task(body=body)), body.ciphertext, out=out)
    assert np.array_equal(out, array)
    assert np.shares_memory(np.frombuffer(view, np.uint8), out)
    assert body.ciphertext.readonly


def test_one_body_opens_for_two_recipients_who_get_the_same_bytes() -> None:
    letters = [_task(recipient=site.peer) for site in (PRADO, UFFIZI)]
    opened = [_open(letter, opener=site) for letter, site in zip(letters, (PRADO, UFFIZI), strict=True)]
    assert opened[0].header.body_sha256 == opened[1].header.body_sha256
    assert opened[0].header.nonce != opened[1].header.nonce
    for one in opened:
        assert bytes(open_body(one, CIPHERTEXT)) == PLAINTEXT


def test_two_bodies_of_the_same_plaintext_have_nothing_in_common() -> None:
    a, b = seal_body(bytes(4096)), seal_body(bytes(4096))
    assert a.content_key != b.content_key
    assert bytes(a.ciphertext) != bytes(b.ciphertext)


def test_neither_body_manifest_nor_key_can_be_seen_in_the_envelope() -> None:
    seen = LETTER + CIPHERTEXT
    assert PLAINTEXT[:8] not in seen
    assert MANIFEST not in seen
    assert BODY.content_key not in seen
    assert _open(LETTER).content_key == BODY.content_key


def test_secrets_are_not_printed() -> None:
    printed = repr(BODY) + repr(_open(LETTER))
    assert repr(BODY.content_key) not in printed
    assert "what is asked" not in printed


def test_a_peeked_header_is_the_one_that_is_opened() -> None:
    assert peek_header(LETTER) == _open(LETTER).header


# --- any change is refused ---


def _places() -> st.SearchStrategy[int]:
    return st.integers(0, len(LETTER) + len(CIPHERTEXT) - 1)


def _cut(whole: bytes) -> tuple[bytes, bytes]:
    """Divide a changed envelope again; a change of length falls on the part in which it was made."""
    return whole[: len(LETTER)], whole[len(LETTER) :]


def test_every_byte_of_the_letter_and_the_body_is_guarded() -> None:
    """Each byte once, whole: no sampling."""
    for at in range(len(LETTER)):
        changed = bytearray(LETTER)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(EnvelopeError):
            _open(bytes(changed))
    opened = _open(LETTER)
    for at in range(len(CIPHERTEXT)):
        changed = bytearray(CIPHERTEXT)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(EnvelopeError):
            open_body(opened, bytes(changed))


@settings(max_examples=400, deadline=None)
@given(at=_places(), flip=st.integers(1, 255))
def test_a_changed_byte_anywhere_is_refused(at: int, flip: int) -> None:
    changed = bytearray(LETTER + CIPHERTEXT)
    changed[at] ^= flip
    with pytest.raises(EnvelopeError):
        _open_all(*_cut(bytes(changed)))


@settings(max_examples=200, deadline=None)
@given(at=_places(), count=st.integers(1, 40))
def test_a_byte_taken_out_anywhere_is_refused(at: int, count: int) -> None:
    letter, body = LETTER, CIPHERTEXT
    if at < len(LETTER):
        letter = letter[:at] + letter[at + count :]
    else:
        body = body[: at - len(LETTER)] + body[at - len(LETTER) + count :]
    with pytest.raises(EnvelopeError):
        _open_all(letter, body)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(LETTER) + len(CIPHERTEXT) + 1), more=st.binary(min_size=1, max_size=40))
def test_a_byte_put_in_anywhere_is_refused(at: int, more: bytes) -> None:
    letter, body = LETTER, CIPHERTEXT
    if at <= len(LETTER):
        letter = letter[:at] + more + letter[at:]
    else:
        at -= len(LETTER) + 1
        body = body[:at] + more + body[at:]
    with pytest.raises(EnvelopeError):
        _open_all(letter, body)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    for read in (peek_header, _open):
        with pytest.raises(EnvelopeError):
            read(data)
    with pytest.raises(EnvelopeError):
        peek_header(pb.Letter(header=data, sealed=b"x").SerializeToString())


def _field(number: int, content: bytes) -> bytes:
    """Write one length-delimited protobuf field of less than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


@pytest.mark.parametrize(
    "changed",
    [
        LETTER + _field(3, b"unknown"),
        _field(9, b"") + LETTER,
        LETTER + b"\x18\x00",
        _field(1, b"an earlier header, overruled by the later") + LETTER,
        _field(2, b"") + LETTER,
        pb.Letter.FromString(LETTER).sealed + LETTER,
        LETTER[:1] + bytes([LETTER[1] | 0x80, LETTER[2] & 0x7F | 0x80, 0]) + LETTER[3:],
    ],
    ids=["unknown", "unknown first", "unknown number", "header twice", "seal twice", "raw", "long varint"],
)
def test_another_encoding_of_the_same_letter_is_refused(changed: bytes) -> None:
    with pytest.raises(EnvelopeError):
        _open(changed)


def test_another_encoding_of_the_same_header_is_refused_even_from_the_sender_himself() -> None:
    letter = pb.Letter.FromString(LETTER)
    letter.header += _field(13, b"unknown")
    with pytest.raises(EnvelopeError, match="plain encoding"):
        peek_header(letter.SerializeToString())


# --- what does not belong together is refused ---


def test_the_body_of_another_envelope_is_refused() -> None:
    other = seal_body(PLAINTEXT[::-1])
    with pytest.raises(EnvelopeError, match="sha256 does not match"):
        _open_all(LETTER, other.ciphertext)
    with pytest.raises(EnvelopeError, match="size does not match; got 16; expected 360"):
        _open_all(LETTER, seal_body(b"").ciphertext)


def test_the_header_of_another_letter_is_refused() -> None:
    other = _task()
    crossed = pb.Letter(header=pb.Letter.FromString(other).header, sealed=pb.Letter.FromString(LETTER).sealed)
    with pytest.raises(EnvelopeError, match="seal does not open"):
        _open(crossed.SerializeToString())


def test_a_key_that_does_not_fit_the_body_is_refused() -> None:
    """A sender who signs another key than the body's: the tag says no, although size and digest fit."""
    wrong = dataclasses.replace(BODY, content_key=bytes(32))
    out = bytearray(b"\xff" * len(PLAINTEXT))
    with pytest.raises(EnvelopeError, match="does not open with the letter's content key"):
        open_body(_open(_task(body=wrong)), CIPHERTEXT, out=out)
    assert out == bytes(len(PLAINTEXT))


@pytest.mark.parametrize(
    "changed", [b"", CIPHERTEXT[:-1], CIPHERTEXT + b"\0", CIPHERTEXT[:-1] + b"\0", b"\0" + CIPHERTEXT[1:]]
)
def test_a_refused_body_leaves_only_zeros_in_the_buffer(changed: bytes) -> None:
    out = np.full(len(PLAINTEXT), 7, np.uint8)
    with pytest.raises(EnvelopeError):
        open_body(_open(LETTER), changed, out=out)
    assert not out.any()


def test_a_buffer_that_will_not_do_is_refused() -> None:
    opened = _open(LETTER)
    for size in (0, len(PLAINTEXT) - 1, len(PLAINTEXT) + 1):
        with pytest.raises(EnvelopeError, match="buffer size"):
            open_body(opened, CIPHERTEXT, out=bytearray(size))
    with pytest.raises(EnvelopeError, match="cannot be written"):
        open_body(opened, CIPHERTEXT, out=bytes(len(PLAINTEXT)))
    with pytest.raises(EnvelopeError, match="contiguous"):
        seal_body(np.zeros((4, 4))[:, ::2])


def test_a_body_over_the_limit_is_refused_before_it_is_touched() -> None:
    with (
        mmap.mmap(-1, MAX_BODY_BYTES + 1) as memory,
        memoryview(memory) as untouched,
        pytest.raises(EnvelopeError, match="too long to seal"),
    ):
        seal_body(untouched)


def test_a_letter_over_the_limit_is_refused_by_both_ends() -> None:
    with pytest.raises(EnvelopeError, match="manifest is too long"):
        _task(manifest=bytes(2**24))
    with pytest.raises(EnvelopeError, match="letter is too long"):
        _open(bytes(2**24 + 1))


# --- from whom, to whom, when, for what ---


def test_a_letter_to_somebody_else_is_refused() -> None:
    with pytest.raises(EnvelopeError, match=r"recipient does not match; got spiffe://\S+/uffizi; expected \S+/prado"):
        _open(_task(recipient=UFFIZI.peer))


def test_a_letter_sealed_to_another_key_of_the_same_name_is_refused() -> None:
    other = dataclasses.replace(PRADO.peer, sealing=SealingKey.generate().public)
    with pytest.raises(EnvelopeError, match="sealed to another key"):
        _open(_task(recipient=other))


def test_a_letter_signed_by_another_key_of_the_same_name_is_refused() -> None:
    impostor = dataclasses.replace(SERVER, signing=SigningKey.generate())
    with pytest.raises(EnvelopeError, match="signature is not by the key of the sender"):
        _open(_task(sender=impostor))


def test_a_letter_from_another_server_is_refused() -> None:
    other = Identity.generate(SpiffeId(FEDERATION, Role.SERVER, "other"))
    with pytest.raises(EnvelopeError, match="sender does not match"):
        _open(_task(sender=other))


def test_a_letter_from_somebody_outside_the_roster_is_refused() -> None:
    expect = Expectation(frozenset({Kind.UPDATE}), FEDERATION)
    with pytest.raises(EnvelopeError, match="expected an active member of the roster"):
        open_letter(_update(), opener=SERVER, sender=_roster(UFFIZI), expect=expect, now_ms=NOW)


def test_a_site_in_the_roster_cannot_write_in_the_name_of_another() -> None:
    expect = Expectation(frozenset({Kind.UPDATE}), FEDERATION)
    forged = _update(sender=dataclasses.replace(UFFIZI, id=PRADO.id))
    with pytest.raises(EnvelopeError, match="signature"):
        open_letter(forged, opener=SERVER, sender=_roster(PRADO, UFFIZI), expect=expect, now_ms=NOW)


def test_a_recipient_cannot_pass_a_signed_letter_on_as_if_it_were_for_another() -> None:
    """Sealing again what the sender signed, under a header that names the new recipient: the signature covers it."""
    content = _hpke_content(LETTER, PRADO.sealing)
    header = pb.EnvelopeHeader.FromString(pb.Letter.FromString(LETTER).header)
    header.recipient = str(UFFIZI.id)
    clear = header.SerializeToString()
    from security.envelope import _SEAL_DOMAIN

    sealed = UFFIZI.sealing.public.seal(content, _SEAL_DOMAIN + clear)
    forged = pb.Letter(header=clear, sealed=sealed).SerializeToString()
    with pytest.raises(EnvelopeError, match="signature"):
        _open(forged, opener=UFFIZI)


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        (dataclasses.replace(A_TASK, run="run-2"), "run does not match; got 'run-1'; expected run-2"),
        (dataclasses.replace(A_TASK, round_number=4), "round does not match; got 3; expected 4"),
        (dataclasses.replace(A_TASK, round_number=0), "round does not match; got 3; expected 0"),
        (dataclasses.replace(A_TASK, federation="b.example"), "federation does not match"),
        (dataclasses.replace(A_TASK, kinds=frozenset({Kind.UPDATE})), "got TASK; expected UPDATE"),
        (dataclasses.replace(A_TASK, kinds=frozenset()), "got TASK; expected none"),
        (dataclasses.replace(A_TASK, in_reply_to=b"n" * 16), "in_reply_to does not match"),
    ],
)
def test_what_is_not_expected_is_refused(expect: Expectation, message: str) -> None:
    assert _open(LETTER, dataclasses.replace(A_TASK, run="run-1", round_number=3, in_reply_to=b""))
    with pytest.raises(EnvelopeError, match=message):
        _open(LETTER, expect)


def test_a_reply_to_another_task_is_refused() -> None:
    expect = Expectation(frozenset({Kind.UPDATE}), FEDERATION, in_reply_to=b"o" * 16)
    with pytest.raises(EnvelopeError, match=f"in_reply_to does not match; got '{'6e' * 16}'; expected {'6f' * 16}"):
        open_letter(_update(), opener=SERVER, sender=PRADO.peer, expect=expect, now_ms=NOW)


def test_a_letter_is_fresh_for_ten_minutes_and_may_be_one_minute_ahead() -> None:
    for now_ms in (NOW + 600_000, NOW - 60_000):
        assert _open(LETTER, now_ms=now_ms)
    with pytest.raises(EnvelopeError, match="stale; got 600001 ms old; expected at most 600000 ms"):
        _open(LETTER, now_ms=NOW + 600_001)
    with pytest.raises(EnvelopeError, match="future; got 60001 ms ahead; expected at most 60000 ms"):
        _open(LETTER, now_ms=NOW - 60_001)


@pytest.mark.parametrize(
    "changes",
    [
        {"run": ""},
        {"run": "a/b"},
        {"run": "r" * 129},
        {"run": "run\n1"},
        {"round_number": -1},
        {"round_number": 2**32},
        {"now_ms": -1},
        {"in_reply_to": b"n" * 16},
        {"kind": Kind.UPDATE, "in_reply_to": b"n" * 16},
        {"sender": PRADO},
        {"recipient": SERVER.peer},
        {"recipient": Identity.generate(SpiffeId("other.example", Role.SITE, "prado")).peer},
        {"body": SealedBody(memoryview(b"x" * 16), b"k" * 32, b"short")},
        {"body": SealedBody(memoryview(b"x" * 15), b"k" * 32, b"d" * 32)},
    ],
)
def test_a_letter_that_breaks_the_rules_is_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError):
        _task(**changes)


@pytest.mark.parametrize("in_reply_to", [b"", b"n" * 15])
def test_an_update_says_which_task_it_answers(in_reply_to: bytes) -> None:
    with pytest.raises(EnvelopeError, match="in_reply_to length"):
        _update(in_reply_to=in_reply_to)


def test_a_recipient_key_that_nothing_can_be_sealed_to_is_refused() -> None:
    """An X25519 point of small order makes the same secret for everybody (RFC 7748, 6.1)."""
    bad = SealingPublicKey(PRADO.sealing.public.raw[:1184] + bytes(32))
    with pytest.raises(EnvelopeError, match="nothing can be sealed"):
        _task(recipient=dataclasses.replace(PRADO.peer, sealing=bad))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", 2, "version does not match; got 2; expected 1"),
        ("kind", 9, "kind does not match; got 9"),
        ("kind", 0, "kind does not match; got 0"),
        ("sender", "spiffe://atelier.example/\nsite/x", "no valid name"),
        ("federation", "other.example", "federation does not match"),
        ("run", "a\x1b[31m", r"run does not match; got 'a\\x1b\[31m'"),
        ("nonce", b"short", "nonce length does not match; got 5; expected 16"),
        ("body_sha256", b"", "sha256 length"),
        ("body_size", 15, "body size is out of range"),
        ("body_size", 2**63, "body size is out of range"),
        ("created_at_ms", 2**64 - 1, "out of range"),
    ],
)
def test_a_header_that_breaks_the_rules_is_named(field: str, value: object, message: str) -> None:
    letter = pb.Letter.FromString(LETTER)
    header = pb.EnvelopeHeader.FromString(letter.header)
    setattr(header, field, value)
    letter.header = header.SerializeToString()
    for read in (peek_header, _open):
        with pytest.raises(EnvelopeError, match=message) as caught:
            read(letter.SerializeToString())
        assert "\n" not in str(caught.value)
        assert "\x1b" not in str(caught.value)


# --- replay ---


def test_a_replayed_letter_is_refused() -> None:
    book = NonceBook(600_000)
    header = _open(LETTER).header
    book.take(header, NOW)
    with pytest.raises(EnvelopeError, match="replay"):
        book.take(header, NOW + 1)
    book.take(_open(_task()).header, NOW)
    assert len(book) == 2


def test_one_senders_nonce_does_not_shut_another_out() -> None:
    book = NonceBook(600_000)
    header = _open(LETTER).header
    book.take(header, NOW)
    book.take(dataclasses.replace(header, sender=UFFIZI.id), NOW)


def test_a_book_forgets_only_what_is_refused_as_stale_anyway() -> None:
    book = NonceBook(600_000)
    header = _open(LETTER).header
    book.take(header, NOW)
    with pytest.raises(EnvelopeError, match="replay"):
        book.take(header, NOW + 600_000)
    with pytest.raises(EnvelopeError, match="too old to tell"):
        book.take(header, NOW + 600_001)
    assert len(book) == 0


def test_a_clock_that_is_set_back_brings_no_letter_back() -> None:
    book = NonceBook(600_000)
    header = _open(LETTER).header
    book.take(header, NOW)
    with pytest.raises(EnvelopeError, match="too old to tell"):
        book.take(header, NOW + 700_000)
    with pytest.raises(EnvelopeError, match="too old to tell"):
        book.take(header, NOW)


def test_what_a_book_remembers_survives_as_plain_values() -> None:
    book = NonceBook(600_000)
    header = _open(LETTER).header
    book.take(header, NOW)
    kept = book.remembered()
    assert kept == Remembered(NOW - 600_000, ((str(SERVER.id), header.nonce.hex(), NOW),))
    plain = json.loads(json.dumps(dataclasses.asdict(kept)))
    again = NonceBook(600_000, Remembered(plain["horizon_ms"], tuple(map(tuple, plain["nonces"]))))
    with pytest.raises(EnvelopeError, match="replay"):
        again.take(header, NOW)


def test_an_empty_book_that_begins_now_refuses_what_was_sealed_before() -> None:
    book = NonceBook(600_000, Remembered(NOW + 1, ()))
    with pytest.raises(EnvelopeError, match="too old to tell"):
        book.take(_open(LETTER).header, NOW)


# --- known answers ---


def _hpke_content(letter: bytes, key: SealingKey) -> bytes:
    """Open a letter's seal with RFC 9180 and X-Wing written out here, from SHA-3, HMAC and AES alone."""
    parts = pb.Letter.FromString(letter)
    expanded = hashlib.shake_256(key.seed).digest(96)
    lattice = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    curve = X25519PrivateKey.from_private_bytes(expanded[64:])
    lattice_share, curve_share, ciphertext = parts.sealed[:1088], parts.sealed[1088:1120], parts.sealed[1120:]
    shared = hashlib.sha3_256(
        lattice.decapsulate(lattice_share)
        + curve.exchange(X25519PublicKey.from_public_bytes(curve_share))
        + curve_share
        + curve.public_key().public_bytes_raw()
        + rb"\.//^"
        + b"\\"
    ).digest()
    # KEM MLKEM768-X25519 (0x647a), KDF HKDF-SHA256 (0x0001), AEAD AES-256-GCM (0x0002)
    suite = b"HPKE" + bytes.fromhex("647a00010002")

    def extract(salt: bytes, label: bytes, secret: bytes) -> bytes:
        return hmac.digest(salt, b"HPKE-v1" + suite + label + secret, "sha256")

    def expand(label: bytes, length: int) -> bytes:  # one block of HKDF-Expand is enough for 32 bytes
        info = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + context
        return hmac.digest(secret, info + b"\x01", "sha256")[:length]

    info = b"bottega/v1/letter-seal\x00" + parts.header
    context = b"\x00" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")
    return AESGCM(expand(b"key", 32)).decrypt(expand(b"base_nonce", 12), ciphertext, b"")


def test_the_seal_is_rfc_9180_with_the_suite_that_is_named() -> None:
    content = pb.LetterContent.FromString(_hpke_content(LETTER, PRADO.sealing))
    assert content.manifest == MANIFEST
    assert content.content_key == BODY.content_key


def test_the_signature_covers_header_manifest_and_key_with_their_lengths() -> None:
    header = pb.Letter.FromString(LETTER).header
    content = pb.LetterContent.FromString(_hpke_content(LETTER, PRADO.sealing))
    signed = b"bottega/v1/letter-signature\x00" + b"".join(
        len(part).to_bytes(8, "big") + part for part in (header, MANIFEST, BODY.content_key)
    )
    assert SERVER.signing.public.verifies(content.signature, signed)


def test_the_body_is_aes_256_gcm_under_the_content_key() -> None:
    assert AESGCM(BODY.content_key).decrypt(bytes(12), CIPHERTEXT, b"bottega/v1/body\x00") == PLAINTEXT


def test_an_envelope_of_the_first_version_still_opens() -> None:
    """Made once, and kept: what was sealed by this version must open in every later one."""
    kept = {name: bytes.fromhex(value) for name, value in json.loads(DATA.read_text()).items()}
    server = SigningKey(kept["server_signing_seed"]).public
    site = dataclasses.replace(PRADO, sealing=SealingKey(kept["site_sealing_seed"]))
    opened = open_letter(
        kept["letter"],
        opener=site,
        sender=dataclasses.replace(SERVER.peer, verify=server),
        expect=Expectation(frozenset({Kind.TASK}), FEDERATION, "run-1", 3),
        now_ms=NOW,
    )
    assert opened.manifest == b"the manifest of a task"
    assert bytes(open_body(opened, kept["body"])) == b"the adapter of a task, as safetensors"
    assert opened.header.nonce == kept["nonce"]
