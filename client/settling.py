"""Settling in: a member makes keys and keeps what they were told of the federation; a site keeps its settings too."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import tomli_w

from common.errors import HomeError
from common.paths import MemberHome, SiteHome
from security.enrolment import MemberKeys, Newcomer
from security.files import PUBLIC, replace, write_new
from security.identity import Peer
from security.key_folder import make_key_folder
from security.names import Role, SpiffeId
from security.roster import Roster
from security.succession import keep_roster, load_roster

if TYPE_CHECKING:
    from client.settings import SiteSettings


def make_keys(home: MemberHome, who: SpiffeId) -> MemberKeys:
    """Make a member's folders and keys, which never leave them, or go on where making them was interrupted.

    Raises:
        HomeError: The folders cannot be made.
        IdentityError: A key that is there is damaged or open to others, or a file cannot be written.
    """
    try:
        for folder in home.folders:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise HomeError("the home cannot be made", got=problem.strerror, expected="leave to write") from None
    return MemberKeys.create(make_key_folder(home), who)


def settle(home: SiteHome, settings: SiteSettings) -> Newcomer:
    """Make a site's home and keys, and return the public half of the keys.

    Raises:
        HomeError: A site already lives in this folder; nothing of it is touched.
        IdentityError: A name does not fit, or a file cannot be written.
    """
    if home.settings.exists():
        raise HomeError("a site already lives in this folder", got=str(home.root), expected="an empty folder")
    keys = make_keys(home, SpiffeId(settings.federation, Role.SITE, settings.name))
    if not home.nonces.exists():
        # From this moment on tasks are believed; what was sealed before cannot have been for this site.
        begun = {"horizon_ms": int(time.time() * 1000), "nonces": []}
        write_new(home.nonces, json.dumps(begun).encode(), error=HomeError)
    # Last: its presence says that the home is whole.
    write_new(
        home.settings, tomli_w.dumps(settings.model_dump(mode="json", exclude_defaults=True)).encode(), error=HomeError
    )
    return keys.public


def join(home: MemberHome, server: Peer, roster: bytes, authority: bytes) -> None:
    """Keep what the member was told of the federation. Doing it twice with the same does nothing.

    Args:
        home: The member's.
        server: The federation's server; pinned for good, whatever it rotates to.
        roster: As the server signed it.
        authority: The certificate of the federation's authority, PEM.

    Raises:
        IdentityError: Another server is pinned already, or the roster is not the server's or may not follow on the
            one that is kept.
        HomeError: A file cannot be written.
    """
    server.pin(home.pinned_server)
    keep_roster(home.roster, roster, server)
    replace(home.authority_certificate, [authority], error=HomeError, mode=PUBLIC)


def known_roster(home: MemberHome) -> Roster:
    """Return the roster that the member accepted last; its ``server`` has the keys that tasks are signed with.

    Raises:
        IdentityError: They have not joined, or the roster is not of the server that was pinned.
    """
    return load_roster(home.roster, Peer.pinned(home.pinned_server))
