"""The key that signs pictures, with certificates as C2PA asks for them: its own, and that of an authority made with it.

No other authority is asked, for that takes a network and a name. So the chain says that one key signed, and not whose.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_YEARS = 20
"""How long the certificates hold. Without a time stamp of an authority, a credential holds no longer than its key's."""


def make_key() -> bytes:
    """Return a new key, its certificate, and that of an authority whose own key is thrown away; PEM."""
    authority, key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    own = _certificate("bottega content credentials, drawing", key.public_key(), authority, is_authority=False)
    root = _certificate("bottega content credentials", authority.public_key(), authority, is_authority=True)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return secret + own.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM)


def _certificate(
    name: str, key: Ed25519PublicKey, authority: Ed25519PrivateKey, *, is_authority: bool
) -> x509.Certificate:
    """Return a certificate as C2PA wants it: keys for signatures alone, with the purpose that it names for them."""
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name("bottega content credentials"))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))  # for clocks that are behind
        .not_valid_after(now + dt.timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
        .add_extension(_usage(is_authority=is_authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
    )
    if not is_authority:
        # What C2PA takes for signing content, of the purposes that X.509 itself has.
        made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return made.sign(authority, None)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "bottega"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
