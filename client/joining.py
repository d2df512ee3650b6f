"""Joining a federation with an invitation: one line in, a home out.

Every step may be cut off. Running the same command again goes on: keys that are there are used, the server answers the
same request as before, and the settings, written last, say that the home is whole.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import grpc
from cryptography.hazmat.primitives.serialization import Encoding

from client.moving_in import move_in_member, move_in_site
from client.settings import SiteSettings
from client.settling import make_keys
from common.errors import HomeError, IdentityError, ProcessError
from common.paths import MemberHome, SiteHome
from common.proto import registry_pb2 as pb
from common.proto import registry_pb2_grpc as rpc
from common.settings import MemberSettings, read_toml
from security.calling import NO_ANSWER
from security.enrolment import MAX_GRANT_BYTES, Grant, Invitation, MemberKeys, make_request, open_grant
from security.grpc_tls import channel_credentials
from security.names import Role
from security.pinning import fetch_authority

ASK_S = 1.0
"""How often a newcomer asks whether the operator has decided."""

_CALL_S = 20.0

Tell = Callable[[str], None]


def join_as_site(home: SiteHome, token: str, data: str, patience_s: float, tell: Tell) -> SiteSettings:
    """Join the federation that an invitation is for, as a site.

    Args:
        home: Where the site is to live.
        token: The invitation.
        data: The folder of drawings; kept in ``site.toml``, not looked at.
        patience_s: How long to wait for the operator's decision.
        tell: Called with what a person should read.

    Returns:
        The site's settings, as they stand in its home.

    Raises:
        IdentityError: The invitation, the server or the grant is not to be believed, or the operator said no.
        HomeError: Another site lives in this folder, a file cannot be written, or the operator has not decided in time.
    """
    invitation = _invitation(token, frozenset({Role.SITE}))
    if home.settings.exists():
        settings = read_toml(SiteSettings, home.settings)
        _check_same(invitation, settings.federation, settings.name)
        return settings
    return move_in_site(home, _granted(home, invitation, patience_s, tell), data)


def join_as_member(home: MemberHome, token: str, patience_s: float, tell: Tell) -> MemberSettings:
    """Join the federation that an invitation is for, as an operator or auditor.

    Args:
        home: Where they are to work from.
        token: The invitation.
        patience_s: How long to wait for the operator's decision.
        tell: Called with what a person should read.

    Raises:
        BottegaError: As :func:`join_as_site`.
    """
    invitation = _invitation(token, frozenset({Role.OPERATOR, Role.AUDITOR}))
    if home.settings.exists():
        settings = read_toml(MemberSettings, home.settings)
        _check_same(invitation, settings.federation, settings.name)
        return settings
    return move_in_member(home, _granted(home, invitation, patience_s, tell))


def _invitation(token: str, roles: frozenset[Role]) -> Invitation:
    invitation = Invitation.parse(token)
    if invitation.role not in roles:
        site = invitation.role is Role.SITE
        raise IdentityError(
            "the invitation is for another role", got=invitation.role, expected=" or ".join(sorted(roles)),
            advice=f"Use `bottega {'site' if site else 'member'} join`.",
        )  # fmt: skip
    return invitation


def _granted(home: MemberHome, invitation: Invitation, patience_s: float, tell: Tell) -> Grant:
    keys = make_keys(home, invitation.spiffe_id)
    tell(f"the fingerprint of these keys: {keys.fingerprint.words}")
    host, _, port = invitation.address.rpartition(":")
    authority = fetch_authority(host.strip("[]"), int(port), invitation.authority)
    credentials = channel_credentials(authority.public_bytes(Encoding.PEM))
    options = [("grpc.max_receive_message_length", MAX_GRANT_BYTES)]  # a grant holds the whole roster
    with grpc.secure_channel(invitation.address, credentials, options) as channel:
        answer = _decided(rpc.DoorStub(channel), invitation, keys, patience_s, tell)
    return open_grant(answer.grant, keys=keys, authority=invitation.authority, now_ms=_now_ms())


def _decided(
    door: rpc.DoorStub, invitation: Invitation, keys: MemberKeys, patience_s: float, tell: Tell
) -> pb.JoinAnswer:
    request = make_request(keys, invitation=invitation, now_ms=_now_ms())
    answer = _called(lambda: door.Join(pb.JoinCall(request=request), timeout=_CALL_S))
    if answer.state == pb.JOIN_STATE_WAITING:
        tell("the operator sees the same words in `bottega server sites`; waiting for their decision")
    status = pb.JoinStatusCall(spiffe_id=str(keys.id), fingerprint=keys.fingerprint.digest)
    until = time.monotonic() + patience_s
    while answer.state == pb.JOIN_STATE_WAITING:
        if time.monotonic() > until:
            raise HomeError(
                "the operator has not decided yet", got=f"{patience_s:.0f} s of waiting",
                advice="Run the same command again; it goes on from here.",
            )  # fmt: skip
        time.sleep(ASK_S)
        with contextlib.suppress(ProcessError):  # a server that is away, or busy, for a moment is asked again
            answer = _called(lambda: door.JoinStatus(status, timeout=_CALL_S))
    if answer.state != pb.JOIN_STATE_APPROVED:
        raise IdentityError(
            "the operator said no", got=answer.reason or "no reason", advice="Ask the operator for another invitation."
        )
    return answer


def _called(call: Callable[[], pb.JoinAnswer]) -> pb.JoinAnswer:
    try:
        return call()
    except grpc.RpcError as cause:
        if "handshake failed" in (cause.details() or "").lower():
            raise IdentityError(
                "who answers at the invitation's address does not hold the federation's certificate",
                advice="Nothing was sent. Somebody may stand between you and the server: tell the operator.",
            ) from None
        if cause.code() in NO_ANSWER:
            raise ProcessError(
                "the server cannot be reached", got=f"{cause.code().name}: {cause.details()}"[:300],
                advice="Check the network and that the server runs; then the same command goes on from here.",
            ) from None  # fmt: skip
        words = cause.details() if cause.code() is not grpc.StatusCode.UNKNOWN else cause.code().name
        raise IdentityError(
            "the server did not take the request", got=words,
            advice="Run the same command again once the reason is gone; it goes on from here.",
        ) from None  # fmt: skip


def _check_same(invitation: Invitation, federation: str, name: str) -> None:
    if (federation, name) != (invitation.federation, invitation.name):
        raise HomeError(
            "somebody else lives in this folder", got=f"{name} of {federation}",
            expected=f"{invitation.name} of {invitation.federation}", advice="Name another --home.",
        )  # fmt: skip


def _now_ms() -> int:
    return int(time.time() * 1000)
