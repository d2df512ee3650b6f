"""Backups: all that a federation cannot be without, in one file that a passphrase opens.

The file is the line of a key file (:mod:`security.key_file`), which the passphrase unlocks, and then one file of the
vault (:mod:`security.vault`) under that key. Inside are the files of the server's home as they lie there: its settings,
certificates, roster and store, and its private keys, which are encrypted once more under the home's own vault.

Not in it: the adapters of rounds, which lie encrypted in ``runs/`` and may be copied as they are, and what Flower keeps
for itself, which the server makes anew.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.errors import HomeError, RunError, VaultError
from common.paths import ServerHome
from security import gcm
from security.authority import Authority, load_certificate
from security.entries import Restored
from security.files import PRIVATE, locked, write_new
from security.key_file import unwrap, wrap
from security.vault import Vault
from server.applicants import Applicants
from server.figures import damage
from server.house import open_house
from server.journal import Journal, now
from server.operating import load_operator

_WHAT = b"bottega/v1/backup"
_STORE = "bottega.db"
_NAME = re.compile(r"(?:operator/)?(?:keys/)?[a-z0-9][a-z0-9.-]*")
_LONGEST_LINE = 2**12


@dataclass(frozen=True)
class Backup:
    """What is in a backup.

    Args:
        files: Content by path inside the home, with slashes.
    """

    files: Mapping[str, bytes]


def write_backup(home: ServerHome, file: Path, passphrase: str) -> Backup:
    """Write a backup of a server's home, whether it runs or not, and read it back.

    Args:
        home: The server's.
        file: Where; it must not exist.
        passphrase: Opens the backup; it need not be the home's own.

    Raises:
        HomeError: There is no server in this home, or it cannot be read.
        VaultError: The file is already there, cannot be written, or does not read back as it was written.
    """
    if not home.settings.is_file():
        raise HomeError("there is no federation server in this folder", got=str(home.root))
    with locked(home.roster_lock, error=HomeError):  # so that no roster and its record are parted
        backup = Backup(dict(_contents(home)))
    packed = save({name: np.frombuffer(content, np.uint8) for name, content in backup.files.items()})
    key = os.urandom(gcm.KEY_BYTES)
    write_new(file, wrap(key, passphrase) + Vault(key).seal(packed, _WHAT), error=VaultError)
    if read_backup(file, passphrase) != backup:
        raise VaultError(f"{file} does not read back as it was written", advice="Write it again, on another disk.")
    return backup


def read_backup(file: Path, passphrase: str) -> Backup:
    """Open a backup.

    Raises:
        VaultError: The file is missing, is no backup, was changed or cut short, or another passphrase opens it.
    """
    try:
        line, newline, sealed = file.read_bytes().partition(b"\n")
    except OSError as problem:
        raise VaultError(f"{file} cannot be read", got=problem.strerror, advice="Name another file.") from None
    if not newline or len(line) > _LONGEST_LINE:
        raise VaultError(f"{file} is no backup of a server", advice="Name a file that `bottega server backup` wrote.")
    key = unwrap(line, passphrase, file)
    try:
        found = load(bytes(Vault(key).unseal(sealed, _WHAT, file)))
    except SafetensorError:
        raise VaultError(f"{file} was written by another version of bottega") from None
    files = {name: part.tobytes() for name, part in found.items()}
    if not all(_NAME.fullmatch(name) for name in files):
        raise VaultError(f"{file} was written by another version of bottega", got="files that are not known here")
    return Backup(files)


def restore(file: Path, passphrase: str, home: ServerHome) -> int:
    """Make a server's home of a backup. Nothing is kept unless all of it fits together.

    Args:
        file: The backup.
        passphrase: Opens it.
        home: Where; it must not exist, or be empty.

    Returns:
        The version of the roster that was restored; members may know later ones.

    Raises:
        VaultError: The backup does not open, or its keys do not (with the passphrase that the environment names).
        HomeError: Something is in the home, or it cannot be written.
        BottegaError: What is in the backup does not fit together.
    """
    backup = read_backup(file, passphrase)
    if home.root.exists() and any(home.root.iterdir()):
        raise HomeError("there is something in this folder", got=str(home.root), expected="a new or an empty folder")
    try:
        home.root.parent.mkdir(parents=True, exist_ok=True)
        staged = ServerHome(Path(tempfile.mkdtemp(prefix=f".{home.root.name}.", dir=home.root.parent)))
        try:
            _unpack(backup, staged)
            version = _checked(staged)
            with Applicants(staged.database) as applicants:
                applicants.withdraw_all(int(time.time() * 1000))  # one that was used since would be good again
            with Journal(staged.database) as journal:
                journal.write(Restored(at=now(), roster=version))  # what the ledger held after the backup is lost
            staged.root.replace(home.root)
        finally:
            shutil.rmtree(staged.root, ignore_errors=True)
    except OSError as problem:
        raise HomeError(
            "the home cannot be written", got=problem.strerror, expected=f"leave and room: {home.root}"
        ) from None
    return version


def _contents(home: ServerHome) -> Iterator[tuple[str, bytes]]:
    top = (home.settings, home.certificate, home.authority_certificate, home.roster, home.vault_key)
    inside = (file for folder in (home.keys, *home.operator.folders) for file in sorted(folder.iterdir()))
    try:
        for file in (*top, *inside):
            if file.is_file():
                yield file.relative_to(home.root).as_posix(), file.read_bytes()
        yield _STORE, _copied(home.database)
    except OSError as problem:
        raise HomeError("a file of the home cannot be read", got=problem.strerror) from None


def _copied(database: Path) -> bytes:
    """Return the store as it is at one moment, whoever is writing to it (SQLite's online backup)."""
    if not database.exists():
        return b""
    try:
        with (
            contextlib.closing(sqlite3.connect(database)) as live,
            contextlib.closing(sqlite3.connect(":memory:")) as copy,
        ):
            live.backup(copy)
            return copy.serialize()
    except sqlite3.DatabaseError as cause:
        raise RunError("the server's store cannot be read", got=str(cause)) from None


def _unpack(backup: Backup, home: ServerHome) -> None:
    for folder in (home.keys, home.flower, home.runs, *home.operator.folders):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in backup.files.items():
        if content:
            write_new(home.root / name, content, error=HomeError, mode=PRIVATE)
    write_new(home.restored, f"{time.time():.0f}\n".encode(), error=HomeError)


def _checked(home: ServerHome) -> int:
    """Open everything once, and return the version of the roster."""
    house = open_house(home)
    Authority.load(house.keys)
    if house.tls_key.public_key() != load_certificate(home.certificate).public_key():
        raise VaultError("the backup's certificate is not for its key")
    load_operator(home.operator)
    if home.database.exists() and (harm := damage(home.database)):
        raise RunError("the backup's store is damaged", got=harm)
    return house.roster.version
