"""The join request: a newcomer's name and public keys, with a proof that the newcomer holds the private ones.

The Ed25519 key and, of a site, the SuperNode's key sign the same exact bytes, each under its own domain. The TLS key
signs the CSR, which names the newcomer and is part of those bytes. The sealing key can sign nothing; that it is held is
proved when the grant, which is sealed to it, is opened.

A request says who asks, not that they may. The operator decides, after comparing the fingerprint with the newcomer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import IdentityError
from common.proto import enrolment_pb2 as pb
from security.csr import make_csr, read_csr
from security.invitation import INVITATION_ID_BYTES, SECRET_BYTES, Invitation
from security.keys import SealingPublicKey, VerifyKey, read_supernode_line
from security.member import MemberKeys, Newcomer
from security.names import Role, SpiffeId
from security.records import VERSION, joined, read_record, refused, require, require_fresh

if TYPE_CHECKING:
    from security.fingerprint import Fingerprint

MAX_REQUEST_BYTES = 2**14
"""The longest join request: 16 KiB, five times what one needs."""

_SIGNATURE_DOMAIN = b"bottega/v1/join-request-signature\x00"
_SUPERNODE_DOMAIN = b"bottega/v1/join-request-supernode\x00"


@dataclass(frozen=True)
class JoinRequest:
    """Somebody asks to join, and holds the keys that they name.

    Args:
        member: Their name and public keys.
        created_at_ms: When they asked, by their clock; Unix time, milliseconds.
        invitation_id: Of the invitation that they hold; None without one.
        secret: Of that invitation, to be held against the store with :func:`~security.invitation.matches`; None
            without one. It is good once: whoever keeps the request marks the invitation as used.
    """

    member: Newcomer
    created_at_ms: int
    invitation_id: bytes | None
    secret: bytes | None = field(repr=False)

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the name and all keys: what the operator and the newcomer compare."""
        return self.member.fingerprint


def make_request(keys: MemberKeys, *, invitation: Invitation | None, now_ms: int) -> bytes:
    """Ask to join.

    Args:
        keys: The newcomer's.
        invitation: What the operator gave them; None to ask without one, by a file that is handed over.
        now_ms: Unix time, milliseconds.

    Returns:
        A serialised ``JoinRequest``. With an invitation it is secret until it has reached the server.

    Raises:
        IdentityError: The invitation is for somebody else, or a server asks.
    """
    _refuse_server(keys.id)
    if invitation is not None and invitation.spiffe_id != keys.id:
        raise IdentityError(
            "the invitation is for somebody else",
            got=invitation.spiffe_id,
            expected=keys.id,
            advice="Join under the name that the invitation gives, or ask the operator for another one.",
        )
    member = keys.public
    body = pb.JoinBody(
        version=VERSION,
        spiffe_id=str(keys.id),
        csr=make_csr(keys.id, keys.tls),
        verify=member.verify.raw,
        sealing=member.sealing.raw,
        supernode=member.supernode,
        created_at_ms=now_ms,
        invitation=invitation.id if invitation else b"",
        secret=invitation.secret if invitation else b"",
    ).SerializeToString()
    return pb.JoinRequest(
        body=body,
        signature=keys.identity.signing.sign(joined(_SIGNATURE_DOMAIN, body)),
        supernode_signature=(
            keys.supernode.sign(joined(_SUPERNODE_DOMAIN, body), ec.ECDSA(hashes.SHA384())) if keys.supernode else b""
        ),
    ).SerializeToString()


def open_request(data: bytes, *, now_ms: int) -> JoinRequest:
    """Read a join request, or refuse it.

    The checks, in order:

    1. It is a ``JoinRequest`` in its plain encoding, not too long, of this version.
    2. It names somebody who may ask: a SPIFFE id, and no server's.
    3. The keys are of the kinds that they must be, each in its one spelling.
    4. The Ed25519 key signed the body, and a site's SuperNode key signed the same body; nobody else has one.
    5. The CSR is signed by the P-256 key in it, and names the same newcomer and nothing else.
    6. It is neither stale nor from the future.
    7. It holds an invitation's id and secret, or neither.

    It does not ask whether the invitation is good: the store does. It does not remember what it opened: a request that
    comes again asks for the same name and the same keys.

    Args:
        data: A serialised ``JoinRequest``, from anywhere.
        now_ms: Unix time, milliseconds.

    Returns:
        The request: by whom it says, not yet allowed.

    Raises:
        IdentityError: The first check that failed, with got and expected. Nothing of the request may be used.
    """
    wire = read_record(pb.JoinRequest, data, "join request", most=MAX_REQUEST_BYTES)
    body = read_record(pb.JoinBody, wire.body, "join request's body", most=MAX_REQUEST_BYTES)
    require("the join request's version", body.version, VERSION)
    spiffe_id = SpiffeId.parse(body.spiffe_id)
    _refuse_server(spiffe_id)
    verify, sealing = VerifyKey(body.verify), SealingPublicKey(body.sealing)
    if not verify.verifies(wire.signature, joined(_SIGNATURE_DOMAIN, wire.body)):
        raise refused("the join request's signature is not by the Ed25519 key that it names", got=spiffe_id)
    _check_supernode(wire, body.supernode, spiffe_id)
    tls = read_csr(body.csr, spiffe_id)
    require_fresh("join request", body.created_at_ms, now_ms)
    if body.invitation or body.secret:
        require("the length of the invitation's id", len(body.invitation), INVITATION_ID_BYTES)
        require("the length of the invitation's secret", len(body.secret), SECRET_BYTES)
    return JoinRequest(
        Newcomer(spiffe_id, tls, verify, sealing, body.supernode),
        body.created_at_ms,
        body.invitation or None,
        body.secret or None,
    )


def _refuse_server(spiffe_id: SpiffeId) -> None:
    if spiffe_id.role is Role.SERVER:
        raise refused("a server does not ask to join", got=spiffe_id, expected="site, operator or auditor")


def _check_supernode(wire: pb.JoinRequest, line: bytes, spiffe_id: SpiffeId) -> None:
    """Refuse a request of which the SuperNode's key is not held, or not one that this role has."""
    if spiffe_id.role is not Role.SITE:
        if line or wire.supernode_signature:
            raise refused("nobody but a site has a SuperNode", got=spiffe_id, expected="a request without its key")
        return
    key = read_supernode_line(line)
    try:
        key.verify(wire.supernode_signature, joined(_SUPERNODE_DOMAIN, wire.body), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise refused("the join request is not signed by the SuperNode key that it names", got=spiffe_id) from None
