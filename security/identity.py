"""Who takes part in a federation, and by which keys they are known.

The front door to names, keys and certificates: import them from here. A :class:`Peer` is what others know of
somebody, an :class:`Identity` what they hold themselves, a :class:`Roster` the peers that somebody believes in.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from common.errors import IdentityError
from security.authority import (
    Authority,
    certified_id,
    create_authority,
    load_certificate,
    save_certificate,
)
from security.files import PUBLIC, read_public, replace
from security.keys import (
    SealingKey,
    SealingPublicKey,
    SigningKey,
    VerifyKey,
    create_supernode_key,
    create_tls_key,
)
from security.names import Role, SpiffeId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_SIGNING_FILE = "signing.key"
_SEALING_FILE = "sealing.key"
_ROSTER_VERSION = 1


@dataclass(frozen=True)
class Peer:
    """What others know of somebody in the federation.

    Args:
        id: Their name.
        verify: Their signatures are checked with this.
        sealing: What is for them alone is sealed to this.
    """

    id: SpiffeId
    verify: VerifyKey
    sealing: SealingPublicKey


@dataclass(frozen=True)
class Identity:
    """What somebody in the federation holds: their name and their private keys.

    Args:
        id: Their name.
        signing: They sign with this.
        sealing: They open with this what was sealed to them.
    """

    id: SpiffeId
    signing: SigningKey
    sealing: SealingKey

    @classmethod
    def generate(cls, spiffe_id: SpiffeId) -> Identity:
        """Make new keys for a name."""
        return cls(spiffe_id, SigningKey.generate(), SealingKey.generate())

    @property
    def peer(self) -> Peer:
        """The public half, for other people's rosters."""
        return Peer(self.id, self.signing.public, self.sealing.public)

    def save(self, folder: Path) -> None:
        """Keep the keys in ``signing.key`` and ``sealing.key`` (both 0600) in a folder that exists.

        Raises:
            IdentityError: A key is already there, or a file cannot be written.
        """
        self.signing.save(folder / _SIGNING_FILE)
        self.sealing.save(folder / _SEALING_FILE)

    @classmethod
    def load(cls, folder: Path, spiffe_id: SpiffeId) -> Identity:
        """Read the keys that :meth:`save` wrote.

        Args:
            folder: Where they are.
            spiffe_id: Whose they are.

        Raises:
            IdentityError: A file is missing, open to others, or damaged.
        """
        return cls(spiffe_id, SigningKey.load(folder / _SIGNING_FILE), SealingKey.load(folder / _SEALING_FILE))


class Roster:
    """The peers that somebody believes in; it never changes, a new one is made instead.

    Args:
        peers: Each with another id.

    Raises:
        IdentityError: Two peers have one id.
    """

    __slots__ = ("_peers",)

    def __init__(self, peers: Iterable[Peer] = ()) -> None:
        by_id: dict[SpiffeId, Peer] = {}
        for peer in peers:
            if peer.id in by_id:
                raise IdentityError("the roster names somebody twice", got=peer.id)
            by_id[peer.id] = peer
        self._peers: Mapping[SpiffeId, Peer] = MappingProxyType(by_id)

    def __getitem__(self, spiffe_id: SpiffeId) -> Peer:
        """Look somebody up.

        Raises:
            IdentityError: The roster does not know them.
        """
        try:
            return self._peers[spiffe_id]
        except KeyError:
            raise IdentityError("the roster does not know them", got=spiffe_id) from None

    def __contains__(self, spiffe_id: object) -> bool:
        return spiffe_id in self._peers

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    def __len__(self) -> int:
        return len(self._peers)

    def __eq__(self, other: object) -> bool:
        return self._peers == other._peers if isinstance(other, Roster) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._peers.items()))

    def __repr__(self) -> str:
        return f"Roster({', '.join(map(str, self._peers))})"

    def to_json(self) -> str:
        """Write the roster as JSON with base64 keys, sorted by id, so that equal rosters give equal text."""
        peers = [
            {"id": str(peer.id), "verify": _base64(peer.verify.raw), "sealing": _base64(peer.sealing.raw)}
            for peer in sorted(self, key=lambda peer: peer.id)
        ]
        return json.dumps({"version": _ROSTER_VERSION, "peers": peers}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Roster:
        """Read what :meth:`to_json` wrote.

        Raises:
            IdentityError: It is no such JSON, or of another version.
        """
        try:
            document = json.loads(text)
            version, peers = document["version"], document["peers"]
            if version != _ROSTER_VERSION:
                raise IdentityError("the roster is of another version", got=version, expected=_ROSTER_VERSION)
            return cls([_peer(entry) for entry in peers])
        except (ValueError, TypeError, KeyError, RecursionError, binascii.Error):
            raise IdentityError("this is no roster", expected="JSON with version and peers") from None

    def save(self, path: Path) -> None:
        """Write the roster, in place of an older one if there is one. It holds no secret.

        Raises:
            IdentityError: The file cannot be written; the older one is untouched.
        """
        replace(path, [self.to_json().encode()], error=IdentityError, mode=PUBLIC)

    @classmethod
    def load(cls, path: Path) -> Roster:
        """Read what :meth:`save` wrote.

        Raises:
            IdentityError: The file is missing or holds no roster.
        """
        return cls.from_json(read_public(path, error=IdentityError))


def _peer(entry: Mapping[str, str]) -> Peer:
    verify = VerifyKey(base64.b64decode(entry["verify"], validate=True))
    sealing = SealingPublicKey(base64.b64decode(entry["sealing"], validate=True))
    return Peer(SpiffeId.parse(entry["id"]), verify, sealing)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


__all__ = [
    "Authority",
    "Identity",
    "Peer",
    "Role",
    "Roster",
    "SealingKey",
    "SealingPublicKey",
    "SigningKey",
    "SpiffeId",
    "VerifyKey",
    "certified_id",
    "create_authority",
    "create_supernode_key",
    "create_tls_key",
    "load_certificate",
    "save_certificate",
]
