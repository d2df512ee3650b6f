"""Signed notes (c2sp.org/signed-note): a text for people, and under it a line for each signature.

Two kinds of signature are known: Ed25519 over the text, and the cosignature of a witness, Ed25519 over the text and the
time at which it was seen (c2sp.org/tlog-cosignature). Lines by keys that nobody here knows are ignored, as the standard
says; a line that claims a known key and is not by it refuses the whole note.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from common.errors import IdentityError, LedgerError
from security.keys import SigningKey, VerifyKey

MOST_NOTE_BYTES = 1_000_000
"""The longest note, as in Go's ``sumdb/note``."""

MOST_LINES = 4096
"""Signatures of one note: room for every site of a large federation. (Go's ``sumdb/note`` reads 100.)"""

MOST_NAME = 255
"""The longest name of a signer, characters."""

_DASH = "\u2014 "
_ID_BYTES = 4
_SIGNATURE_BYTES = 64
_LATEST_TIME = 2**63 - 1


class SignatureKind(IntEnum):
    """What a key signs, by its byte in the standard."""

    ED25519 = 0x01
    COSIGNATURE = 0x04


@dataclass(frozen=True)
class NoteKey:
    """A key that signs notes, and the name that it signs them under. ``str`` of it is C2SP's verifier key ("vkey").

    Args:
        name: Without a space or a plus sign.
        key: Ed25519.
        kind: What it signs.

    Raises:
        LedgerError: It cannot be the name of a signer.
    """

    name: str
    key: VerifyKey
    kind: SignatureKind = SignatureKind.ED25519

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise LedgerError(
                "nobody can sign a note under this name", got=f"{len(self.name)} characters",
                expected=f"1 to {MOST_NAME} characters without spaces and plus signs",
            )  # fmt: skip

    @property
    def id(self) -> bytes:
        """Four bytes that tell keys of one name apart."""
        said = self.name.encode() + b"\n" + bytes([self.kind]) + self.key.raw
        return hashlib.sha256(said).digest()[:_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_base64(bytes([self.kind]) + self.key.raw)}"

    @classmethod
    def parse(cls, text: str) -> NoteKey:
        """Return the key that ``str`` wrote.

        Raises:
            LedgerError: It is none, of a kind that is not known here, or another writing of one.
        """
        name, _, rest = text.partition("+")
        raw = _from_base64(rest.partition("+")[2]) or b""
        try:
            key = cls(name, VerifyKey(raw[1:]), SignatureKind(raw[0] if raw else 0))
        except (ValueError, IdentityError):
            key = None
        if key is None or str(key) != text:
            raise LedgerError(
                "this is no key that notes are verified with", got=f"{len(text)} characters",
                expected="NAME+ID+KEY (c2sp.org/signed-note), Ed25519 or cosignature/v1",
            )  # fmt: skip
        return key


@dataclass(frozen=True)
class Signature:
    """One signature that was verified.

    Attributes:
        by: The key.
        time: When a witness cosigned, Unix seconds; None for other signatures.
    """

    by: NoteKey
    time: int | None = None


@dataclass(frozen=True)
class OpenNote:
    """What a note says, and who of those known here signed it, in the order of its lines."""

    text: bytes
    signatures: tuple[Signature, ...]


@dataclass(frozen=True)
class Line:
    """One signature line, not verified.

    Attributes:
        name: Of the signer, as it says.
        blob: The key's id (4 bytes), then the signature.
    """

    name: str
    blob: bytes

    def __bytes__(self) -> bytes:
        return f"{_DASH}{self.name} {_base64(self.blob)}\n".encode()


def sign_note(text: bytes, name: str, key: SigningKey) -> bytes:
    """Return a text as a note with one signature, Ed25519.

    Args:
        text: Lines of UTF-8, each ended.
        name: Of the signer.
        key: Of the signer.

    Raises:
        LedgerError: It cannot be the text of a note, or the name of a signer.
    """
    _check_text(text)
    by = NoteKey(name, key.public)
    return text + b"\n" + bytes(Line(name, by.id + key.sign(text)))


def cosignature(text: bytes, name: str, key: SigningKey, time: int) -> bytes:
    """Return the line by which a witness says that it has seen a text.

    Args:
        text: Of a note.
        name: Of the witness.
        key: Of the witness.
        time: Unix seconds.

    Raises:
        LedgerError: It cannot be the text of a note, the name of a signer, or a time.
    """
    _check_text(text)
    if not 0 <= time <= _LATEST_TIME:
        raise LedgerError("nothing can be cosigned at this time", got=time, expected="Unix seconds")
    by = NoteKey(name, key.public, SignatureKind.COSIGNATURE)
    return bytes(Line(name, by.id + time.to_bytes(8, "big") + key.sign(_cosigned(text, time))))


