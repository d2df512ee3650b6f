"""Believing a server by its authority's fingerprint, before anything else of the federation is known."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from cryptography import x509

from common.errors import IdentityError
from security.fingerprint import Fingerprint, certificate_fingerprint

_DER = 2
"""``_ssl.ENCODING_DER``."""


def fetch_authority(host: str, port: int, expected: Fingerprint, timeout_s: float = 10.0) -> x509.Certificate:
    """Return the authority's certificate that a server shows, if it is the one expected.

    The handshake checks nothing: whoever answers may show any certificates. That the one with the expected fingerprint
    is among them proves no more than which certificate that is; whether the server belongs to it is for the next
    handshake, which believes that certificate alone.

    Args:
        host: Of the server.
        port: Of its join service.
        expected: What the invitation carried.
        timeout_s: For all of it.

    Raises:
        IdentityError: The server cannot be reached, speaks no TLS 1.3, or shows another authority or none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as secured,
        ):
            shown = [x509.load_der_x509_certificate(der) for der in _chain(secured)]
    except ssl.SSLError:
        raise IdentityError("who answers does not speak TLS 1.3", got=f"{host}:{port}") from None
    except OSError as cause:
        raise IdentityError(
            "the server cannot be reached",
            got=f"{host}:{port}, {cause.strerror or type(cause).__name__}",
            expected="an open join port",
            advice="Check the network, and ask the operator whether the server runs and the invitation still holds.",
        ) from None
    except ValueError:
        raise IdentityError("who answers shows a certificate that cannot be read", got=f"{host}:{port}") from None
    for certificate in shown:
        if certificate_fingerprint(certificate) == expected:
            return certificate
    raise IdentityError(
        "who answers belongs to another federation than the invitation",
        got=certificate_fingerprint(shown[-1]).words if shown else "no certificate",
        expected=expected.words,
        advice="Nothing was sent. Ask the operator for a new invitation, and whether somebody stands in between.",
    )


def _chain(secured: ssl.SSLSocket) -> list[bytes]:
    """Return the certificates that the server showed, DER. Public API from Python 3.13 on."""
    public: Any = getattr(secured, "get_unverified_chain", None)
    if public is not None:
        return list(public())
    private: Any = secured
    return [certificate.public_bytes(_DER) for certificate in private._sslobj.get_unverified_chain()]
