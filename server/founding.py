"""Founding a federation: its authority, the server's certificate and keys, its settings, and who belongs to it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import tomli_w
from cryptography.hazmat.primitives.serialization import Encoding

from common.errors import HomeError, IdentityError
from common.paths import ServerHome
from security.authority import create_authority, save_certificate
from security.files import PUBLIC, replace, write_new
from security.identity import Identity, Peer, Roster
from security.keys import create_tls_key
from security.names import Role, SpiffeId
from server.settings import ServerSettings

TLS_KEY = "tls.key"


def found(home: ServerHome, settings: ServerSettings, reached_by: Iterable[str]) -> None:
    """Make a federation in an empty home.

    Args:
        home: Where; made if it does not exist.
        settings: Kept as ``server.toml``.
        reached_by: DNS names and IP addresses that sites use for the server; its certificate holds them.

    Raises:
        HomeError: A federation is already there; nothing of it is touched.
        IdentityError: A name does not fit, or a file cannot be written.
    """
    if home.settings.exists():
        raise HomeError("a federation already lives in this folder", got=str(home.root), expected="an empty folder")
    for folder in (home.root, home.keys, home.supernodes, home.flower, home.runs):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    server = SpiffeId(settings.federation, Role.SERVER, settings.name)
    authority = create_authority(settings.federation)
    authority.save(home.keys)
    key = create_tls_key(home.keys / TLS_KEY)
    names, addresses = _sorted_out(reached_by)
    save_certificate(home.certificate, authority.issue(server, key.public_key(), names, addresses))
    replace(
        home.authority_certificate, [authority.certificate.public_bytes(Encoding.PEM)], error=IdentityError, mode=PUBLIC
    )
    identity = Identity.generate(server)
    identity.save(home.keys)
    Roster([identity.peer]).save(home.roster)
    # Last: its presence says that the home is whole.
    write_new(
        home.settings, tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True)).encode(), error=HomeError
    )


def add_site(home: ServerHome, site: Peer, supernode_key: bytes) -> None:
    """Take a site into the federation.

    Args:
        home: The federation's.
        site: The site's public keys.
        supernode_key: What its SuperNode signs with: an OpenSSH public key.

    Raises:
        IdentityError: A site of that name is already there, or a file cannot be written.
    """
    roster = Roster.load(home.roster)
    Roster([*roster, site]).save(home.roster)
    write_new(home.supernodes / f"{site.id.name}.pub", supernode_key, error=IdentityError, mode=PUBLIC)


def _sorted_out(reached_by: Iterable[str]) -> tuple[list[str], list[ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    names, addresses = [], []
    for one in reached_by:
        try:
            addresses.append(ipaddress.ip_address(one))
        except ValueError:
            names.append(one)
    return names, addresses
