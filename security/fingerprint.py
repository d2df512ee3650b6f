"""Fingerprints: short enough that two people can compare them, over a telephone if need be.

The words are the English list of BIP-39, as the package ``mnemonic`` keeps it: 2048 common words, each known by its
first four letters.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from mnemonic import Mnemonic

from common.errors import IdentityError
from security.records import joined

if TYPE_CHECKING:
    from cryptography import x509

FINGERPRINT_BYTES = 32
"""A fingerprint is a SHA-256."""

WORDS = 8
"""How many words a person compares: 88 bits."""

_BITS_A_WORD = 11


@dataclass(frozen=True)
class Fingerprint:
    """A SHA-256, and how people read it.

    Args:
        digest: Its 32 bytes.

    Raises:
        IdentityError: ``digest`` is not 32 bytes long.
    """

    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != FINGERPRINT_BYTES:
            raise IdentityError(
                "this is no fingerprint", got=f"{len(self.digest)} bytes", expected=f"{FINGERPRINT_BYTES} bytes"
            )

    @property
    def hex(self) -> str:
        """All 256 bits: sixteen groups of four hex digits."""
        return self.digest.hex(" ", 2)

    @property
    def words(self) -> str:
        """The first 88 bits as eight words, for comparing by ear.

        Whoever wants keys of their own to show somebody else's words has to make 2^88 of them, about 3 * 10^26, one
        after the other: ten million years at a million million a second. That is a second preimage. Two sets of keys
        whose words agree with each other cost only 2^44, but whoever makes both owns both, and what is believed after
        the comparison is the whole record that was compared, never whatever has the same words. Where a machine
        compares, it compares all 256 bits.
        """
        bits = int.from_bytes(self.digest) >> (8 * FINGERPRINT_BYTES - WORDS * _BITS_A_WORD)
        places = (bits >> (_BITS_A_WORD * place) & (2**_BITS_A_WORD - 1) for place in reversed(range(WORDS)))
        return " ".join(_word_list()[place] for place in places)


def fingerprint(domain: bytes, *parts: bytes) -> Fingerprint:
    """Take the fingerprint of some bytes.

    Args:
        domain: What they are; no two kinds of thing have a fingerprint in common.
        parts: Each counts with its length, so no byte can move from one to the next.

    Returns:
        The fingerprint.
    """
    return Fingerprint(hashlib.sha256(joined(domain, *parts)).digest())


def certificate_fingerprint(certificate: x509.Certificate) -> Fingerprint:
    """Take the fingerprint of a certificate: of its DER alone, as ``openssl x509 -fingerprint -sha256`` does."""
    return Fingerprint(certificate.fingerprint(hashes.SHA256()))


@cache
def _word_list() -> tuple[str, ...]:
    return tuple(Mnemonic("english").wordlist)
