"""The federation's certificate authority: one ECDSA P-256 root that issues X.509 leaves with SPIFFE names.

The profile is RFC 5280 with the SPIFFE X509-SVID standard: one URI SAN, the leaf no authority, digital
signatures only. A leaf of a server may serve TLS and carry DNS names and addresses; every other leaf may only be a
TLS client. The root may name only its own federation: a URI name constraint says so, and verifiers that keep to
RFC 5280 enforce it. DNS names and addresses are left unconstrained, because a server may stand anywhere.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import IdentityError
from security.files import PUBLIC, read_public, replace
from security.keys import load_tls_key, pkcs8_pem
from security.names import Role, SpiffeId, shown

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Iterable
    from pathlib import Path

    from security.key_folder import KeyFolder

ROOT_LIFETIME = dt.timedelta(days=3650)
"""How long a root holds: ten years."""

LEAF_LIFETIME = dt.timedelta(days=90)
"""How long a leaf holds unless the caller says otherwise."""

_CLOCK_SKEW = dt.timedelta(minutes=5)  # certificates begin this much early, for clocks that are behind
_KEY_FILE = "authority.key"
_CERTIFICATE_FILE = "authority.pem"


@dataclass(frozen=True)
class Authority:
    """A federation's root: its certificate and its private key.

    Made by :func:`create_authority` or :meth:`load`.

    Args:
        federation: The trust domain that it may name.
        certificate: The self-signed root certificate; public.
        key: Its ECDSA P-256 private key.
    """

    federation: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def issue(
        self,
        spiffe_id: SpiffeId,
        public_key: ec.EllipticCurvePublicKey,
        dns_names: Iterable[str] = (),
        ip_addresses: Iterable[ipaddress.IPv4Address | ipaddress.IPv6Address] = (),
        lifetime: dt.timedelta = LEAF_LIFETIME,
        generation: int = 0,
    ) -> x509.Certificate:
        """Issue a TLS certificate.

        Args:
            spiffe_id: Whose; of this federation.
            public_key: Their ECDSA P-256 TLS key.
            dns_names: What a server is reached by; ASCII.
            ip_addresses: What a server is reached by.
            lifetime: From now; it ends before the root does.
            generation: How often they have gone over to new keys.

        Returns:
            The certificate, valid from five minutes ago.

        Raises:
            IdentityError: Another federation, another kind of key, names for somebody who is no server, or a
                lifetime that is not positive or outlives the root.
        """
        self._refuse_foreign(spiffe_id, public_key)
        names = _alternative_names(spiffe_id, dns_names, ip_addresses)
        now = dt.datetime.now(dt.UTC)
        if lifetime <= dt.timedelta(0) or now + lifetime > self.certificate.not_valid_after_utc:
            raise IdentityError(
                "a certificate cannot have this lifetime",
                got=lifetime,
                expected=f"positive, and over by {self.certificate.not_valid_after_utc:%Y-%m-%d}, when the root ends",
                advice="Choose another lifetime.",
            )
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if spiffe_id.role is Role.SERVER else ExtendedKeyUsageOID.CLIENT_AUTH
        issuer_keys = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = (
            _builder(_subject(spiffe_id.name, generation), self.certificate.subject, public_key, now + lifetime)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_keys), critical=False)
        )
        return builder.sign(self.key, hashes.SHA256())

    def save(self, folder: KeyFolder) -> None:
        """Keep the authority: its private key as ``authority.key``, its certificate beside it in ``authority.pem``.

        Raises:
            VaultError: An authority is already there, or it cannot be written.
            IdentityError: The certificate cannot be written.
        """
        folder.keep(_KEY_FILE, pkcs8_pem(self.key))
        save_certificate(folder.path / _CERTIFICATE_FILE, self.certificate)

    @classmethod
    def load(cls, folder: KeyFolder) -> Authority:
        """Read what :meth:`save` wrote.

        Raises:
            VaultError: The key is missing, open to others, or does not open.
            IdentityError: The certificate is missing or damaged, or the two do not belong together.
        """
        key = load_tls_key(folder, _KEY_FILE)
        certificate = load_certificate(folder.path / _CERTIFICATE_FILE)
        if key.public_key() != certificate.public_key():
            raise IdentityError(f"{_KEY_FILE} and {_CERTIFICATE_FILE} in {folder.path} do not belong together")
        return cls(federation_of(certificate), certificate, key)

    def _refuse_foreign(self, spiffe_id: SpiffeId, public_key: ec.EllipticCurvePublicKey) -> None:
        if spiffe_id.federation != self.federation:
            raise IdentityError(
                "an authority names only its own federation", got=spiffe_id.federation, expected=self.federation
            )
        if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
            raise IdentityError("a TLS key is of another kind", got=type(public_key).__name__, expected="ECDSA P-256")


def create_authority(federation: str) -> Authority:
    """Make the root of a new federation.

    Args:
        federation: Its trust domain: DNS labels joined by dots.

    Returns:
        The authority, in memory only until :meth:`Authority.save`.

    Raises:
        IdentityError: ``federation`` is no such name.
    """
    SpiffeId(federation, Role.SERVER, "server")  # whether the name of the federation will do
    key = ec.generate_private_key(ec.SECP256R1())
    # A common name holds 64 characters (RFC 5280, appendix A), a federation up to 253; the constraint has it all.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"bottega {federation}"[:64])])
    only_this_federation = x509.NameConstraints([x509.UniformResourceIdentifier(federation)], None)
    builder = (
        _builder(None, name, key.public_key(), dt.datetime.now(dt.UTC) + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(only_this_federation, critical=True)
    )
    return Authority(federation, builder.sign(key, hashes.SHA256()), key)


def save_certificate(path: Path, certificate: x509.Certificate) -> None:
    """Write a certificate as PEM, in place of the one it renews if there is one.

    Raises:
        IdentityError: The file cannot be written.
    """
    replace(path, [certificate.public_bytes(serialization.Encoding.PEM)], error=IdentityError, mode=PUBLIC)


def load_certificate(path: Path) -> x509.Certificate:
    """Read a PEM certificate.

    Raises:
        IdentityError: The file is missing or holds none.
    """
    content = read_public(path, error=IdentityError)
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError:
        raise IdentityError(f"{path} holds no certificate", expected="PEM") from None


def certified_id(certificate: x509.Certificate) -> SpiffeId:
    """Read whose certificate this is. It does not check who issued it: that is the TLS handshake's work.

    Args:
        certificate: A leaf.

    Returns:
        The one SPIFFE id that it names.

    Raises:
        IdentityError: It names none, or several, or something else.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        uris = []
    if len(uris) != 1:
        raise IdentityError("a certificate names nobody of a federation", got=f"{len(uris)} URIs", expected="one")
    return SpiffeId.parse(uris[0])


