"""The federation of :mod:`benchmarks.registry_load`: its home, its registry, and what its members hold."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from common.paths import ServerHome
from security.authority import Authority
from security.grpc_tls import server_credentials
from security.key_folder import open_key_folder
from security.keys import pkcs8_pem
from security.member import MemberKeys
from security.member_keys import Keys
from security.names import Role, SpiffeId
from security.renewal import make_renewal
from security.roster import Member, Roster
from server.founding import found
from server.house import open_house
from server.opening import desk_of
from server.registry import serve_registry
from server.settings import ServerSettings

FEDERATION = "load.bottega"


@dataclass(frozen=True)
class Papers:
    """What one member calls with.

    Attributes:
        key: The TLS key, PEM.
        certificate: By the federation's authority, PEM.
        csr: Of a renewal, with the member's signature over it.
    """

    key: bytes
    certificate: bytes
    csr: bytes
    signature: bytes


def found_with_members(home: ServerHome, count: int) -> list[Papers]:
    """Found a federation of so many sites, each with keys and a certificate of its own, and one site more.

    The one more is ``last``, who is there to be revoked.
    """
    found(home, ServerSettings(federation=FEDERATION, host="127.0.0.1"), ["127.0.0.1"])
    authority = Authority.load(open_key_folder(home))
    names = [*(f"site-{number:05d}" for number in range(count)), "last"]
    keys = [MemberKeys.generate(site(name)) for name in names]
    open_house(home).publish(lambda roster: _with_all(roster, keys))
    return [_papers(authority, one) for one in keys[:count]]


def site(name: str) -> SpiffeId:
    """Return the id of a site."""
    return SpiffeId(FEDERATION, Role.SITE, name)


def serve(root: Path, parent: Connection) -> None:
    """Serve the registry of a home as ``bottega server start`` does, until the parent says something.

    Args:
        root: The home.
        parent: Told the port; whatever it sends ends the registry.
    """
    home = ServerHome(root)
    key, certificate = pkcs8_pem(open_house(home).tls_key), home.certificate.read_bytes()
    credentials = server_credentials(key, certificate, home.authority_certificate.read_bytes())
    server, port = serve_registry(desk_of(open_house(home), {}), "127.0.0.1:0", credentials)
    parent.send(port)
    parent.recv()
    server.stop(1).wait()


def _with_all(roster: Roster, keys: list[MemberKeys]) -> Roster:
    """Return the next roster with all of them at once; one by one each would be signed and checked."""
    public = [one.public for one in keys]
    sites = [Member(one.id, Keys.of(one.peer, one.supernode), roster.created_at_ms) for one in public]
    members = tuple(sorted([*roster.members, *sites], key=lambda member: member.id))
    return Roster(roster.federation, roster.version + 1, roster.created_at_ms, members)


def _papers(authority: Authority, keys: MemberKeys) -> Papers:
    csr, signature = make_renewal(keys)
    return Papers(
        keys.tls.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        authority.issue(keys.id, keys.tls.public_key()).public_bytes(Encoding.PEM),
        csr,
        signature,
    )
