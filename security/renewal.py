"""Renewal: a member has a TLS key certified again, and signs the request with the key that the roster knows them by.

The certificate that opened the connection is not enough: whoever stole a TLS key could have one key after another
certified with it, long after the member went over to new keys.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import IdentityError
from security.csr import make_csr, read_csr
from security.identity import Peer
from security.member import MemberKeys
from security.records import joined

_DOMAIN = b"bottega/v1/renewal\x00"


def make_renewal(keys: MemberKeys) -> tuple[bytes, bytes]:
    """Return a CSR for a member's TLS key, and the member's signature over it."""
    csr = make_csr(keys.id, keys.tls)
    return csr, keys.identity.signing.sign(joined(_DOMAIN, csr))


def open_renewal(csr: bytes, signature: bytes, member: Peer) -> ec.EllipticCurvePublicKey:
    """Return the key that a member asks to have certified.

    Args:
        csr: PKCS#10, DER, from anywhere.
        signature: Ed25519 over it.
        member: Who asks, as the roster has them.

    Raises:
        IdentityError: The signature is not the member's, or the CSR is not by the key in it or names somebody else.
    """
    if not member.verify.verifies(signature, joined(_DOMAIN, csr)):
        raise IdentityError(
            "a renewal is signed by the key that the roster has of the member", got=member.id,
            advice="Renew with the present keys; after a rotation the old ones no longer do.",
        )  # fmt: skip
    return read_csr(csr, member.id)
