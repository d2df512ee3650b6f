"""Where an auditor's command finds the record: in a server's home, in a copy that follows a server, or in a bundle."""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import HomeError, LedgerError, ProcessError
from common.paths import MemberHome, ServerHome, SiteHome
from common.settings import MemberSettings, read_toml
from security.audit.bundle import Bundle
from security.audit.exporting import open_bundle, weights_in
from security.audit.importing import move_in
from security.audit.mirror import Mirror, Synced, Tell
from security.audit.record import Record
from security.audit.source import RegistrySource
from security.audit.trust import Trust
from security.authority import load_certificate, renewal_is_due
from security.calling import registry
from security.files import read_public
from security.identity import Peer
from security.membership import refresh_roster, renew
from security.note import NoteKey
from server.house import open_house
from server.operating import load_operator
from server.record import open_server_record

LEDGER = "ledger.db"
EVIDENCE = "evidence"
KEPT_BUNDLE = "bundle.zip"
"""What of a bundle an imported home keeps: all of it, for what is not in the ledger."""


@dataclass(frozen=True)
class Place:
    """Where a record is looked for.

    Attributes:
        home: A server's, an operator's, an auditor's, or one that a bundle was imported into.
        bundle: A bundle, in place of a home; a home that is given with it says whom to believe.
        key: The server's key, as other programs take it; of use with a bundle.
        offline: A copy is read as it is, and the server is not asked.
    """

    home: Path | None = None
    bundle: Path | None = None
    key: str | None = None
    offline: bool = False

    @property
    def folder(self) -> Path:
        """The home."""
        return (self.home or Path("server")).absolute()


@contextmanager
def open_record(place: Place, tell: Tell | None = None, *, sign: bool = False) -> Iterator[Record]:
    """Open a record. A copy that follows a server is brought up to date first.

    Args:
        place: Where it is.
        tell: Is told how many entries have come, of how many.
        sign: In a server's home, have everything that is written covered by a checkpoint first.

    Raises:
        HomeError: Nothing there has a record.
        LedgerError: The record does not hold, or cannot be read.
        ProcessError: The server cannot be reached.
        BottegaError: Keys, settings or certificates of the home cannot be used.
    """
    if place.bundle is not None:
        with _in_bundle(place, place.bundle, tell) as record:
            yield record
    elif (server := ServerHome(place.folder)).settings.is_file():
        with open_server_record(server, sign=sign) as record:
            yield record
    else:
        home = MemberHome(place.folder)
        follow = _check_home(home, offline=place.offline)
        with Mirror(home.root / LEDGER) as mirror:
            if follow:
                _sync_or_say_how(home, mirror, tell)
            with _copied(home, mirror, follow=follow) as record:
                yield record


def sync(home: MemberHome, mirror: Mirror, tell: Tell | None = None) -> Synced:
    """Bring a member's copy up to date over the registry, and their roster and certificate with it.

    Raises:
        BottegaError: As :func:`open_record`.
    """
    settings = read_toml(MemberSettings, home.settings)
    keys = load_operator(home)
    with registry(home, keys, settings.registry) as stub:
        if renewal_is_due(load_certificate(home.certificate), dt.datetime.now(dt.UTC)):
            renew(home, keys, stub)
        refresh_roster(home, stub)
        return mirror.sync(RegistrySource(stub), trust_of(home), home.root / EVIDENCE, tell)


def begin_anew(home: MemberHome) -> Path | None:
    """Set a copy aside, so that the next one begins with whatever the server shows; return where it is now.

    Raises:
        HomeError: It cannot be moved.
    """
    if not (home.root / LEDGER).exists():
        return None
    aside = home.root / f"{EVIDENCE}/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{LEDGER}"
    try:
        aside.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Mirror(home.root / LEDGER) as mirror:
            mirror.reader.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        (home.root / LEDGER).rename(aside)
        for rest in ("-wal", "-shm"):
            (home.root / f"{LEDGER}{rest}").unlink(missing_ok=True)
    except OSError as cause:
        raise HomeError("the copy cannot be set aside", got=cause.strerror) from None
    return aside


def trust_of(home: MemberHome) -> Trust:
    """Return whom a home believes.

    Raises:
        IdentityError: It says nothing of that.
    """
    server = Peer.pinned(home.pinned_server)
    signed = read_public(home.roster, error=HomeError)
    return Trust.of(server, signed, read_public(home.authority_certificate, error=HomeError))


