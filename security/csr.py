"""Certificate signing requests (PKCS#10, RFC 2986): a name, a TLS key, and the proof that the key is held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from security.records import refused

if TYPE_CHECKING:
    from security.names import SpiffeId


def make_csr(spiffe_id: SpiffeId, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Ask for a certificate.

    Args:
        spiffe_id: For whom.
        key: Their TLS key, ECDSA P-256; it signs the request.

    Returns:
        DER.
    """
    name, names = _contents(spiffe_id)
    builder = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def read_csr(der: bytes, spiffe_id: SpiffeId) -> ec.EllipticCurvePublicKey:
    """Check a request and return the key that it proves to be held.

    Args:
        der: From anywhere.
        spiffe_id: Whom it must name, and nothing else.

    Raises:
        IdentityError: It is no such request, or not signed by the ECDSA P-256 key in it.
    """
    name, names = _contents(spiffe_id)
    try:
        csr = x509.load_der_x509_csr(der)
        key, signed = csr.public_key(), csr.is_signature_valid and csr.signature_hash_algorithm == hashes.SHA256()
        subject, attributes = csr.subject, len(list(csr.attributes))
        extensions = [extension.value for extension in csr.extensions]
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ):
        raise refused("the CSR cannot be read", expected="PKCS#10, DER") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise refused("the CSR's key is of another kind", got=type(key).__name__, expected="ECDSA P-256")
    if not signed:
        raise refused("the CSR is not signed by the TLS key in it", got=spiffe_id)
    # One attribute holds the extensions, and the one extension the name: an authority is asked for nothing else.
    if subject != name or attributes != 1 or extensions != [names]:
        raise refused("the CSR names somebody or something else", expected=f"{spiffe_id} alone")
    return key


def _contents(spiffe_id: SpiffeId) -> tuple[x509.Name, x509.SubjectAlternativeName]:
    """Say what a request holds: the name, and the id as its one URI."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, spiffe_id.name)])
    return name, x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])
