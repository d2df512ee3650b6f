"""The server's house: its home folder opened, with everything that a run needs to know about itself and its sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import HomeError
from common.paths import ServerHome
from common.settings import read_toml
from security.identity import Identity, Peer, Roster
from security.names import Role, SpiffeId
from server.settings import ServerSettings
from server.supernodes import flower_key


@dataclass(frozen=True)
class House:
    """An opened home.

    Attributes:
        identity: The server's own keys.
        sites: The sites by the public key that their SuperNode signs with, in Flower's own encoding.
    """

    home: ServerHome
    settings: ServerSettings
    identity: Identity
    roster: Roster
    sites: Mapping[bytes, Peer]


def open_house(home: ServerHome) -> House:
    """Open the home of a server.

    Raises:
        HomeError: It is no server's home.
        SettingsError: Its settings do not fit.
        IdentityError: A key is missing or damaged.
    """
    if not home.settings.is_file():
        raise HomeError(
            "there is no federation server in this folder", got=str(home.root), expected=f"{home.settings.name} in it"
        )
    settings = read_toml(ServerSettings, home.settings)
    roster = Roster.load(home.roster)
    identity = Identity.load(home.keys, SpiffeId(settings.federation, Role.SERVER, settings.name))
    return House(home, settings, identity, roster, _sites(home, settings.federation, roster))


def _sites(home: ServerHome, federation: str, roster: Roster) -> dict[bytes, Peer]:
    """Map SuperNode keys to sites: one ``<site>.pub`` a site in the home's ``supernodes`` folder."""
    sites = {}
    for file in sorted(home.supernodes.glob("*.pub")):
        sites[flower_key(file)] = roster[SpiffeId(federation, Role.SITE, file.stem)]
    return sites