def keep_bundle(file: Path, home: MemberHome, key: str | None = None, tell: Tell | None = None) -> Synced:
    """Import a bundle into a home: a new one, or one that knows the federation already.

    Args:
        file: The bundle.
        home: Where.
        key: The server's key, as other programs take it.
        tell: Is told how far it is.

    Raises:
        ForkError: The bundle contradicts what the home holds.
        LedgerError: The bundle does not hold.
        HomeError: The home cannot be written.
    """
    if ServerHome(home.root).settings.is_file():
        raise HomeError("a server lives in this folder, which has its record", got=str(home.root))
    pinned = Peer.pinned(home.pinned_server) if home.pinned_server.exists() else None
    with tempfile.TemporaryDirectory() as folder, Bundle(file) as bundle:
        bundle.check()
        record, copy = open_bundle(bundle, Path(folder), pinned, _key(key), tell)
        with copy:
            home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with Mirror(home.root / LEDGER) as mirror:
                synced = move_in(record, home, mirror, home.root / EVIDENCE)
        staged = home.root / f".{KEPT_BUNDLE}.tmp"
        try:
            shutil.copyfile(file, staged)
            staged.replace(home.root / KEPT_BUNDLE)
        except OSError as cause:
            raise HomeError("the bundle cannot be kept", got=cause.strerror) from None
        finally:
            staged.unlink(missing_ok=True)
    return synced


def seen_elsewhere(place: Place) -> list[bytes]:
    """Return the checkpoints that a home was shown otherwise: those that a site remembers as a witness."""
    file = SiteHome(place.folder).witness / "latest.note"
    return [read_public(file, error=LedgerError)] if file.is_file() else []


@contextmanager
def _in_bundle(place: Place, file: Path, tell: Tell | None) -> Iterator[Record]:
    pinned = None if place.home is None else _pinned(place.folder)
    with tempfile.TemporaryDirectory() as folder, Bundle(file) as bundle:
        record, copy = open_bundle(bundle, Path(folder), pinned, _key(place.key), tell)
        with copy:
            yield replace(record, where=f"the bundle {file.name}")


@contextmanager
def _copied(home: MemberHome, mirror: Mirror, *, follow: bool) -> Iterator[Record]:
    """Open a copy; with it the bundle that it came from, if there is one, for what is not in the ledger."""
    refresh = (lambda: sync(home, mirror)) if follow else (lambda: None)
    record = Record(mirror.reader, trust_of(home), "a copy", refresh=refresh)
    kept = home.root / KEPT_BUNDLE
    if not kept.is_file():
        yield record
        return
    with Bundle(kept) as bundle:
        yield replace(record, adapters=weights_in(bundle))


def _pinned(folder: Path) -> Peer:
    """Return the server that a home believes, whichever kind of home it is."""
    if ServerHome(folder).settings.is_file():
        return open_house(ServerHome(folder)).identity.peer
    return Peer.pinned(MemberHome(folder).pinned_server)


def _sync_or_say_how(home: MemberHome, mirror: Mirror, tell: Tell | None) -> None:
    try:
        sync(home, mirror, tell)
    except ProcessError as why:
        raise ProcessError(
            why.what, got=why.got,
            advice="Check the network and that the server runs; `--offline` reads the copy as it was last.",
        ) from None  # fmt: skip


def _check_home(home: MemberHome, *, offline: bool) -> bool:
    """Refuse a folder that has no record and cannot get one; return whether its copy follows a server."""
    there = (home.root / LEDGER).is_file()
    if home.settings.is_file() and (there or not offline):
        return not offline
    if there and home.pinned_server.is_file():
        return False
    if home.settings.is_file():
        raise HomeError(
            "there is no copy of the record in this home yet", got=str(home.root), advice="Leave out --offline once."
        )
    if SiteHome(home.root).settings.is_file():
        raise HomeError(
            "a site is shown what concerns itself, not the whole record", got=str(home.root),
            advice="`bottega site receipts` has that. To read all, ask the operator for a bundle, or an auditor's "
            "invitation.",
        )  # fmt: skip
    raise HomeError(
        "there is no record in this folder", got=str(home.root),
        expected="the home of a server, an operator or an auditor, or one that a bundle was imported into",
        advice="Name another folder with --home, or a bundle with --bundle.",
    )  # fmt: skip


def _key(text: str | None) -> NoteKey | None:
    return None if text is None else NoteKey.parse(text)
