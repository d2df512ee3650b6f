"""Checks of certificates, and of who answers at an address."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from common.checkup import Finding, doubtful, fine, wrong
from security.authority import load_certificate, renewal_is_due

TIMEOUT_S = 5.0

_MOST_HEADER_BYTES = 2**14
_STALE = dt.timedelta(seconds=3)  # a Date is rounded down, and a server writes it once a second, or later when busy


def certificate(name: str, path: Path, *, renew: str, issuer: x509.Certificate | None = None) -> Iterator[Finding]:
    """Check a certificate: its time, and who issued it.

    Args:
        name: What it is called in the finding.
        path: Its file, PEM.
        renew: How to come by a new one.
        issuer: The authority that must have issued it; not checked when left out.

    Raises:
        IdentityError: The file is missing or holds no certificate.
    """
    found, now = load_certificate(path), dt.datetime.now(dt.UTC)
    until = f"{found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if issuer is not None and not _issued_by(found, issuer):
        yield wrong(name, "it was not issued by the federation's authority", renew)
    elif now < found.not_valid_before_utc:
        begins = f"{found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        yield wrong(name, f"it begins only at {begins}", "Set this machine's clock; then look again.")
    elif now > found.not_valid_after_utc:
        yield wrong(name, f"it ran out at {until}, {age(now - found.not_valid_after_utc)} ago", renew)
    else:
        left = f"holds until {until}, {age(found.not_valid_after_utc - now)} more"
        yield doubtful(name, f"{left}; a new one is due", renew) if renewal_is_due(found, now) else fine(name, left)


def reach(
    name: str, address: str, authority: bytes, protocol: str, *, ask_time: bool = False
) -> tuple[Finding, dt.timedelta | None]:
    """Connect to an address of the server as a member would, and check who answers.

    Args:
        name: What it is called in the finding.
        address: ``host:port``.
        authority: The certificate of the federation's authority, PEM; nobody else is believed.
        protocol: ``h2`` or ``http/1.1``, as ALPN has it.
        ask_time: Over HTTP/1.1, ask for nothing in particular and read the ``Date`` of the answer (RFC 9110, section
            6.6.1), which tells seconds.

    Returns:
        The finding, and by how much at least the answerer's clock is ahead of ours, if it was asked and told.
    """
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([protocol])
    context.load_verify_locations(cadata=authority.decode())
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host.strip("[]")) as secured,
        ):
            ahead = _clock(secured, host) if ask_time else None
    except ssl.SSLCertVerificationError as why:
        mend = "If the server is the right one, its operator runs `bottega server doctor`; else somebody is in between."
        return wrong(name, f"{address} shows a certificate that does not do: {why.verify_message}", mend), None
    except ssl.SSLError as why:
        mend = "Something else than this federation's server listens there; check the address and the port."
        return wrong(name, f"{address} does not speak TLS 1.3 ({why.reason or 'closed'})", mend), None
    except (OSError, ValueError) as why:
        said = getattr(why, "strerror", None) or type(why).__name__
        mend = "Check that the server runs, its name, and the firewalls and routers between."
        return wrong(name, f"{address} cannot be reached: {said}", mend), None
    return fine(name, f"{address} answers, with a certificate for this name"), ahead


def clock(ahead: dt.timedelta, *, most: dt.timedelta) -> Finding:
    """Judge how far the server's clock is from ours.

    Args:
        ahead: By how much at least it is ahead.
        most: More than this does not work.
    """
    found = (
        f"{abs(ahead).total_seconds():.0f} s {'behind' if ahead > dt.timedelta(0) else 'ahead of'} the server's clock"
    )
    mend = "Have this machine's clock set by a time server (timedatectl set-ntp true), or tell the server's operator."
    if not ahead:
        return fine("clock", "as the server's")
    return wrong("clock", found, mend) if abs(ahead) > most else doubtful("clock", found, mend)


def age(span: dt.timedelta) -> str:
    """Return a span of time in words: days, or hours, or minutes."""
    minutes = int(span.total_seconds() // 60)
    if minutes >= 2 * 1440:
        return f"{minutes // 1440} days"
    return f"{minutes // 60} h" if minutes >= 120 else f"{minutes} min"


def _clock(secured: ssl.SSLSocket, host: str) -> dt.timedelta | None:
    """Read from an answer by how much the clock there is ahead."""
    before = dt.datetime.now(dt.UTC)
    secured.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _MOST_HEADER_BYTES and (more := secured.recv(4096)):
        head += more
    for line in head.decode("latin-1").split("\r\n"):
        field, _, value = line.partition(":")
        if field.lower() == "date":
            return _told(value.strip(), before)
    return None


def _told(value: str, before: dt.datetime) -> dt.timedelta | None:
    """Return the least by which the other clock can differ: its answer took a while, and tells whole seconds."""
    try:
        there, after = parsedate_to_datetime(value), dt.datetime.now(dt.UTC)
    except ValueError:
        return None
    least, most, none = there - after, there + _STALE - before, dt.timedelta(0)
    return least if least > none else most if most < none else none


def _issued_by(leaf: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
