"""Checks of the machine that every home stands on: its disk, its modes of files, what is installed."""

from __future__ import annotations

import platform
import shutil
import stat
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from common.checkup import Finding, doubtful, fine, wrong

DISTRIBUTION = "bottega"

LITTLE_BYTES = 2 * 2**30
"""Less free space than this is little: rounds, adapters and the store grow."""

TOO_LITTLE_BYTES = 200 * 2**20

_TOLD = ("flwr", "torch", "cryptography", "grpcio")
_PUBLIC = {".pub", ".pem", ".crt"}


def disk(folder: Path) -> Iterator[Finding]:
    """Check the free space of the disk that a folder is on."""
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**30:.1f} GiB free"
    if free >= LITTLE_BYTES:
        yield fine("disk", found)
        return
    said = wrong if free < TOO_LITTLE_BYTES else doubtful
    yield said("disk", found, f"Make room on the disk of {folder}; a write that fails ends the round in progress.")


def versions(distribution: str = DISTRIBUTION) -> Iterator[Finding]:
    """Check what is installed against what this bottega was built to work with.

    Args:
        distribution: Whose requirements.
    """
    mend = "Install bottega again in an environment of its own: pip install --upgrade --force-reinstall bottega."
    broken = [*_wrong_python(distribution), *_wrong_packages(distribution)]
    if broken:
        yield wrong("versions", "; ".join(broken), mend)
        return
    told = ", ".join(f"{name} {metadata.version(name)}" for name in _TOLD)
    yield fine("versions", f"Python {platform.python_version()}, {told}")


def modes(folders: Iterable[Path], keys: Path, *files: Path) -> Iterator[Finding]:
    """Check that nobody but the owner can look into folders, or read a private file among the keys.

    Args:
        folders: Each 0700, if it is there.
        keys: The folder of keys; each private file in it 0600.
        files: Other private files; each 0600, if it is there.
    """
    wide = [(folder, "700") for folder in folders if folder.is_dir() and _lets_others_in(folder)]
    if keys.is_dir():
        inside = (file for file in sorted(keys.iterdir()) if file.suffix not in _PUBLIC)
        wide += [(file, "600") for file in (*inside, *files) if file.is_file() and _lets_others_in(file)]
    if not wide:
        yield fine("permissions", "folders 0700, keys 0600")
    for path, mode in wide:
        found = f"others on this machine may look into {path} (mode {stat.S_IMODE(path.stat().st_mode):04o})"
        yield wrong("permissions", found, f"chmod {mode} {path}; if others may have read a key already, replace it.")


def _lets_others_in(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o077)


def _wrong_python(distribution: str) -> Iterator[str]:
    needed, has = metadata.metadata(distribution)["Requires-Python"] or "", platform.python_version()
    if not SpecifierSet(needed).contains(has, prereleases=True):
        yield f"Python {has}, needed {needed}"


def _wrong_packages(distribution: str) -> Iterator[str]:
    for text in metadata.requires(distribution) or ():
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            has = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            yield f"{needed.name} is not installed, needed {needed.specifier or 'any'}"
            continue
        if not needed.specifier.contains(has, prereleases=True):
            yield f"{needed.name} {has}, needed {needed.specifier}"
