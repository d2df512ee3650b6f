"""What a released manifest calls a site that did not agree to be named.

A pseudonym is a keyed hash of the site's name: HMAC-SHA256 under a key that HKDF-SHA256 (RFC 5869) makes of the
server's signing key and the run. In all releases of a run a site is called the same, in another run otherwise, and
whoever lacks the server's key cannot find out by trying names. The server can say whom it means, until it rotates
its key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    from security.keys import SigningKey

_INFO = b"bottega/v1/manifest-pseudonyms"
_DIGITS = 16


def pseudonyms(sites: Collection[str], run: str, key: SigningKey) -> dict[str, str]:
    """Return what sites are called in the manifests of a run, by their names.

    Args:
        sites: Names.
        run: The run's id.
        key: The server's.
    """
    secret = HKDF(SHA256(), 32, salt=run.encode(), info=_INFO).derive(key.seed)
    return {site: "anonymous-" + hmac.digest(secret, site.encode(), hashlib.sha256).hex()[:_DIGITS] for site in sites}


def renamed(text: str, called: Mapping[str, str]) -> str:
    """Return a text in which sites are called what they are to be called.

    Args:
        text: Anybody's words.
        called: What each site is to be called, by its name.
    """
    if not called:
        return text
    # The longest first: of `anna` and `anna-maria`, the one that is meant.
    names = "|".join(re.escape(name) for name in sorted(called, key=len, reverse=True))
    return re.sub(
        rf"(?<![A-Za-z0-9-])(?:{names})(?![A-Za-z0-9-])",
        lambda found: called[found[0].lower()],
        text,
        flags=re.IGNORECASE,
    )
