"""Which keys of a federation's server are known on this machine, by another way than from what is to be checked."""

from __future__ import annotations

from pathlib import Path

from common.errors import HomeError
from common.paths import MemberHome, ServerHome
from deploy.records import trust_of
from security.audit.trust import Trust
from security.note import NoteKey
from server.house import open_house


def trusted_keys(key: str | None, home: Path | None) -> list[NoteKey]:
    """Return the keys to hold signatures against, the present one first; none where nothing was said.

    Args:
        key: As other programs take it (C2SP verifier key).
        home: Of a server, or of a member or a site, which pinned its server when it joined.

    Raises:
        LedgerError: The key is none.
        HomeError: Nobody's home is there.
        BottegaError: What lies in the home cannot be used.
    """
    given = [] if key is None else [NoteKey.parse(key.strip())]
    return given if home is None else [*given, *_known_in(home.absolute())]


def _known_in(folder: Path) -> tuple[NoteKey, ...]:
    if ServerHome(folder).settings.is_file():
        house = open_house(ServerHome(folder))
        return Trust.of(house.identity.peer, house.published.signed).server_keys
    if not MemberHome(folder).pinned_server.is_file():
        raise HomeError(
            "nobody who knows a federation lives in this folder", got=str(folder),
            expected="the home of a server, an operator, an auditor or a site",
        )  # fmt: skip
    return trust_of(MemberHome(folder)).server_keys
