"""Small files that must be whole or absent: keys, certificates, rosters and what the vault writes.

Every write goes to a temporary file in the same folder, is flushed to the disk, and then takes its
name in one step, so a crash or a full disk leaves either the old file or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cryptography.utils import Buffer

    from common.errors import BottegaError

PRIVATE = 0o600
"""The mode of a file that only its owner may read."""

PUBLIC = 0o644
"""The mode of a file that anybody on the machine may read."""


def write_new(path: Path, content: Buffer, *, error: type[BottegaError], mode: int = PRIVATE) -> None:
    """Write a file that must not exist yet, whole or not at all.

    Args:
        path: Where; its folder exists.
        content: All of it.
        error: The class to raise.
        mode: The file's permission bits.

    Raises:
        BottegaError: (as ``error``) something is already there (it is left untouched), or the file cannot be written.
    """
    temporary: Path | None = None
    try:
        temporary = _write_beside(path, [content], mode)
        # A hard link, unlike a rename, refuses to take the place of a file that is already there.
        os.link(temporary, path)
        _sync_folder(path.parent)
    except FileExistsError:
        raise error(
            f"{path} already exists and was left untouched",
            advice="Use the file that is there, or move it away first if it is truly no longer needed.",
        ) from None
    except OSError as problem:
        raise error(f"{path} cannot be written", got=_reason(problem)) from problem
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def replace(path: Path, parts: Iterable[Buffer], *, error: type[BottegaError], mode: int = PRIVATE) -> None:
    """Write a file, taking the place of an older one only when the new one is safely on the disk.

    Args:
        path: Where; its folder exists.
        parts: The content, in pieces, so that nothing large is joined in memory first.
        error: The class to raise.
        mode: The file's permission bits.

    Raises:
        BottegaError: (as ``error``) the file cannot be written; the message says how much space is free. The older
            file, if there was one, is untouched and the temporary one is gone.
    """
    pieces = [memoryview(part) for part in parts]
    temporary: Path | None = None
    try:
        temporary = _write_beside(path, pieces, mode)
        temporary.replace(path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as problem:
        needed = sum(piece.nbytes for piece in pieces)
        raise error(
            f"{path} cannot be written ({_free_space(path.parent)})",
            got=_reason(problem),
            expected=f"room and leave to write {needed} bytes",
        ) from problem
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def read_private(path: Path, *, error: type[BottegaError]) -> bytes:
    """Read a file that nobody but its owner may be able to read.

    Args:
        path: The file.
        error: The class to raise.

    Returns:
        Its content.

    Raises:
        BottegaError: (as ``error``) it is missing, unreadable, or its permission bits let others in.
    """
    try:
        with path.open("rb") as file:
            # The open file is asked, not the path, so that what is checked is what is read.
            check_private(os.fstat(file.fileno()), path, error=error)
            return file.read()
    except OSError as problem:
        raise error(f"{path} cannot be read", got=_reason(problem)) from problem


def check_private(found: os.stat_result, path: Path, *, error: type[BottegaError]) -> None:
    """Refuse a file or a folder whose permission bits let anybody but its owner in.

    Args:
        found: What the system says of it.
        path: Its name, for the message.
        error: The class to raise.

    Raises:
        BottegaError: (as ``error``) others may read or change it.
    """
    mode = stat.S_IMODE(found.st_mode)
    if not mode & 0o077:
        return
    wanted = "700" if stat.S_ISDIR(found.st_mode) else "600"
    raise error(
        f"others on this machine may read or change {path}",
        got=f"mode {mode:04o}",
        expected=f"mode 0{wanted}",
        advice=f"Run `chmod {wanted} {path}`; if others may have read a key already, replace it.",
    )


def read_public(path: Path, *, error: type[BottegaError]) -> bytes:
    """Read a file that holds no secret.

    Args:
        path: The file.
        error: The class to raise.

    Returns:
        Its content.

    Raises:
        BottegaError: (as ``error``) it is missing or unreadable.
    """
    try:
        return path.read_bytes()
    except OSError as problem:
        raise error(f"{path} cannot be read", got=_reason(problem)) from problem


@contextlib.contextmanager
def locked(path: Path, *, error: type[BottegaError]) -> Iterator[None]:
    """Hold a lock file, made if it is not there: whoever else wants it, in any process, waits.

    Args:
        path: The lock file; its folder exists.
        error: The class to raise.

    Raises:
        BottegaError: (as ``error``) it cannot be opened.
    """
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE)
    except OSError as problem:
        raise error(f"{path} cannot be locked", got=_reason(problem), expected="leave to write") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write_beside(path: Path, parts: Iterable[Buffer], mode: int) -> Path:
    """Write a temporary file in the folder of ``path``, flushed to the disk; it is removed if that fails."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        try:
            os.fchmod(descriptor, mode)
            for part in parts:
                _write_all(descriptor, memoryview(part))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:  # Ctrl-C too must leave no part of a file behind
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _write_all(descriptor: int, left: memoryview) -> None:
    """Write all of a view; one call of the system may take only a part of it."""
    while left.nbytes:
        left = left[os.write(descriptor, left) :]


def _sync_folder(folder: Path) -> None:
    """Flush a folder, so that the new name itself outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_space(folder: Path) -> str:
    """Say how much space the folder's disk has left."""
    try:
        return f"{shutil.disk_usage(folder).free} bytes free"
    except OSError:
        return "free space unknown"


def _reason(problem: OSError) -> str:
    """Say what the system said, without its error number and path."""
    return problem.strerror or type(problem).__name__
