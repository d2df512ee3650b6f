"""Which roster may follow on which: the rule by which a site keeps the roster, and the file that it keeps.

The server signs rosters, so its signature alone cannot show that it is honest. What a site knows already can: nobody
it knew is gone, nobody's keys changed but by their own countersigned rotations, nobody who was revoked is back. A
server that was broken into can refuse to go on; it cannot quietly put a key of its own in a member's place.

Two sites that are shown different rosters of one version cannot see that here; the ledger is for that.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from common.errors import IdentityError
from security.files import PUBLIC, read_public, replace
from security.roster import Roster, open_roster

if TYPE_CHECKING:
    from pathlib import Path

    from security.identity import Peer
    from security.roster import Member

_ADVICE = (
    "The roster that was known is kept. Ask the operator of the server what happened, by another way than this one; "
    "until then treat the server as broken into."
)


def accept(known: Roster | None, offered: Roster) -> Roster:
    """Take the offered roster in place of the known one, or refuse it.

    The rules, in order:

    1. It is of the same federation.
    2. Its version is higher; or it is the known one again.
    3. Nobody who was known is missing. A role is part of the id, so another role is another member, and the one who
       was known is missing.
    4. Nobody's rotations were rewritten, and everybody's keys are the known ones or are reached from them by further
       rotations, each countersigned by the keys before it. This holds for the server too.
    5. Who was revoked still is, since the same time, for the same reason, and under the same keys.
    6. Nobody's date of joining changed.

    Args:
        known: What was accepted last; None when nothing was yet.
        offered: As :func:`~security.roster.open_roster` returned it.

    Returns:
        The roster that now holds.

    Raises:
        IdentityError: The first rule that was broken, and by which member. The known roster holds on.
    """
    if known is None or offered == known:
        return offered
    if offered.federation != known.federation:
        raise _refusal("the roster is of another federation", got=offered.federation, expected=known.federation)
    if offered.version < known.version:
        raise _refusal("the roster goes backwards", got=offered.version, expected=f"{known.version} or higher")
    if offered.version == known.version:
        raise _refusal("there is another roster of the version that is known", got=f"version {offered.version}")
    there = {member.id: member for member in offered.members}
    for member in known.members:
        if member.id not in there:
            raise _refusal("the roster drops a member who was known, or changes their role", got=member.id)
        _check_follows(known, member, offered, there[member.id])
    return offered


def keep_roster(path: Path, signed: bytes, server: Peer) -> Roster:
    """Keep a roster in its file, in place of the known one, if it may follow on it.

    Args:
        path: The file; its folder exists.
        signed: A serialised ``SignedRoster``, from anywhere.
        server: The federation's server as it was pinned.

    Returns:
        The roster that now holds.

    Raises:
        IdentityError: The roster is refused, or a file cannot be read or written; the file is as it was.
    """
    offered = open_roster(signed, server)
    known = load_roster(path, server) if path.exists() else None
    accepted = accept(known, offered)
    if accepted != known:
        replace(path, [signed], error=IdentityError, mode=PUBLIC)
    return accepted


def load_roster(path: Path, server: Peer) -> Roster:
    """Read what :func:`keep_roster` wrote, and check it again.

    Args:
        path: The file.
        server: The federation's server as it was pinned.

    Returns:
        The roster.

    Raises:
        IdentityError: The file is missing, or holds no roster that the server signed.
    """
    return _opened(read_public(path, error=IdentityError), server)


# A site asks for its roster at every task; the same bytes need not be checked twice.
_opened = lru_cache(maxsize=2)(open_roster)


def _check_follows(known: Roster, before: Member, offered: Roster, after: Member) -> None:
    """Check one member's rules. That rotations follow one another and lead to the keys, every roster has shown."""
    rotated = known.rotations_of(before.id)
    if offered.rotations_of(before.id)[: len(rotated)] != rotated:
        raise _refusal("the roster rewrites how a member's keys changed", got=before.id)
    if offered.generations(before.id)[len(rotated)] != before.keys:
        raise _refusal("the roster changes a member's keys without their countersigned rotation", got=before.id)
    if before.revocation is not None and (after.revocation, after.keys) != (before.revocation, before.keys):
        raise _refusal("the roster takes back or changes a revocation", got=before.id)
    if after.since_ms != before.since_ms:
        raise _refusal("the roster changes when a member joined", got=before.id)


def _refusal(what: str, *, got: object, expected: object = None) -> IdentityError:
    return IdentityError(what, got=got, expected=expected, advice=_ADVICE)
