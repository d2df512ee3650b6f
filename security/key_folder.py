"""The private keys of a home: a folder of files that the home's vault encrypts.

The data key of the vault lies beside the folder in ``vault.key``, bare or under a passphrase (:mod:`security.vault`).
Who steals the folder alone, or the whole home under a passphrase, has no key.

One private key is not kept here: the one that a site's SuperNode shows to Flower. Flower reads it from a plain file,
and in a process that may not open the vault; all it opens is Flower's own port, and no update is signed with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import VaultError
from security.files import check_private
from security.passphrase import passphrase
from security.vault import Vault

if TYPE_CHECKING:
    from pathlib import Path

    from common.paths import Home

_KEY = b"bottega/v1/private-key/"


@dataclass(frozen=True)
class KeyFolder:
    """A folder of private keys. Made by :func:`make_key_folder` and :func:`open_key_folder`.

    Args:
        path: The folder; only its owner may look into it.
        vault: Encrypts its files.
    """

    path: Path
    vault: Vault

    def holds(self, name: str) -> bool:
        """Return whether there is a key of this name."""
        return (self.path / name).exists()

    def keep(self, name: str, secret: bytes) -> None:
        """Keep a private key, whole or not at all; it is never overwritten.

        Raises:
            VaultError: One of this name is already there, or it cannot be written.
        """
        self.vault.write_new(self.path / name, secret, _KEY + name.encode())

    def read(self, name: str) -> bytes:
        """Return a private key.

        Raises:
            VaultError: It is missing, open to others, changed, another key, or under another vault's key.
        """
        return bytes(self.vault.read(self.path / name, _KEY + name.encode()))

    def beside(self, path: Path) -> KeyFolder:
        """Return another folder of the same home."""
        return KeyFolder(path, self.vault)


def open_vault(home: Home) -> Vault:
    """Open the vault of a home, under the passphrase that the environment names.

    Raises:
        VaultError: There is none, it is open to others or damaged, or the passphrase does not open it.
    """
    return Vault.open(home.vault_key, passphrase())


def open_key_folder(home: Home) -> KeyFolder:
    """Open the private keys of a home.

    Raises:
        VaultError: As :func:`open_vault`; or others may look into the folder of keys.
    """
    try:
        check_private(home.keys.stat(), home.keys, error=VaultError)
    except OSError as problem:
        raise VaultError(f"{home.keys} cannot be opened", got=problem.strerror) from None
    return KeyFolder(home.keys, open_vault(home))


def make_key_folder(home: Home) -> KeyFolder:
    """Make the vault of a home whose folders exist, or open the one that is there.

    Raises:
        VaultError: As :func:`open_key_folder`; or there are keys, and the vault that they belong to is gone.
    """
    if not home.vault_key.exists() and any(home.keys.glob("*.key")):
        raise VaultError(
            f"the keys in {home.keys} have lost their vault",
            got=f"no {home.vault_key.name} in {home.vault_key.parent}",
            advice="Restore it from a backup. Without it these keys cannot be read; new ones need an empty folder.",
        )
    Vault.open_or_create(home.vault_key, passphrase())
    return open_key_folder(home)
