"""Which office a home has: the one beside the server, or that of an operator on another machine."""

from __future__ import annotations

from pathlib import Path

from common.paths import MemberHome, ServerHome
from server.local_office import LocalOffice
from server.office import Office
from server.remote_office import RemoteOffice


def open_office(home: Path) -> Office:
    """Open the office of a home: a server's, or that of an operator who works from another machine.

    Raises:
        HomeError: The folder is neither.
        BottegaError: The home cannot be opened.
    """
    member = MemberHome(home.absolute())
    if member.settings.is_file():
        return RemoteOffice(member)
    return LocalOffice(ServerHome(home.absolute()))
