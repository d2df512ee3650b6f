"""Whose signatures count, by a roster in a file that somebody else keeps up to date."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from common.errors import IdentityError
from security.audit.trust import Trust
from security.files import read_public
from server.published import RosterFile

if TYPE_CHECKING:
    from pathlib import Path

    from security.identity import Peer
    from security.roster import Roster


class Trusted:
    """The trust that a roster's file gives at this moment. Safe to use from several threads.

    Args:
        roster: The file.
        server: Who must have signed it.
        authority: The file of the authority's certificate, PEM.
    """

    def __init__(self, roster: Path, server: Peer, authority: Path) -> None:
        self._file, self._server, self._authority = RosterFile(roster, server), server, authority
        self._lock = threading.Lock()
        self._known: Trust | None = None

    @property
    def roster(self) -> Roster:
        """Who belongs to the federation.

        Raises:
            IdentityError: The roster is missing, or cannot be believed.
        """
        return self._file.latest().roster

    def __call__(self) -> Trust:
        """Return whose signatures count.

        Raises:
            IdentityError: The roster is missing, or cannot be believed.
        """
        signed = self._file.latest().signed
        with self._lock:
            if self._known is None or self._known.signed_roster != signed:
                self._known = Trust.of(self._server, signed, read_public(self._authority, error=IdentityError))
            return self._known
