"""The server's own TLS certificate: issued again at a start when two thirds of its life are over."""

from __future__ import annotations

import datetime as dt
import logging
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import IdentityError
from common.paths import ServerHome
from security.authority import Authority, certified_id, load_certificate, renewal_is_due, save_certificate
from security.key_folder import open_key_folder

log = logging.getLogger("bottega.server")


def renew_own_certificate(home: ServerHome, now: dt.datetime) -> bool:
    """Issue the server's certificate again, for the same key and names, if it is time. Return whether it was.

    Raises:
        IdentityError: The certificate or the authority's key cannot be read, or the file cannot be written.
    """
    old = load_certificate(home.certificate)
    if not renewal_is_due(old, now):
        return False
    key = old.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise IdentityError("the server's TLS key is of another kind", got=type(key).__name__, expected="ECDSA P-256")
    names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = [ip_address(str(one)) for one in names.get_values_for_type(x509.IPAddress)]
    fresh = Authority.load(open_key_folder(home)).issue(
        certified_id(old), key, names.get_values_for_type(x509.DNSName), addresses
    )
    save_certificate(home.certificate, fresh)
    log.info("the server's certificate was renewed, until %s", fresh.not_valid_after_utc)
    return True
