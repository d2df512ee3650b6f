"""TLS for gRPC: version 1.3 alone, with the federation's certificates.

gRPC's Python API has no switch for the lowest TLS version. What it has is a list of cipher suites for TLS 1.2, and a
federation's servers hold ECDSA certificates: with a list of one suite that needs an RSA certificate, 1.2 finds nothing
to agree on, and 1.3, whose suites the list does not touch, is all that is left.
"""

from __future__ import annotations

import os

import grpc

_ONLY_RSA = "ECDHE-RSA-AES256-GCM-SHA384"


def server_credentials(key: bytes, certificate: bytes, clients: bytes | None) -> grpc.ServerCredentials:
    """Return what a gRPC server needs to speak TLS 1.3.

    Args:
        key: Its private key, PEM; ECDSA.
        certificate: Its certificate, PEM.
        clients: The authority whose certificates clients must show, PEM; None asks them for none.
    """
    _leave_only_tls13()
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
    _leave_only_tls13()
    return grpc.ssl_channel_credentials(authority, key, certificate)


def _leave_only_tls13() -> None:
    # gRPC reads it when the first credentials of the process are made, and never again.
    os.environ["GRPC_SSL_CIPHER_SUITES"] = _ONLY_RSA
