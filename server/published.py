"""The roster as its file has it now: read and checked again when the file has changed, and only then.

The registry asks at every call whether the caller still belongs, and to check the roster of a thousand members takes a
tenth of a second. So the file is looked at each time and opened only when it is another one. A roster is never written
in place (:mod:`security.files`): what takes its name is another file, with times of its own, and longer, since whatever
changes a roster adds to it. So a change that any process makes holds in every other from its next look on.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from common.errors import IdentityError
from security.files import read_public
from security.roster import Roster, open_roster

if TYPE_CHECKING:
    from pathlib import Path

    from security.identity import Peer

Mark = tuple[int, ...]


class Published(NamedTuple):
    """A roster, and the exact bytes that the server signed."""

    roster: Roster
    signed: bytes


class RosterFile:
    """The file of the roster. Safe to use from several threads.

    Args:
        path: Where it is.
        server: Who must have signed it.
    """

    def __init__(self, path: Path, server: Peer) -> None:
        self._path, self._server = path, server
        self._known: tuple[Mark, Published] | None = None
        self._reading = threading.Lock()

    def latest(self) -> Published:
        """Return what the file holds at this moment.

        Raises:
            IdentityError: It is missing, or holds no roster that the server signed; what it held before is not used.
        """
        return self._unchanged() or self._read()

    def _read(self) -> Published:
        with self._reading:  # one thread checks a new roster, and the others wait for it
            if known := self._unchanged():
                return known
            # The mark is taken first: should the file be replaced now, the next look sees another mark.
            mark = self._mark()
            signed = read_public(self._path, error=IdentityError)
            fresh = Published(open_roster(signed, self._server), signed)
            self._known = None if mark is None else (mark, fresh)
            return fresh

    def _unchanged(self) -> Published | None:
        known = self._known
        return known[1] if known and known[0] == self._mark() else None

    def _mark(self) -> Mark | None:
        """Return what tells the file from every other that ever had its name."""
        try:
            found = self._path.stat()
        except OSError:
            return None  # whoever reads it says why
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
