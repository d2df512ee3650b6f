"""Calling the registry: mutual TLS 1.3 with the member's certificate, and errors in words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc

from common.errors import IdentityError, ProcessError
from common.paths import MemberHome
from common.proto import registry_pb2_grpc as rpc
from security.files import read_public
from security.grpc_tls import channel_credentials
from security.keys import pkcs8_pem
from security.member import MemberKeys
from security.roster import MAX_ROSTER_BYTES

CALL_S = 20.0
"""How long a call may take."""

NO_ANSWER = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
"""What gRPC says when it may go better in a while."""


class NotAMemberError(IdentityError):
    """The server says that the caller does not belong to the federation, or may not do this."""

    advice = "Ask the operator of the server."
    exit_code = 77
    """EX_NOPERM of sysexits(3): a site that was revoked is not started again and again (docs/guides/service.md)."""


@contextlib.contextmanager
def registry(home: MemberHome, keys: MemberKeys, address: str) -> Iterator[rpc.RegistryStub]:
    """Open the registry for a few calls; the pinned authority alone is believed.

    Args:
        home: The member's.
        keys: Theirs.
        address: Host and port of the registry.

    Raises:
        IdentityError: A certificate is missing, or the server refuses what is asked.
        NotAMemberError: The server refuses the caller.
        ProcessError: The server cannot be reached, or has no time.
    """
    key = pkcs8_pem(keys.tls)
    authority, certificate = (
        read_public(path, error=IdentityError) for path in (home.authority_certificate, home.certificate)
    )
    credentials = channel_credentials(authority, key, certificate)
    options = [("grpc.max_receive_message_length", 2 * MAX_ROSTER_BYTES)]
    with grpc.secure_channel(address, credentials, options) as channel:
        try:
            yield rpc.RegistryStub(channel)
        except grpc.RpcError as cause:
            raise _in_words(cause) from None


def _in_words(cause: grpc.RpcError) -> IdentityError | ProcessError:
    code, words = cause.code(), cause.details()
    if code in NO_ANSWER:
        return ProcessError(
            "the server cannot be reached", got=f"{code.name}: {words}"[:300],
            advice="Check the network and that the server runs; a certificate that has run out looks the same.",
        )  # fmt: skip
    if code in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED}:
        return NotAMemberError("the server refuses the caller", got=words)
    return IdentityError("the server refused", got=words, advice="Nothing was changed. Mend what it says, then again.")
