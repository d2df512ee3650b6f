"""TLS for gRPC: version 1.3 alone, with the federation's certificates.

gRPC's Python API has no switch for the lowest TLS version. What it has is a list of cipher suites for TLS 1.2, and a
federation's servers hold ECDSA certificates: with a list of one suite that needs an RSA certificate, 1.2 finds nothing
to agree on, and 1.3, whose suites the list does not touch, is all that is left.

The list is an environment variable that gRPC reads while it is imported, so ``common/__init__.py`` sets it before
anything of ours can import gRPC. Since another program might have imported it before, nobody relies on that: a port is
tried with TLS 1.2 when it is opened (:func:`refuse_old_tls`).
"""

from __future__ import annotations

import socket
import ssl

import grpc

from common.errors import ProcessError

_HANDSHAKE_RECORD = b"\x16"
_TIMEOUT_S = 5.0


def server_credentials(key: bytes, certificate: bytes, clients: bytes | None) -> grpc.ServerCredentials:
    """Return what a gRPC server needs to speak TLS 1.3.

    Args:
        key: Its private key, PEM; ECDSA.
        certificate: Its certificate, PEM.
        clients: The authority whose certificates clients must show, PEM; None asks them for none.
    """
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=clients, require_client_auth=clients is not None
    )


def channel_credentials(
    authority: bytes, key: bytes | None = None, certificate: bytes | None = None
) -> grpc.ChannelCredentials:
    """Return what a client needs to reach a server of the federation.

    Args:
        authority: The pinned authority's certificate, PEM: nothing else is believed.
        key: The client's private key, PEM; None to show no certificate.
        certificate: The client's certificate, PEM.
    """
    return grpc.ssl_channel_credentials(authority, key, certificate)


def refuse_old_tls(host: str, port: int) -> None:
    """Offer TLS 1.2 to a port of our own, and raise unless it is turned down.

    A server that agrees answers with its half of the handshake (RFC 5246, section 7.3) before it asks for anything.

    Args:
        host: What the port listens on; in brackets if IPv6.
        port: The port.

    Raises:
        ProcessError: The server agreed to TLS 1.2, or did not answer.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    outgoing = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    except ssl.SSLWantReadError:
        hello = outgoing.read()
    try:
        with socket.create_connection((host.strip("[]"), port), _TIMEOUT_S) as offered:
            offered.sendall(hello)
            answer = offered.recv(1)
    except ConnectionError:
        answer = b""  # turned down, and not politely
    except OSError as cause:
        raise ProcessError(
            "whether the port turns TLS 1.2 down cannot be told", got=f"{host}:{port}, {type(cause).__name__}",
            advice="Start the server again; it opens no port of which this is not known.",
        ) from None  # fmt: skip
    if answer == _HANDSHAKE_RECORD:
        raise ProcessError(
            "the port would speak TLS 1.2", got=f"{host}:{port}", expected="TLS 1.3 alone",
            advice="gRPC was imported before bottega's own packages; import `common` before `grpc` in this program.",
        )  # fmt: skip
