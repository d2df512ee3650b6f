"""Checkpoints (c2sp.org/tlog-checkpoint): how many entries a ledger has and the root of its tree, signed by its server.

What a site has seen it cosigns (c2sp.org/tlog-cosignature), so a server that shows two ledgers has to deceive every
witness. Extension lines, which the standard discourages, are refused: nobody here could check what they say.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass

from common.errors import LedgerError
from security.keys import SigningKey, VerifyKey
from security.merkle import EMPTY_ROOT, HASH_BYTES, MOST_ENTRIES
from security.note import NoteKey, SignatureKind, cosignature, open_note, sign_note, split_note

_TEXT = re.compile(rb"([^\n]+)\n(0|[1-9][0-9]{0,18})\n([A-Za-z0-9+/]{43}=)\n")


@dataclass(frozen=True)
class Checkpoint:
    """What a server says of its ledger.

    Args:
        origin: The ledger's name, and the name that it is signed under.
        size: Entries.
        root: Of their tree, 32 bytes.

    Raises:
        LedgerError: No ledger can have this size or root.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.size < MOST_ENTRIES:
            raise LedgerError("no ledger has this size", got=self.size, expected=f"0 to {MOST_ENTRIES - 1}")
        if len(self.root) != HASH_BYTES or (self.size == 0 and self.root != EMPTY_ROOT):
            raise LedgerError("no ledger of this size has this root", got=f"{len(self.root)} bytes of root")

    def to_text(self) -> bytes:
        """Return the text that is signed: three lines."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()

    @classmethod
    def from_text(cls, text: bytes) -> Checkpoint:
        """Return the checkpoint that :meth:`to_text` wrote.

        Raises:
            LedgerError: It is none, or has lines more.
        """
        lines = _TEXT.fullmatch(text)
        if not lines:
            raise _malformed()
        try:
            read = cls(lines[1].decode(), int(lines[2]), base64.b64decode(lines[3]))
        except UnicodeDecodeError:
            raise _malformed() from None
        if read.to_text() != text:
            raise _malformed()
        return read


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> bytes:
    """Return a checkpoint as a signed note, under the name of its ledger.

    Raises:
        LedgerError: Nobody can sign under that name.
    """
    return sign_note(checkpoint.to_text(), checkpoint.origin, key)


def open_checkpoint(note: bytes, origin: str, key: VerifyKey) -> Checkpoint:
    """Return what a server says of its ledger.

    Args:
        note: From anywhere; lines of witnesses may be there, and are not looked at.
        origin: The ledger that is expected.
        key: Of its server.

    Raises:
        LedgerError: The server did not sign it, or it is no checkpoint of that ledger.
    """
    checkpoint = Checkpoint.from_text(open_note(note, [NoteKey(origin, key)]).text)
    if checkpoint.origin != origin:
        raise LedgerError("a checkpoint is of another ledger", got=checkpoint.origin[:64], expected=origin)
    return checkpoint


def read_checkpoint(note: bytes) -> Checkpoint:
    """Return what a note says of a ledger; whoever signed it.

    Raises:
        LedgerError: It is no checkpoint.
    """
    return Checkpoint.from_text(split_note(note)[0])


def cosigner_key(name: str, key: VerifyKey) -> NoteKey:
    """Return the key by which a witness's cosignatures are known."""
    return NoteKey(name, key, SignatureKind.COSIGNATURE)


def cosign(note: bytes, name: str, key: SigningKey, time: int) -> bytes:
    """Return the line by which a witness says that it has seen a checkpoint; the note and the line make a note.

    Args:
        note: A checkpoint that the witness has verified.
        name: Of the witness.
        key: Of the witness.
        time: Unix seconds.

    Raises:
        LedgerError: It is no checkpoint.
    """
    return cosignature(read_checkpoint(note).to_text(), name, key, time)


def cosigners(note: bytes, keys: Iterable[NoteKey]) -> dict[str, int]:
    """Return which witnesses cosigned a checkpoint, and when (the latest time of each, Unix seconds).

    Args:
        note: A checkpoint; its own signature is for :func:`open_checkpoint`.
        keys: Of the witnesses (:func:`cosigner_key`); several of one name where its keys changed.

    Raises:
        LedgerError: It is no checkpoint, or a line claims one of the keys and is not by it.
    """
    read_checkpoint(note)
    known = [key for key in keys if key.kind is SignatureKind.COSIGNATURE]
    claimed = {(line.name, line.blob[:4]) for line in split_note(note)[1]}
    if not any((key.name, key.id) in claimed for key in known):
        return {}
    found: dict[str, int] = {}
    for signature in open_note(note, known).signatures:
        found[signature.by.name] = max(found.get(signature.by.name, 0), signature.time or 0)
    return found


def _malformed() -> LedgerError:
    return LedgerError(
        "this is no checkpoint", expected="origin, size and root (c2sp.org/tlog-checkpoint), and no more"
    )
