"""Calling the registry: one channel, mutual TLS 1.3, and errors in words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc

from common.errors import IdentityError, ProcessError
from common.paths import MemberHome
from common.proto import registry_pb2_grpc as rpc
from security.files import read_private, read_public
from security.grpc_tls import channel_credentials
from security.roster import MAX_ROSTER_BYTES

TLS_KEY = "tls.key"

CALL_S = 20.0
"""How long a call may take."""


def registry_channel(home: MemberHome, address: str) -> grpc.Channel:
    """Return a channel to the registry, which shows the member's certificate and believes the pinned authority alone.

    Args:
        home: The member's.
        address: Host and port of the registry.

    Raises:
        IdentityError: A key or a certificate is missing.
    """
    credentials = channel_credentials(
        read_public(home.authority_certificate, error=IdentityError),
        read_private(home.keys / TLS_KEY, error=IdentityError),
        read_public(home.certificate, error=IdentityError),
    )
    return grpc.secure_channel(address, credentials, [("grpc.max_receive_message_length", 2 * MAX_ROSTER_BYTES)])


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Turn gRPC's errors into ours.

    Raises:
        ProcessError: The server cannot be reached, or has no time.
        IdentityError: It refuses the caller, or what was asked.
    """
    try:
        yield
    except grpc.RpcError as cause:
        code, words = cause.code(), cause.details()
        if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}:
            raise ProcessError(
                "the server cannot be reached", got=f"{code.name}: {words}"[:300],
                advice="Check the network and that the server runs; a certificate that is over is refused too.",
            ) from None  # fmt: skip
        raise IdentityError(
            "the server refused", got=words, advice="Nothing was changed. Mend what it says, then try again."
        ) from None


@contextlib.contextmanager
def registry(home: MemberHome, address: str) -> Iterator[rpc.RegistryStub]:
    """Open the registry for a few calls.

    Raises:
        IdentityError: A key or a certificate is missing, or the server refuses.
        ProcessError: The server cannot be reached.
    """
    with registry_channel(home, address) as channel, in_words():
        yield rpc.RegistryStub(channel)
