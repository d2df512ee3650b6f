"""Joining without a network: a request goes out as a file, a grant comes back as one.

Nothing in either file is secret: the request holds public keys, the grant opens with the newcomer's keys alone. What
an invitation does on the wire, a person does here, by comparing words: the operator those of the newcomer's keys, the
newcomer those of the federation's authority.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from client.settling import make_keys
from common.errors import HomeError, IdentityError
from common.paths import MemberHome
from security.enrolment import (
    Fingerprint,
    Grant,
    MemberKeys,
    granted_to,
    make_request,
    open_grant,
    told_authority,
)
from security.files import PUBLIC, read_public, replace
from security.key_folder import open_key_folder
from security.names import Role, SpiffeId


def write_request(home: MemberHome, who: SpiffeId, file: Path) -> Fingerprint:
    """Make keys, or use those that are there, and write a request to join.

    Args:
        home: Where the newcomer is to live.
        who: Who they will be.
        file: Where the request is written; an older one is replaced.

    Returns:
        The fingerprint of the newcomer's name and keys.

    Raises:
        HomeError: A folder or the file cannot be written.
        IdentityError: A key that is there is damaged or open to others.
    """
    keys = make_keys(home, who)
    replace(file, [make_request(keys, invitation=None, now_ms=_now_ms())], error=HomeError, mode=PUBLIC)
    return keys.fingerprint


def read_grant(home: MemberHome, file: Path, roles: frozenset[Role], believe: Callable[[Fingerprint], bool]) -> Grant:
    """Open a grant that came as a file.

    Args:
        home: Where the request was made.
        file: The grant.
        roles: Who may live in such a home.
        believe: Asked whether this is the fingerprint of the federation's authority.

    Raises:
        IdentityError: It is no grant for the keys in this home, or its authority is not believed.
    """
    data = read_public(file, error=IdentityError)
    who = granted_to(data)
    if who.role not in roles:
        raise IdentityError("the grant is for another role", got=who.role, expected=" or ".join(sorted(roles)))
    keys = MemberKeys.load(open_key_folder(home), who)
    authority = told_authority(data, keys)
    if not believe(authority):
        raise IdentityError(
            "the authority of the grant was not believed", got=authority.words,
            advice="Nothing of it was used. Ask the operator for the words of their authority by another way.",
        )  # fmt: skip
    return open_grant(data, keys=keys, authority=authority, now_ms=_now_ms())


def _now_ms() -> int:
    return int(time.time() * 1000)
