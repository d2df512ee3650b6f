"""Pieces of updates in a file that has no name, encrypted under a key that never leaves this process.

An admitted update is secret (ADR 4), so nothing plain goes to disk, not even for the minutes that a rule takes. The
key ends with the process and the file with its last handle: a crash leaves nothing behind to be cleaned up or read.

Pieces are read and written, not mapped. Mapped pages count as resident memory for as long as the system likes, and a
disk that fills up under a mapping ends the process instead of raising an error.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag

from common.errors import AggregationError
from common.quantise import Flat
from security import gcm

_ROOM = "Give the server more room on that disk, or let fewer sites take part in a round."


class SealedPieces:
    """``columns`` rows of ``rows`` pieces each, every piece of one size: all pieces of a column lie side by side.

    Args:
        folder: On a disk with room for all pieces.
        rows: Pieces in a column.
        columns: Columns.
        width: float32 numbers in a piece.

    Raises:
        AggregationError: The folder cannot be written to, or its disk has not the room.
    """

    def __init__(self, folder: Path, *, rows: int, columns: int, width: int) -> None:
        self._rows, self._writes = rows, 0
        self._sealed = gcm.empty(gcm.NONCE_BYTES + width * 4 + gcm.TAG_BYTES)
        self._key = os.urandom(gcm.KEY_BYTES)
        try:
            _check_room(folder, rows * columns * self._sealed.nbytes)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  closed by close()
        except OSError as error:
            raise _failed(error) from error

    def write(self, row: int, column: int, piece: Flat) -> None:
        """Keep a piece, float32 [width].

        Raises:
            AggregationError: The disk is full or broken.
        """
        self._writes += 1  # what is written again after a failure has another nonce
        nonce = self._writes.to_bytes(gcm.NONCE_BYTES, "big")
        self._sealed[: gcm.NONCE_BYTES] = nonce
        gcm.seal_into(self._key, nonce, gcm.flat(piece), self._name(row, column), self._sealed[gcm.NONCE_BYTES :])
        try:
            if os.pwrite(self._file.fileno(), self._sealed, self._offset(row, column)) < self._sealed.nbytes:
                raise AggregationError("a disk took only a part of an update", advice=_ROOM)
        except OSError as error:
            raise _failed(error) from error

    def read(self, row: int, column: int, out: Flat) -> None:
        """Fill ``out``, float32 [width], with a piece.

        Raises:
            AggregationError: The disk is broken, or what it holds is not what was written.
        """
        try:
            os.preadv(self._file.fileno(), [self._sealed], self._offset(row, column))
            nonce, sealed = bytes(self._sealed[: gcm.NONCE_BYTES]), self._sealed[gcm.NONCE_BYTES :]
            gcm.open_into(self._key, nonce, sealed, self._name(row, column), gcm.flat(out))
        except OSError as error:
            raise _failed(error) from error
        except InvalidTag as error:
            raise AggregationError("an update on disk is not what was written there") from error

    def close(self) -> None:
        """Give the room on disk back."""
        self._file.close()

    def _place(self, row: int, column: int) -> int:
        return column * self._rows + row

    def _offset(self, row: int, column: int) -> int:
        return self._place(row, column) * self._sealed.nbytes

    def _name(self, row: int, column: int) -> bytes:
        """Return what is authenticated with a piece: the place that it belongs to."""
        return self._place(row, column).to_bytes(8, "big")


class PlainPieces:
    """The same in memory, for rounds that fit into it.

    Raises:
        AggregationError: The system has not so much memory to give.
    """

    def __init__(self, *, rows: int, columns: int, width: int) -> None:
        try:
            self._pieces = np.empty((columns, rows, width), np.float32)  # takes memory only where it is written to
        except (MemoryError, ValueError) as error:
            raise AggregationError(
                "the updates of this round do not fit into memory",
                got=f"{rows * columns * width * 4 / 1e9:.1f} GB",
                advice="Let the server keep them on disk, or let fewer sites take part in a round.",
            ) from error

    def write(self, row: int, column: int, piece: Flat) -> None:
        """Keep a piece, float32 [width]."""
        self._pieces[column, row] = piece

    def read(self, row: int, column: int, out: Flat) -> None:
        """Fill ``out``, float32 [width], with a piece."""
        out[:] = self._pieces[column, row]

    def close(self) -> None:
        """Let go of the memory."""
        self._pieces = np.empty((0, 0, 0), np.float32)


def _check_room(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise AggregationError(
            "the updates of this round do not fit on the disk",
            got=f"{free / 1e9:.1f} GB free",
            expected=f"{wanted / 1e9:.1f} GB",
            advice=_ROOM,
        )


def _failed(error: OSError) -> AggregationError:
    return AggregationError("updates cannot be kept on disk", got=error.strerror, advice=_ROOM)
