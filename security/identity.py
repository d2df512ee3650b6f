"""Who takes part in a federation, and by which keys they are known.

The front door to names, keys and certificates: import them from here. A :class:`Peer` is what others know of
somebody, an :class:`Identity` what they hold themselves. Who belongs to a federation stands in its roster
(:mod:`security.roster`).
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import IdentityError
from security.authority import (
    Authority,
    certified_id,
    create_authority,
    load_certificate,
    save_certificate,
)
from security.files import PUBLIC, read_public, write_new
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
    from pathlib import Path

    from security.key_folder import KeyFolder

SIGNING_FILE = "signing.key"
SEALING_FILE = "sealing.key"


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

    def pin(self, path: Path) -> None:
        """Keep them in a JSON file, for good: it is never overwritten. It holds no secret.

        Raises:
            IdentityError: Somebody else, or other keys of theirs, are pinned there; or the file cannot be written.
        """
        if path.exists():
            pinned = Peer.pinned(path)
            if pinned != self:
                raise IdentityError(
                    f"{path} pins somebody else, or other keys, and was left untouched", got=self.id, expected=pinned.id
                )
            return
        content = {"id": str(self.id), "verify": _base64(self.verify.raw), "sealing": _base64(self.sealing.raw)}
        write_new(path, json.dumps(content, indent=1).encode() + b"\n", error=IdentityError, mode=PUBLIC)

    @classmethod
    def pinned(cls, path: Path) -> Peer:
        """Read what :meth:`pin` wrote.

        Raises:
            IdentityError: The file is missing or holds no such JSON.
        """
        try:
            entry = json.loads(read_public(path, error=IdentityError))
            verify, sealing = (base64.b64decode(entry[key], validate=True) for key in ("verify", "sealing"))
            return cls(SpiffeId.parse(entry["id"]), VerifyKey(verify), SealingPublicKey(sealing))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise IdentityError(f"{path} pins nobody", expected="JSON with id, verify and sealing") from None


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

    def save(self, folder: KeyFolder) -> None:
        """Keep the keys as ``signing.key`` and ``sealing.key``.

        Raises:
            VaultError: A key is already there, or a file cannot be written.
        """
        folder.keep(SIGNING_FILE, self.signing.seed)
        folder.keep(SEALING_FILE, self.sealing.seed)

    @classmethod
    def load(cls, folder: KeyFolder, spiffe_id: SpiffeId) -> Identity:
        """Read the keys that :meth:`save` wrote.

        Args:
            folder: Where they are.
            spiffe_id: Whose they are.

        Raises:
            VaultError: A file is missing, open to others, or does not open.
        """
        return cls(spiffe_id, SigningKey(folder.read(SIGNING_FILE)), SealingKey(folder.read(SEALING_FILE)))


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


__all__ = [
    "Authority",
    "Identity",
    "Peer",
    "Role",
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