def generation_of(certificate: x509.Certificate) -> int:
    """Read how often the holder of a certificate had gone over to new keys when it was issued.

    Raises:
        IdentityError: It says so twice, or in no number.
    """
    said = certificate.subject.get_attributes_for_oid(NameOID.GENERATION_QUALIFIER)
    match [str(attribute.value) for attribute in said]:
        case []:
            return 0
        case [number] if number.isascii() and number.isdigit() and len(number) < 10:
            return int(number)
        case _:
            raise IdentityError("a certificate says in no clear way which keys it is for")


def renewal_is_due(certificate: x509.Certificate, now: dt.datetime) -> bool:
    """Return whether two thirds of a certificate's life are over."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= begin + (end - begin) * 2 / 3


def federation_of(certificate: x509.Certificate) -> str:
    """Read the one federation that a root may name.

    Args:
        certificate: A root.

    Returns:
        Its trust domain.

    Raises:
        IdentityError: It names none, or more than a federation.
    """
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        raise IdentityError("this is no federation's root certificate: it has no name constraint") from None
    match constraints.permitted_subtrees:
        case [x509.UniformResourceIdentifier(value=federation)]:
            return federation
        case _:
            raise IdentityError("a federation's root certificate names more or less than one federation")


def _builder(
    name: x509.Name | None, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, end: dt.datetime
) -> x509.CertificateBuilder:
    """Begin a certificate; without a name it is the issuer's own."""
    return (
        x509.CertificateBuilder()
        .subject_name(issuer if name is None else name)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime.now(dt.UTC) - _CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _subject(name: str, generation: int) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if generation:
        attributes.append(x509.NameAttribute(NameOID.GENERATION_QUALIFIER, str(generation)))
    return x509.Name(attributes)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(
    spiffe_id: SpiffeId,
    dns_names: Iterable[str],
    ip_addresses: Iterable[ipaddress.IPv4Address | ipaddress.IPv6Address],
) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
    for dns_name in dns_names:
        try:
            names.append(x509.DNSName(dns_name))
        except ValueError:
            raise IdentityError("this is no DNS name for a certificate", got=shown(dns_name)) from None
    names += [x509.IPAddress(address) for address in ip_addresses]
    if len(names) > 1 and spiffe_id.role is not Role.SERVER:
        raise IdentityError("only a server's certificate carries DNS names and addresses", got=spiffe_id.role)
    return x509.SubjectAlternativeName(names)
