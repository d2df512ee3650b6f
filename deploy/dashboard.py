"""Which record the dashboard shows: a server's own, a copy that follows a server, or what is in a bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import SettingsError
from common.metrics_port import is_loopback
from common.paths import MemberHome, ServerHome
from deploy.records import LEDGER, Place, open_record
from security.audit.bundle import Bundle
from security.audit.exporting import open_bundle
from security.files import read_public
from security.identity import Peer
from security.note import NoteKey
from server.dashboard.beside import Beside
from server.dashboard.ledger_file import LedgerFile
from server.dashboard.serving import Tls, serve_here, serve_members
from server.dashboard.trusted import Trusted
from server.house import open_house

if TYPE_CHECKING:
    from security.audit.mirror import Tell


def serve(place: Place, host: str, port: int, tell: Callable[[str], None], progress: Tell | None = None) -> None:
    """Serve the dashboard until SIGINT or SIGTERM.

    Args:
        place: Where the record is.
        host: What to listen on. On loopback a link lets in; elsewhere it takes a server's home, and members show their
            certificates.
        port: 0 lets the system choose.
        tell: Is told the address to open.
        progress: Is told how many entries have come, of how many, before that.

    Raises:
        SettingsError: Nobody could be let in there.
        BottegaError: As :func:`~deploy.records.open_record`; or the port is taken.
    """
    home = ServerHome(place.folder)
    beside_server = place.bundle is None and home.settings.is_file()
    if not is_loopback(host) and not beside_server:
        raise SettingsError(
            "from elsewhere nobody can be let in to these pages", got=f"--host {host}",
            expected="127.0.0.1, or the home of a server, whose roster says who may read",
        )  # fmt: skip
    if beside_server:
        house = open_house(home)
        beside = Beside(home, house.identity.peer)
        file = LedgerFile(home.database, beside.trust, "server", beside)
        if is_loopback(host):
            serve_here(file, host, port, tell)
            return
        authority = read_public(home.authority_certificate, error=SettingsError)
        reached = house.settings.reached_by
        tls = Tls(house.tls_key, home.certificate.read_bytes(), authority, lambda: beside.trust.roster, reached)
        serve_members(file, host, port, tls, tell)
        return
    with _in_bundle(place, place.bundle, progress) if place.bundle else _in_copy(place, progress) as file:
        serve_here(file, host, port, tell)


@contextmanager
def _in_copy(place: Place, progress: Tell | None) -> Iterator[LedgerFile]:
    """Open a member's copy, and keep it up to date where it follows a server."""
    home = MemberHome(place.folder)
    with open_record(place, progress) as record:
        follows = home.settings.is_file() and not place.offline
        trust = Trusted(home.roster, Peer.pinned(home.pinned_server), home.authority_certificate)
        yield LedgerFile(home.root / LEDGER, trust, "mirror", refresh=record.refresh if follows else None)


@contextmanager
def _in_bundle(place: Place, file: Path, progress: Tell | None) -> Iterator[LedgerFile]:
    pinned = None if place.home is None else Peer.pinned(MemberHome(place.folder).pinned_server)
    key = None if place.key is None else NoteKey.parse(place.key)
    with tempfile.TemporaryDirectory() as folder, Bundle(file) as bundle:
        record, copy = open_bundle(bundle, Path(folder), pinned, key, progress)
        with copy:
            yield LedgerFile(Path(folder) / LEDGER, lambda: record.trust, "bundle")
