"""Settling in: a site makes its keys and keeps what it was told of the federation."""

from __future__ import annotations

import json
import time

import tomli_w

from client.settings import SiteSettings
from common.errors import HomeError
from common.paths import SiteHome
from security.files import PUBLIC, replace, write_new
from security.identity import Identity, Peer, Roster
from security.keys import create_supernode_key
from security.names import Role, SpiffeId


def settle(home: SiteHome, settings: SiteSettings) -> Peer:
    """Make a site's home and keys, which never leave it, and return the public half.

    Raises:
        HomeError: A site already lives in this folder; nothing of it is touched.
        IdentityError: A name does not fit, or a file cannot be written.
    """
    if home.settings.exists():
        raise HomeError("a site already lives in this folder", got=str(home.root), expected="an empty folder")
    for folder in (home.root, home.keys, home.flower, home.cache):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    identity = Identity.generate(SpiffeId(settings.federation, Role.SITE, settings.name))
    identity.save(home.keys)
    create_supernode_key(home.supernode_key)
    # From this moment on tasks are believed; what was sealed before cannot have been for this site.
    begun = {"horizon_ms": int(time.time() * 1000), "nonces": []}
    write_new(home.nonces, json.dumps(begun).encode(), error=HomeError)
    write_new(
        home.settings, tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True)).encode(), error=HomeError
    )
    return identity.peer


def join(home: SiteHome, roster: Roster, authority: bytes) -> None:
    """Keep the federation's roster and its authority's certificate (PEM).

    Raises:
        HomeError: A file cannot be written.
    """
    roster.save(home.roster)
    replace(home.authority_certificate, [authority], error=HomeError, mode=PUBLIC)
