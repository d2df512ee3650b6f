"""The server's house: its home folder opened, with everything that a run needs to know about itself and its sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import HomeError
from common.paths import ServerHome
from common.settings import read_toml
from security.files import locked
from security.identity import Identity, Peer
from security.key_folder import KeyFolder, open_key_folder
from security.keys import load_tls_key
from security.names import Role, SpiffeId
from security.roster import Member, Roster, sign_roster, signed_version
from security.succession import keep_roster
from server.journal import Journal
from server.published import Published, RosterFile
from server.settings import ServerSettings
from server.supernodes import flower_key

TLS_KEY = "tls.key"
"""Among the server's private keys, that of its certificate."""


@dataclass(frozen=True)
class House:
    """An opened home.

    Attributes:
        keys: Where the server's private keys are.
        identity: Those that it signs and opens with.
    """

    home: ServerHome
    settings: ServerSettings
    keys: KeyFolder
    identity: Identity

    @property
    def founder(self) -> SpiffeId:
        """The operator whose keys live here: what is done by commands beside the server is done by them."""
        return SpiffeId(self.settings.federation, Role.OPERATOR, self.settings.operator)

    @property
    def roster(self) -> Roster:
        """Who belongs to the federation; looked at anew each time, so that a change holds in every process at once.

        Raises:
            IdentityError: The file is missing, or holds no roster that this server signed.
        """
        return self.published.roster

    @property
    def published(self) -> Published:
        """The roster with the bytes that were signed, as members are sent them.

        Raises:
            IdentityError: As :attr:`roster`.
        """
        return self._file.latest()

    @property
    def tls_key(self) -> ec.EllipticCurvePrivateKey:
        """The key of the server's certificate.

        Raises:
            VaultError: It is missing, or does not open.
        """
        return load_tls_key(self.keys, TLS_KEY)

    @cached_property
    def _file(self) -> RosterFile:
        return RosterFile(self.home.roster, self.identity.peer)

    @property
    def sites(self) -> Mapping[bytes, Peer]:
        """The active sites by the public key that their SuperNode signs with, in Flower's own encoding.

        Raises:
            IdentityError: As :attr:`roster`.
        """
        return {flower_key(site.keys.supernode): site.peer for site in active_sites(self.roster)}

    def publish(self, change: Callable[[Roster], Roster]) -> Roster:
        """Sign the next roster and keep it. It is held to the rule that sites hold it to.

        Args:
            change: Makes the next version of the one it is given. While it does, nobody else does: two rosters of
                one version would part the federation for good.

        Returns:
            What holds from now on.

        Raises:
            IdentityError: ``change`` refuses, or sites would; nothing is changed.
            HomeError: The home cannot be written, or was restored (:meth:`check_settled`).
        """
        self.check_settled()
        with locked(self.home.roster_lock, error=HomeError):
            signed = sign_roster(change(self.roster), self.identity)
            kept = keep_roster(self.home.roster, signed, self.identity.peer)
        self.write_down()
        return kept

    def adopt(self, signed: bytes) -> Roster:
        """Keep a roster that this server signed, if it is later than the one that holds, and may follow on it.

        Raises:
            IdentityError: This server did not sign it, or it may not follow; nothing is changed.
            HomeError: The home cannot be written.
        """
        # Before the lock, and before it is read: forged rosters must not hold up those who change the true one.
        version = signed_version(signed, self.identity.peer)
        with locked(self.home.roster_lock, error=HomeError):
            if version <= self.roster.version:
                return self.roster
            kept = keep_roster(self.home.roster, signed, self.identity.peer)
        self.write_down()
        return kept

    def write_down(self) -> None:
        """Write into the ledger what the roster says and the ledger does not yet.

        Raises:
            RunError: The store cannot be written. Whoever changes the roster next, or starts a round, writes it then.
        """
        with Journal(self.home.database) as journal:
            journal.keep_up(self.published)

    def check_settled(self) -> None:
        """Refuse a step that must rest on the latest roster while it may not be the latest.

        Raises:
            HomeError: The home was restored from a backup, and nobody has said since that all have called.
        """
        if self.home.restored.exists():
            raise HomeError(
                "this server was restored from a backup, and members may know a later roster",
                got=f"version {self.roster.version}",
                advice="Start it and wait until its members have called; what they know they bring back. Then run "
                "`bottega server restored`.",
            )


def open_house(home: ServerHome) -> House:
    """Open the home of a server.

    Raises:
        HomeError: It is no server's home.
        SettingsError: Its settings do not fit.
        VaultError: A key is missing, or does not open.
    """
    if not home.settings.is_file():
        raise HomeError(
            "there is no federation server in this folder", got=str(home.root), expected=f"{home.settings.name} in it"
        )
    settings = read_toml(ServerSettings, home.settings)
    keys = open_key_folder(home)
    me = SpiffeId(settings.federation, Role.SERVER, settings.name)
    return House(home, settings, keys, Identity.load(keys, me))


def active_sites(roster: Roster) -> list[Member]:
    """Return the sites that may connect and that tasks are for, in the order of their names."""
    return [member for member in roster.members if member.id.role is Role.SITE and member.active]
