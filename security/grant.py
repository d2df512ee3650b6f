"""The grant: what a newcomer gets when the operator has said yes.

It holds the newcomer's certificate, the authority's certificate, the roster and the federation's settings. The server
signs it, and it is sealed to the newcomer's sealing key, so that only the holder of that key can open it: with this
the last of the keys is proved to be held, and the certificate is of no use to who does not hold it.

**The chain of belief.** The newcomer pins the authority's certificate by its fingerprint, which the invitation carried
(or which was compared by hand). The authority's statement (``security/statement.py``) vouches for the server's
signing key. The server's signature covers the header, which names the newcomer and the fingerprint of all their keys,
and the terms, each with its length before it. The header's exact bytes are bound to the seal as well, as in an
envelope.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from common.errors import IdentityError
from common.proto import enrolment_pb2 as pb
from security.authority import certified_id, federation_of
from security.fingerprint import Fingerprint
from security.identity import Identity, Peer
from security.names import SpiffeId
from security.records import ADVICE, VERSION, joined, read_record, refused, require, require_fresh
from security.statement import vouched_server

if TYPE_CHECKING:
    from collections.abc import Mapping

    from security.member import MemberKeys, Newcomer

MAX_GRANT_BYTES = 2**24
"""The longest grant: 16 MiB, a roster of some eight thousand."""

_SEAL_DOMAIN = b"bottega/v1/grant-seal\x00"
_SIGNATURE_DOMAIN = b"bottega/v1/grant-signature\x00"


@dataclass(frozen=True)
class Grant:
    """What a newcomer may believe from now on.

    Args:
        member: Who they are, by which keys.
        certificate: Theirs, for TLS.
        authority: The root's certificate; the pinned one.
        server: The federation's server: tasks are by this key, updates are sealed to this key.
        roster: The exact bytes that the server gave.
        settings: The federation's, as JSON has them.
        created_at_ms: When it was granted, by the server's clock; Unix time, milliseconds.
    """

    member: Newcomer
    certificate: x509.Certificate
    authority: x509.Certificate
    server: Peer
    roster: bytes = field(repr=False)
    settings: Mapping[str, object]
    created_at_ms: int


def make_grant(
    member: Newcomer,
    *,
    certificate: x509.Certificate,
    authority: x509.Certificate,
    statement: bytes,
    roster: bytes,
    settings: Mapping[str, object],
    sender: Identity,
    now_ms: int,
) -> bytes:
    """Grant a newcomer what they asked for.

    Args:
        member: The newcomer, from the request that the operator approved.
        certificate: Issued for this member's id and TLS key.
        authority: The root's certificate.
        statement: From :func:`~security.statement.vouch`, about the sender.
        roster: Any bytes; the newcomer gets them as they are.
        settings: What JSON can say.
        sender: The server.
        now_ms: Unix time, milliseconds.

    Returns:
        A serialised ``Grant``. It may be handed over in the open.

    Raises:
        IdentityError: The newcomer would not believe it: a part does not fit another; or nothing can be sealed to
            their key, or it is too long, or the settings are no JSON.
    """
    _check_certificate(certificate, authority, member, now_ms)
    if vouched_server(statement, authority, now_ms=now_ms) != sender.peer:
        raise refused("the authority's statement is about other keys than the server's", expected=sender.id)
    try:
        text = json.dumps(settings, sort_keys=True, ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise IdentityError("the federation's settings cannot be said in JSON", advice="Mend the settings.") from None
    header = pb.GrantHeader(
        version=VERSION, recipient=str(member.id), fingerprint=member.fingerprint.digest, created_at_ms=now_ms
    ).SerializeToString()
    terms = pb.GrantTerms(
        certificate=certificate.public_bytes(serialization.Encoding.DER),
        authority=authority.public_bytes(serialization.Encoding.DER),
        statement=statement,
        roster=roster,
        settings=text,
    ).SerializeToString()
    content = pb.GrantContent(terms=terms, signature=sender.signing.sign(joined(_SIGNATURE_DOMAIN, header, terms)))
    sealed = member.sealing.seal(content.SerializeToString(), joined(_SEAL_DOMAIN, header))
    grant = pb.Grant(header=header, sealed=sealed).SerializeToString()
    if len(grant) > MAX_GRANT_BYTES:
        raise IdentityError(
            "the roster or the settings are too long for a grant",
            got=f"{len(grant)} bytes",
            expected=f"at most {MAX_GRANT_BYTES}",
            advice="Shorten the settings, or divide the federation.",
        )
    return grant


def open_grant(data: bytes, *, keys: MemberKeys, authority: Fingerprint, now_ms: int) -> Grant:
    """Open a grant, or refuse it.

    The checks, in order:

    1. It is a ``Grant`` in its plain encoding, not too long, of this version.
    2. It is for this name and these keys, and neither stale nor from the future.
    3. It opens with the newcomer's sealing key, under this very header.
    4. Its authority is the pinned one, of the newcomer's federation, and within its time.
    5. That authority vouches for the server's keys, and still does.
    6. That server signed header and terms.
    7. The certificate is by that authority, for exactly this id and this TLS key, and within its time.
    8. The settings are a JSON object.

    Args:
        data: A serialised ``Grant``, from anywhere.
        keys: The newcomer's.
        authority: The fingerprint that the invitation carried.
        now_ms: Unix time, milliseconds.

    Returns:
        The grant.

    Raises:
        IdentityError: The first check that failed, with got and expected. Nothing of the grant may be used.
    """
    member = keys.public
    wire = read_record(pb.Grant, data, "grant", most=MAX_GRANT_BYTES)
    header = read_record(pb.GrantHeader, wire.header, "grant's header", most=MAX_GRANT_BYTES)
    require("the grant's version", header.version, VERSION)
    require("the grant's recipient", header.recipient, str(member.id))
    require("the fingerprint that the grant is for", header.fingerprint.hex(" ", 2), member.fingerprint.hex)
    require_fresh("grant", header.created_at_ms, now_ms)
    content, terms = _unsealed(wire, keys)
    pinned = Fingerprint(hashlib.sha256(terms.authority).digest())  # before anything reads the certificate
    require("the authority's fingerprint", pinned.hex, authority.hex)
    root = _read_certificate(terms.authority, "authority's certificate")
    server = vouched_server(terms.statement, root, now_ms=now_ms)
    if not server.verify.verifies(content.signature, joined(_SIGNATURE_DOMAIN, wire.header, content.terms)):
        raise refused("the grant's signature is not by the server that the authority vouches for", got=server.id)
    certificate = _read_certificate(terms.certificate, "certificate")
    _check_certificate(certificate, root, member, now_ms)
    return Grant(member, certificate, root, server, terms.roster, _read_settings(terms.settings), header.created_at_ms)


def told_authority(data: bytes, keys: MemberKeys) -> Fingerprint:
    """Return the fingerprint of the authority that a grant speaks of, for a person to compare. Believe nothing yet.

    Raises:
        IdentityError: It is no grant for these keys.
    """
    wire = read_record(pb.Grant, data, "grant", most=MAX_GRANT_BYTES)
    return Fingerprint(hashlib.sha256(_unsealed(wire, keys)[1].authority).digest())


def granted_to(data: bytes) -> SpiffeId:
    """Return whom a grant says it is for. Anybody may have written it.

    Raises:
        IdentityError: It is no grant.
    """
    wire = read_record(pb.Grant, data, "grant", most=MAX_GRANT_BYTES)
    return SpiffeId.parse(read_record(pb.GrantHeader, wire.header, "grant's header", most=MAX_GRANT_BYTES).recipient)


def _unsealed(wire: pb.Grant, keys: MemberKeys) -> tuple[pb.GrantContent, pb.GrantTerms]:
    try:
        plain = keys.identity.sealing.unseal(wire.sealed, joined(_SEAL_DOMAIN, wire.header))
    except IdentityError:
        raise refused("the grant's seal does not open: it was changed, or sealed to another key") from None
    content = read_record(pb.GrantContent, plain, "grant's content", most=MAX_GRANT_BYTES)
    return content, read_record(pb.GrantTerms, content.terms, "grant's terms", most=MAX_GRANT_BYTES)


def _read_certificate(der: bytes, what: str) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion):
        raise refused(f"the grant's {what} cannot be read", expected="X.509, DER") from None


def _check_certificate(
    certificate: x509.Certificate, authority: x509.Certificate, member: Newcomer, now_ms: int
) -> None:
    """Refuse a certificate that is not this member's, by this authority, now.

    The verifier of ``cryptography`` 50 knows no URI name constraints and refuses every root of ours, so its steps stand
    here; the chain has one link, and TLS checks it again with OpenSSL.
    """
    require("the authority's federation", federation_of(authority), member.id.federation)
    _check_time(authority, "the authority's certificate", now_ms)
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise refused("the certificate is not issued by this authority") from None
    require("the certificate's name", certified_id(certificate), member.id)
    if certificate.public_key() != member.tls:
        raise refused("the certificate is for another TLS key", got=member.id)
    _check_time(certificate, "the certificate", now_ms)


def _check_time(certificate: x509.Certificate, what: str, now_ms: int) -> None:
    now = dt.datetime.fromtimestamp(now_ms / 1000, dt.UTC)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now <= end:
        raise IdentityError(
            f"{what} does not hold now",
            got=f"{now:%Y-%m-%d %H:%M} UTC",
            expected=f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}",
            advice="Set this machine's clock (NTP); if it is right, ask the operator for a new certificate.",
        )


def _read_settings(text: str) -> Mapping[str, object]:
    try:
        settings = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise IdentityError("the grant's settings cannot be read", expected="a JSON object", advice=ADVICE)
    return settings


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are not JSON
