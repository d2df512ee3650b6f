"""Invitations: one line that an operator gives to a newcomer, good once and for one name.

The line carries what a newcomer needs in order to believe the server (where it is, and the fingerprint of the
federation's authority), and what the server needs in order to let the newcomer ask (a secret). Whoever holds the line
can ask in the newcomer's name, so it travels by a way that both trust; that they compare the fingerprint of the
newcomer's keys afterwards is what makes up for a way that was not so good.

**The token.** ``bottega_invitation_v1_``, then in base64url without padding the record and the CRC-32 of prefix and
record. The checksum is against accidents alone (a letter mistyped, two exchanged, an end cut off): such a token is
told apart from a wrong one before any network is touched. Against a person it needs no guard: there is nobody to
deceive with a token but who holds it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import os
import re
import zlib
from dataclasses import dataclass, field

from common.errors import IdentityError
from common.proto import enrolment_pb2 as pb
from security.fingerprint import Fingerprint
from security.names import Role, SpiffeId, shown
from security.records import joined, read_record

INVITATION_ID_BYTES = 16
"""An invitation's id, in bytes: random; the store knows the invitation by it."""

SECRET_BYTES = 32
"""An invitation's secret, in bytes: random."""

MAX_TOKEN_CHARACTERS = 2048
"""The longest token; with the longest names it is half as long."""

_VERSION = "1"
_PREFIX = f"bottega_invitation_v{_VERSION}_"
_TOKEN = re.compile(r"bottega_invitation_v([0-9]{1,4})_(.*)", re.DOTALL)
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_CHECKSUM_BYTES = 4
_HASH_DOMAIN = b"bottega/v1/invitation-secret\x00"
_ADDRESS = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,252}|\[([0-9A-Fa-f:.]{2,45})\]):([1-9][0-9]{0,4})")
_ADVICE = "Copy the whole line again from where it came; if that does not help, ask the operator for a new invitation."


@dataclass(frozen=True)
class Invitation:
    """What an operator tells a newcomer.

    Args:
        spiffe_id: Who is invited: federation, role and name. A server is not: it founds.
        address: ``host:port`` of the join service; an IPv6 address in brackets.
        authority: The fingerprint of the authority's certificate, to pin it by.
        id: 16 random bytes.
        secret: 32 random bytes. Secret.
        expires_at_ms: From when on it is good for nothing; Unix time, milliseconds.

    Raises:
        IdentityError: A part is not as described.
    """

    spiffe_id: SpiffeId
    address: str
    authority: Fingerprint
    id: bytes
    secret: bytes = field(repr=False)
    expires_at_ms: int

    def __post_init__(self) -> None:
        if self.spiffe_id.role is Role.SERVER:
            raise IdentityError(
                "a server is not invited", got=self.spiffe_id, expected="another role", advice="Invite a site."
            )
        _check_address(self.address)
        for what, got, expected in (
            ("id", len(self.id), INVITATION_ID_BYTES),
            ("secret", len(self.secret), SECRET_BYTES),
        ):
            if got != expected:
                raise IdentityError(
                    f"an invitation's {what} has another length", got=got, expected=expected, advice=_ADVICE
                )
        if not 0 <= self.expires_at_ms < 2**63:
            raise IdentityError("an invitation's end is out of range", got=self.expires_at_ms, advice=_ADVICE)

    @classmethod
    def create(cls, spiffe_id: SpiffeId, address: str, authority: Fingerprint, expires_at_ms: int) -> Invitation:
        """Make an invitation with an id and a secret of its own.

        Args:
            spiffe_id: Who is invited.
            address: ``host:port`` of the join service.
            authority: The fingerprint of the authority's certificate.
            expires_at_ms: Unix time, milliseconds.

        Returns:
            The invitation. Keep :func:`secret_hash` of it, never the secret.

        Raises:
            IdentityError: The invited is a server, or the address or the end will not do.
        """
        return cls(
            spiffe_id, address, authority, os.urandom(INVITATION_ID_BYTES), os.urandom(SECRET_BYTES), expires_at_ms
        )

    @property
    def federation(self) -> str:
        """The trust domain to which it invites."""
        return self.spiffe_id.federation

    @property
    def role(self) -> Role:
        """As what it invites."""
        return self.spiffe_id.role

    @property
    def name(self) -> str:
        """Under which name it invites."""
        return self.spiffe_id.name

    def token(self) -> str:
        """Write the invitation as one line, without a line end. Secret: whoever holds it can ask in this name."""
        record = pb.Invitation(
            spiffe_id=str(self.spiffe_id),
            address=self.address,
            authority=self.authority.digest,
            id=self.id,
            secret=self.secret,
            expires_at_ms=self.expires_at_ms,
        ).SerializeToString()
        return _PREFIX + _base64url(record + _checksum(record))

    @classmethod
    def parse(cls, text: str) -> Invitation:
        """Read a token, as it was copied from a mail or a terminal: spaces and line breaks count for nothing.

        Args:
            text: From anywhere.

        Returns:
            The invitation: whole, but not yet known to any server.

        Raises:
            IdentityError: It is no token, one of another version, mistyped or truncated, or it breaks the rules of
                an invitation.
        """
        # Bounded first: whitespace of any amount is not worth reading through.
        short = "".join(text.split()) if len(text) <= 2 * MAX_TOKEN_CHARACTERS else text
        parts = _TOKEN.fullmatch(short)
        if parts is None or len(short) > MAX_TOKEN_CHARACTERS:
            # What was pasted is not shown: it may be another secret.
            raise IdentityError(
                "this is no invitation", got=f"{len(text)} characters", expected=f"{_PREFIX}...", advice=_ADVICE
            )
        version, encoded = parts.groups()
        if version != _VERSION:
            raise IdentityError(
                "the invitation is of another version",
                got=version,
                expected=_VERSION,
                advice="Install the version of bottega that the federation's server runs, then try again.",
            )
        record = _decode(encoded)
        fields = read_record(pb.Invitation, record, "invitation", most=MAX_TOKEN_CHARACTERS)
        return cls(
            SpiffeId.parse(fields.spiffe_id),
            fields.address,
            Fingerprint(fields.authority),
            fields.id,
            fields.secret,
            fields.expires_at_ms,
        )

    def expired(self, now_ms: int) -> bool:
        """Tell whether it is good for nothing any more. The server's clock decides; a newcomer's may only warn.

        Args:
            now_ms: Unix time, milliseconds.

        Returns:
            Whether its end has come.
        """
        return now_ms >= self.expires_at_ms


