"""A founded server whose registry and door really listen, and members who joined it, without Flower's processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from client.cli_belief import believed
from client.ledger_book import LedgerBook, book_of
from client.moving_in import move_in_member, move_in_site
from client.offline import read_grant, write_request
from common.paths import MemberHome, ServerHome, SiteHome
from security import files
from security.authority import load_certificate
from security.enrolment import certificate_fingerprint
from security.grpc_tls import server_credentials
from security.key_folder import open_key_folder
from security.keys import pkcs8_pem
from security.member import MemberKeys
from security.names import Role, SpiffeId
from server.desk import Desk
from server.founding import found
from server.house import open_house
from server.opening import desk_of
from server.ports import free_port
from server.registry import serve_door, serve_registry
from server.settings import ServerSettings

FEDERATION = "members.test"


@dataclass
class Town:
    """A founded server whose two ports can be opened and closed."""

    root: Path
    home: ServerHome
    port: int
    door: int
    desk: Desk
    serving: list[grpc.Server] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def open(self) -> None:
        key, certificate = (
            pkcs8_pem(open_house(self.home).tls_key),
            self.home.certificate.read_bytes(),
        )
        credentials = server_credentials(key, certificate, self.home.authority_certificate.read_bytes())
        self.serving.append(serve_registry(self.desk, self.address, credentials)[0])
        authority = self.home.authority_certificate.read_bytes()
        open_to_all = server_credentials(key, certificate + authority, None)
        self.serving.append(serve_door(self.desk, f"127.0.0.1:{self.door}", open_to_all)[0])

    def close(self) -> None:
        while self.serving:
            self.serving.pop().stop(None).wait()

    @property
    def authority(self) -> str:
        return certificate_fingerprint(load_certificate(self.home.authority_certificate)).hex

    def site(self, name: str) -> SiteHome:
        """Join by files, as two people without a network would."""
        home = SiteHome(self.root / name)
        write_request(home, SpiffeId(FEDERATION, Role.SITE, name), self.root / f"{name}.request")
        grant = self.root / f"{name}.grant"
        grant.write_bytes(self.desk.bring((self.root / f"{name}.request").read_bytes()))
        move_in_site(home, read_grant(home, grant, frozenset({Role.SITE}), believed(self.authority)), str(self.root))
        return home

    def operator(self, name: str) -> MemberHome:
        home = MemberHome(self.root / name)
        write_request(home, SpiffeId(FEDERATION, Role.OPERATOR, name), self.root / "operator.request")
        (self.root / "operator.grant").write_bytes(self.desk.bring((self.root / "operator.request").read_bytes()))
        roles = frozenset({Role.OPERATOR})
        move_in_member(home, read_grant(home, self.root / "operator.grant", roles, believed(self.authority)))
        return home


def keys_of(home: SiteHome, name: str) -> MemberKeys:
    return MemberKeys.load(open_key_folder(home), SpiffeId(FEDERATION, Role.SITE, name))


def book_in(home: SiteHome, town: Town) -> LedgerBook:
    """Return what a site keeps of the ledger."""
    keys = keys_of(home, home.root.name)
    return book_of(home, keys, lambda: open_house(town.home).identity.signing.public, town.address)


@contextmanager
def a_town(root: Path) -> Iterator[Town]:
    """Found a federation and open its registry and its door, whoever is expected."""
    home, port, door = ServerHome(root / "server"), free_port("127.0.0.1"), free_port("127.0.0.1")
    found(
        home,
        ServerSettings(federation=FEDERATION, host="127.0.0.1", registry_port=port, door_port=door),
        ["127.0.0.1"],
    )
    town = Town(root, home, port, door, desk_of(open_house(home), {}))
    town.open()
    try:
        yield town
    finally:
        town.close()


class PowerCutError(BaseException):
    """The power went. No handler of ours may catch it."""


def cut_power(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Cut the power at the n-th moment at which something is written or takes its name on the disk."""
    steps = iter(range(1, 10_000))

    def guarded(act: Callable[..., object]) -> Callable[..., object]:
        def acted(*args: object, **kwargs: object) -> object:
            if next(steps) == step:
                raise PowerCutError
            return act(*args, **kwargs)

        return acted

    for owner, name in ((files, "_write_beside"), (files, "_sync_folder"), (Path, "rename"), (Path, "mkdir")):
        monkeypatch.setattr(owner, name, guarded(getattr(owner, name)))
