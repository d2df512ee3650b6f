"""The spool: sealed answers on disk, exactly as they came, until their round is aggregated.

They stay ciphertext there, and memory does not grow with the number of sites.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from common.errors import RunError
from security.files import replace

_LENGTH_BYTES = 4
"""A file is the letter's length, the letter, the body. No record format: a body may be larger than protobuf takes."""


@dataclass(frozen=True)
class Spool:
    """The spool of one round, in its own folder."""

    folder: Path

    def keep(self, site: str, letter: bytes, body: bytes | memoryview) -> None:
        """Write one site's sealed answer, atomically and flushed.

        Raises:
            RunError: It cannot be written, for example because the disk is full. Nothing else is touched.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise RunError("the spool cannot be made", got=cause.strerror or type(cause).__name__) from cause
        length = len(letter).to_bytes(_LENGTH_BYTES, "big")
        replace(self._file(site), [length, letter, body], error=RunError)

    def take(self, site: str) -> tuple[bytes, memoryview]:
        """Return ``(letter, body)`` of one site.

        Raises:
            RunError: It is not there, or cannot be read.
        """
        try:
            data = memoryview(self._file(site).read_bytes())
        except OSError as cause:
            raise RunError("a spooled answer cannot be read", got=type(cause).__name__) from cause
        end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
        return bytes(data[_LENGTH_BYTES:end]), data[end:]

    def clear(self) -> None:
        """Remove what is kept."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)  # with what a killed server left half written
        else:
            self.folder.unlink(missing_ok=True)

    def _file(self, site: str) -> Path:
        return self.folder / f"{site}.sealed"
