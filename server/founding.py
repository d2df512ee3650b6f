"""Founding a federation: its authority, the server's certificate and keys, its settings, and who belongs to it."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable

import tomli_w
from cryptography.hazmat.primitives.serialization import Encoding

from common.errors import HomeError, IdentityError
from common.paths import ServerHome
from common.settings import MemberSettings
from security.authority import create_authority, save_certificate
from security.enrolment import Newcomer
from security.files import PUBLIC, replace, write_new
from security.identity import Identity
from security.key_folder import make_key_folder
from security.keys import create_tls_key
from security.names import Role, SpiffeId
from security.roster import Roster, sign_roster
from security.succession import keep_roster
from server.house import TLS_KEY, open_house
from server.journal import Journal
from server.operating import settle_operator
from server.settings import ServerSettings


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
    for folder in (home.root, home.keys, home.flower, home.runs):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    server = SpiffeId(settings.federation, Role.SERVER, settings.name)
    authority = create_authority(settings.federation)
    keys = make_key_folder(home)
    authority.save(keys)
    key = create_tls_key(keys, TLS_KEY)
    names, addresses = _sorted_out(reached_by)
    save_certificate(home.certificate, authority.issue(server, key.public_key(), names, addresses))
    replace(
        home.authority_certificate, [authority.certificate.public_bytes(Encoding.PEM)], error=IdentityError, mode=PUBLIC
    )
    identity = Identity.generate(server)
    identity.save(keys)
    operator = settle_operator(home.operator, _founder(settings))
    roster = Roster.first(identity.peer, _now_ms()).with_member(operator.peer, b"", _now_ms())
    keep_roster(home.roster, sign_roster(roster, identity), identity.peer)
    with Journal(home.database) as journal:
        journal.found(server, identity.signing.public.raw, authority.certificate)
    # Last: its presence says that the home is whole.
    write_new(
        home.settings, tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True)).encode(), error=HomeError
    )
    open_house(home).write_down()


def add_site(home: ServerHome, site: Newcomer) -> None:
    """Take a site into the federation: publish the next roster, which names it.

    Args:
        home: The federation's.
        site: Its name and public keys.

    Raises:
        HomeError: There is no federation in this home.
        IdentityError: The name or a key is already there, even of somebody revoked; or the file cannot be written.
    """
    open_house(home).publish(lambda roster: roster.with_member(site.peer, site.supernode, _now_ms()))


def _founder(settings: ServerSettings) -> MemberSettings:
    return MemberSettings(
        federation=settings.federation, role="operator", name=settings.operator,
        registry=f"{settings.reached_by}:{settings.registry_port}",
    )  # fmt: skip


def _now_ms() -> int:
    return int(time.time() * 1000)


def _sorted_out(reached_by: Iterable[str]) -> tuple[list[str], list[ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    names, addresses = [], []
    for one in reached_by:
        try:
            addresses.append(ipaddress.ip_address(one))
        except ValueError:
            names.append(one)
    return names, addresses
