"""What the home of a server tells beside its ledger: who is connected now, its certificates, pictures of rounds.

None of it is in the record, so no page draws it as if it were. Nothing here opens a private key.
"""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING

from common.errors import BottegaError
from security.authority import load_certificate
from server.dashboard.trusted import Trusted
from server.health import open_ports
from server.house import active_sites
from server.presence import online_sites
from server.supernodes import flower_key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from common.paths import ServerHome
    from security.identity import Peer

_ASKED_AGAIN_S = 5.0
_PICTURE = re.compile(r"round-(\d{1,10})\.png")
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")


class Beside:
    """The home of a federation's server. Safe to use from several threads.

    Attributes:
        trust: Returns whose signatures count at this moment.

    Args:
        home: Where.
        server: Whose it is; its public keys.

    Raises:
        IdentityError: The roster cannot be believed.
    """

    def __init__(self, home: ServerHome, server: Peer) -> None:
        self._home = home
        self.trust = Trusted(home.roster, server, home.authority_certificate)
        self._lock = threading.Lock()
        self._online: tuple[float, frozenset[str] | None] = (-_ASKED_AGAIN_S, None)
        self.trust()

    @property
    def sites(self) -> Mapping[bytes, Peer]:
        """The active sites by the key that their SuperNode signs with."""
        return {flower_key(site.keys.supernode): site.peer for site in active_sites(self.trust.roster)}

    def online(self) -> frozenset[str] | None:
        """Return the sites that are connected, as of some seconds ago; None where the server is not up."""
        with self._lock:
            asked, known = self._online
            if time.monotonic() - asked < _ASKED_AGAIN_S:
                return known
            self._online = (time.monotonic(), known)  # others need not wait for the answer
        try:
            ports = open_ports(self._home)
            fresh = frozenset(online_sites(f"127.0.0.1:{ports['control']}", self)) if ports else None
        except BottegaError:
            fresh = None
        with self._lock:
            self._online = (time.monotonic(), fresh)
        return fresh

    def certificates(self) -> dict[str, str]:
        """Return until when the certificates of the server and of the authority hold, RFC 3339; of those there are."""
        found = {}
        for name, path in (("server", self._home.certificate), ("authority", self._home.authority_certificate)):
            try:
                found[name] = load_certificate(path).not_valid_after_utc.isoformat()
            except BottegaError:
                continue
        return found

    def pictures(self, run: str) -> list[int]:
        """Return the rounds of a run of which there is a picture of samples."""
        if not _RUN.fullmatch(run):
            return []
        folder = self._home.pictures(run)
        names = (_PICTURE.fullmatch(file.name) for file in folder.iterdir()) if folder.is_dir() else ()
        return sorted(int(name[1]) for name in names if name)

    def picture(self, run: str, number: int) -> Path | None:
        """Return the file of a picture; None where there is none."""
        if number not in self.pictures(run):
            return None
        return self._home.picture(run, number)
