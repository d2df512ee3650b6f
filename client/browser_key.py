"""A member's TLS key and certificate in one file that browsers take: PKCS #12 (RFC 7292), under a password.

With it an operator or an auditor reads the dashboard from elsewhere. The key is that of the connection alone: whoever
has it can read what the member may read until the certificate runs out, and can sign nothing in their name.
"""

from __future__ import annotations

import datetime as dt
import secrets
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from common.errors import IdentityError
from security.authority import load_certificate
from security.enrolment import MemberKeys
from security.files import write_new
from security.key_folder import open_key_folder

if TYPE_CHECKING:
    from pathlib import Path

    from common.paths import MemberHome
    from security.names import SpiffeId

_PASSWORD_BYTES = 12


class BrowserKey(NamedTuple):
    """What was made: the password that a browser asks for, and until when it lets in."""

    password: str
    until: dt.datetime


def make_browser_key(home: MemberHome, who: SpiffeId, file: Path) -> BrowserKey:
    """Write a member's TLS key and certificate for a browser.

    Args:
        home: The member's.
        who: Their name.
        file: Where; it must not exist.

    Raises:
        IdentityError: The member has no certificate, it is for another key or has run out, or the file cannot be
            written.
        VaultError: The keys cannot be read.
    """
    keys, certificate = MemberKeys.load(open_key_folder(home), who), load_certificate(home.certificate)
    until = certificate.not_valid_after_utc
    if certificate.public_key() != keys.tls.public_key() or until <= dt.datetime.now(dt.UTC):
        raise IdentityError(
            "the certificate of this home lets nobody in", got=f"until {until:%Y-%m-%d %H:%M} UTC",
            expected="one that holds, for the key that is here",
            advice="Any command that asks the server has it renewed, such as `bottega run list`; then try again.",
        )  # fmt: skip
    password, authority = secrets.token_urlsafe(_PASSWORD_BYTES), load_certificate(home.authority_certificate)
    content = serialize_key_and_certificates(
        who.name.encode(), keys.tls, certificate, [authority], BestAvailableEncryption(password.encode())
    )
    write_new(file, content, error=IdentityError)
    return BrowserKey(password, until)
