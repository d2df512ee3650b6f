"""Which keys of a federation's server are known on this machine, by another way than from what is to be checked."""

from __future__ import annotations

from pathlib import Path

from common.errors import HomeError, LedgerError, ProvenanceError
from common.paths import MemberHome, ServerHome
from deploy.records import trust_of
from security.audit.trust import Trust
from security.note import NoteKey
from security.provenance import MOST_VKEY_BYTES
from server.house import open_house


def trusted_keys(key: str | None, home: Path | None, where: Path) -> list[NoteKey]:
    """Return the keys to hold signatures against, the present one first; none where nothing was said.

    Args:
        key: As other programs take it (C2SP verifier key), or a file that holds it.
        home: Of a server, or of a member or a site, which pinned its server when it joined.
        where: What is to be checked, a folder or a file in one.

    Raises:
        LedgerError: The key is none.
        ProvenanceError: The key's file lies with what is to be checked.
        HomeError: Nobody's home is there.
        BottegaError: What lies in the home cannot be used.
    """
    given = [] if key is None else [_given(key, where if where.is_dir() else where.parent)]
    return given if home is None else [*given, *_known_in(home.absolute())]


def _given(key: str, release: Path) -> NoteKey:
    try:
        return NoteKey.parse(key.strip())
    except LedgerError:
        written = _written_in(Path(key))
        if written is None:
            raise
    if Path(key).resolve().parent == release.resolve():
        raise ProvenanceError(
            "a key that lies with what is to be checked vouches for nothing", expected="one from elsewhere",
            advice="Whoever changed the files could change it too. Ask the federation for its key by another way.",
        )  # fmt: skip
    return NoteKey.parse(written)


def _written_in(file: Path) -> str | None:
    """Return what a file for a key holds; None where there is no such file, or it is too long for one."""
    try:
        with file.open("rb") as content:
            written = content.read(MOST_VKEY_BYTES + 1)
        return written.decode().strip() if len(written) <= MOST_VKEY_BYTES else None
    except (OSError, ValueError):  # a name with a NUL, and bytes that are no text
        return None


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
