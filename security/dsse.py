"""Signed envelopes that other programs read: DSSE (github.com/secure-systems-lab/dsse), Ed25519.

What is signed is the type of the content and the content, byte for byte, so nothing has to be read before it is
verified. This house is stricter than the standard: one signature, and one writing (RFC 8785, strict base64), so that
each byte of an envelope counts.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from common.errors import LedgerError, ProvenanceError
from security.canonical import canonical, parse_canonical
from security.keys import SigningKey
from security.note import NoteKey

_KEY_ID = re.compile(r"[0-9a-f]{8}")
"""C2SP's four bytes."""


@dataclass(frozen=True)
class SignedContent:
    """An envelope that was read. Nothing of it is verified yet.

    Attributes:
        type: Of the content, a media type.
        content: Byte for byte.
        key_id: Hex, of the key that it says signed it: C2SP's id of a note's key.
        signature: Ed25519, over type and content.
    """

    type: str
    content: bytes
    key_id: str
    signature: bytes

    def is_by(self, key: NoteKey) -> bool:
        """Return whether a key signed it, and it says so."""
        signed = pre_authentication(self.type, self.content)
        return self.key_id == key.id.hex() and key.key.verifies(self.signature, signed)


def sign_content(content: bytes, media_type: str, name: str, key: SigningKey) -> bytes:
    """Return content in a signed envelope.

    Args:
        content: Any bytes.
        media_type: What they are.
        name: That the signer signs notes under; it goes into the key id.
        key: Of the signer.

    Raises:
        LedgerError: Nobody can sign under that name.
    """
    by = NoteKey(name, key.public)
    signature = key.sign(pre_authentication(media_type, content))
    return _written(SignedContent(media_type, content, by.id.hex(), signature))


def read_envelope(data: bytes) -> SignedContent:
    """Return what an envelope holds, not verified.

    Guarantees: there is no other envelope with the same content and signature.

    Raises:
        ProvenanceError: It is none, has another number of signatures than one, or is another writing of one.
    """
    try:
        match parse_canonical(data):
            case {"payload": str(text), "payloadType": str(kind), "signatures": [{"keyid": str(key), "sig": str(sig)}]}:
                read = SignedContent(kind, _decoded(text), key, _decoded(sig))
            case _:
                raise ProvenanceError(_WHAT, got="other fields", expected=_EXPECTED)
    except (LedgerError, ValueError):
        raise ProvenanceError(_WHAT, got="no canonical JSON, or a part that is no base64", expected=_EXPECTED) from None
    if not _KEY_ID.fullmatch(read.key_id) or _written(read) != data:
        raise ProvenanceError(_WHAT, got="another writing", expected=_EXPECTED)
    return read


def pre_authentication(media_type: str, content: bytes) -> bytes:
    """Return what is signed: the standard's pre-authentication encoding, PAE."""
    kind = media_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(content), content)


def _written(read: SignedContent) -> bytes:
    return canonical(
        {
            "payload": base64.b64encode(read.content).decode(),
            "payloadType": read.type,
            "signatures": [{"keyid": read.key_id, "sig": base64.b64encode(read.signature).decode()}],
        }
    )


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_WHAT = "this is no signed envelope"
_EXPECTED = "DSSE in canonical JSON, with one signature"
