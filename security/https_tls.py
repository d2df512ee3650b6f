"""TLS for an HTTP server: version 1.3 alone, with a private key that lies on no disk in the clear."""

from __future__ import annotations

import os
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec


def server_context(key: ec.EllipticCurvePrivateKey, certificate: bytes, clients: bytes | None = None) -> ssl.SSLContext:
    """Return what an HTTP server needs to speak TLS 1.3.

    Python's ``ssl`` takes a private key from a file and from nowhere else. The one that it is given here is encrypted
    under a password that is thrown away, in a folder that is gone when this returns.

    Args:
        key: The server's.
        certificate: The server's, PEM, for this key.
        clients: The certificate of the authority that has certified every caller, PEM; nobody else gets through the
            handshake. None asks callers for no certificate.

    Raises:
        ssl.SSLError: The certificate is for another key, or none.
        OSError: The temporary folder cannot be written.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    password = os.urandom(32).hex()
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password.encode()),
    )
    with tempfile.TemporaryDirectory(prefix="bottega-") as folder:  # mode 0700
        chain = Path(folder) / "chain.pem"
        chain.write_bytes(encrypted + certificate)
        context.load_cert_chain(chain, password=password)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients.decode("ascii"))
        context.num_tickets = 0  # a handshake that takes up an earlier one looks at no certificate
    return context