def add_line(note: bytes, line: bytes) -> bytes:
    """Return a note with one signature line more.

    Raises:
        LedgerError: One of them is none, or there are too many.
    """
    longer = bytes(note) + bytes(read_line(line))
    split_note(longer)
    return longer


def read_line(line: bytes) -> Line:
    """Return one signature line, not verified.

    Raises:
        LedgerError: It is none, or another writing of one.
    """
    try:
        dash, name, blob = bytes(line).decode().removesuffix("\n").split(" ")
    except ValueError:
        raise _malformed("a signature line") from None
    read = Line(name, _from_base64(blob) or b"")
    if dash + " " != _DASH or not _is_name(name) or len(read.blob) <= _ID_BYTES or bytes(read) != line:
        raise _malformed("a signature line")
    return read


def split_note(note: bytes) -> tuple[bytes, list[Line]]:
    """Return the text of a note and its signature lines, none of them verified.

    Raises:
        LedgerError: It is no note, or too long.
    """
    if len(note) > MOST_NOTE_BYTES:
        raise LedgerError("a note is too long", got=f"{len(note)} bytes", expected=f"at most {MOST_NOTE_BYTES}")
    head, gap, tail = bytes(note).rpartition(b"\n\n")
    text = head + b"\n"
    if not gap or not tail.endswith(b"\n"):
        raise _malformed("a note")
    _check_text(text)
    if tail.count(b"\n") > MOST_LINES:
        raise LedgerError("a note has too many signatures", expected=f"at most {MOST_LINES}")
    return text, [read_line(line + b"\n") for line in tail.split(b"\n")[:-1]]


def open_note(note: bytes, keys: Iterable[NoteKey]) -> OpenNote:
    """Verify a note.

    Args:
        note: From anywhere.
        keys: All that are known here.

    Returns:
        Its text, and the signatures by known keys: at least one.

    Raises:
        LedgerError: It is no note, no known key signed it, or a line claims a known key and is not by it.
    """
    text, lines = split_note(note)
    known = {(key.name, key.id): key for key in keys}
    signatures = tuple(_verified(text, lines, known))
    if not signatures:
        raise LedgerError(
            "a note is signed by nobody who is known here", got=f"{len(lines)} signatures",
            expected=" or ".join(sorted({key.name for key in known.values()})[:3]) or "a known key",
        )  # fmt: skip
    return OpenNote(text, signatures)


def _verified(text: bytes, lines: Iterable[Line], known: dict[tuple[str, bytes], NoteKey]) -> Iterator[Signature]:
    for line in lines:
        by = known.get((line.name, line.blob[:_ID_BYTES]))
        if by is None:
            continue
        signature = _signature(text, by, line.blob[_ID_BYTES:])
        if signature is None:
            raise LedgerError("a note is not signed by whom it says", got=f"a wrong signature of {by.name}")
        yield signature


def _signature(text: bytes, by: NoteKey, signed: bytes) -> Signature | None:
    """Return a signature by a key; None when it is not by it."""
    if by.kind is SignatureKind.ED25519:
        return Signature(by) if by.key.verifies(signed, text) else None
    time = int.from_bytes(signed[:-_SIGNATURE_BYTES], "big")
    if len(signed) != 8 + _SIGNATURE_BYTES or time > _LATEST_TIME:
        return None
    return Signature(by, time) if by.key.verifies(signed[8:], _cosigned(text, time)) else None


def _cosigned(text: bytes, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n".encode() + text


def _check_text(text: bytes) -> None:
    try:
        controls = any(ord(c) < 0x20 and c != "\n" for c in text.decode())
    except UnicodeDecodeError:
        controls = True
    if controls or not text.endswith(b"\n"):
        raise _malformed("the text of a note")


def _is_name(name: str) -> bool:
    # isprintable also keeps out what UTF-8 cannot write, and names that look like others by invisible characters
    return 0 < len(name) <= MOST_NAME and name.isprintable() and " " not in name and "+" not in name


def _malformed(what: str) -> LedgerError:
    return LedgerError(f"this is not {what}", expected="a signed note (c2sp.org/signed-note)")


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _from_base64(text: str) -> bytes | None:
    """Return what a text stands for; None where it is another writing than the one that is written here."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return raw if _base64(raw) == text else None