def secret_hash(invitation_id: bytes, secret: bytes) -> bytes:
    """Digest an invitation's secret, for the store to keep in its place.

    One SHA-256 is enough. A slow hash makes the guesses of a thief dear, where people choose secrets that can be
    guessed; this one is 256 random bits, and no number of guesses finds it.

    Args:
        invitation_id: Its id: a digest is of one invitation, not to be laid under another.
        secret: Its secret.

    Returns:
        32 bytes, from which the secret cannot be told.
    """
    return hashlib.sha256(joined(_HASH_DOMAIN, invitation_id, secret)).digest()


def matches(kept: bytes, invitation_id: bytes, secret: bytes) -> bool:
    """Tell whether a secret is the one of which the digest was kept; how long it takes tells nothing.

    Args:
        kept: What :func:`secret_hash` gave.
        invitation_id: The invitation's id, from a request.
        secret: From a request.

    Returns:
        Whether it is.
    """
    return hmac.compare_digest(kept, secret_hash(invitation_id, secret))


def _check_address(address: str) -> None:
    parts = _ADDRESS.fullmatch(address)
    good = parts is not None and int(parts[2]) < 2**16
    if good and parts is not None and parts[1] is not None:
        try:
            ipaddress.IPv6Address(parts[1])
        except ValueError:
            good = False
    if not good:
        raise IdentityError(
            "this is no address of a join service",
            got=shown(address),
            expected="host:port, an IPv6 address in brackets",
            advice="Give the name or address that newcomers reach the server by, and the port.",
        )


def _decode(encoded: str) -> bytes:
    """Decode what follows the prefix; there is one spelling of it."""
    damaged = IdentityError(
        "the invitation was mistyped or truncated: its checksum does not fit",
        got=f"{len(_PREFIX) + len(encoded)} characters",
        advice=_ADVICE,
    )
    if not _BASE64URL.fullmatch(encoded) or len(encoded) % 4 == 1:
        raise damaged
    content = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    record, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if checksum != _checksum(record) or _base64url(content) != encoded:
        raise damaged
    return record


def _checksum(record: bytes) -> bytes:
    return zlib.crc32(_PREFIX.encode() + record).to_bytes(_CHECKSUM_BYTES, "big")


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
