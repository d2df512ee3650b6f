"""A folder of private keys for tests that need one and no home around it."""

from __future__ import annotations

from pathlib import Path

from security.key_folder import KeyFolder
from security.vault import Vault

_VAULT = Vault(bytes(range(32)))


def kept(folder: Path) -> KeyFolder:
    """Return the keys in a folder; all such folders share one vault."""
    return KeyFolder(folder, _VAULT)
