"""One SQLite file, opened so that what is written stays written.

Every write is one transaction, flushed to disk before it returns (``synchronous=FULL``), so that a crash at any
moment loses nothing that was said to be kept.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from common.errors import RunError
from security.files import PRIVATE


class Database:
    """The server's SQLite file; made when absent. Safe to use from several threads and processes.

    Args:
        file: Where.
        schema: SQL that makes the tables that are not there yet.

    Raises:
        RunError: The file is no SQLite file, or is damaged; later, it cannot be written: another process holds it, or
            the disk is full. Then nothing of the transaction is kept.
    """

    def __init__(self, file: Path, schema: str) -> None:
        self._lock = threading.Lock()
        try:
            _make(file)
            self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.executescript(schema)
        except OSError as cause:
            raise RunError("the server's store cannot be opened", got=cause.strerror) from cause
        except sqlite3.DatabaseError as cause:
            raise RunError(
                "the server's store cannot be opened", got=str(cause), expected="an SQLite file of bottega"
            ) from cause

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """Hold one transaction: all of it is kept, or none."""
        with self._lock, _told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # on a full disk SQLite has rolled back by itself
                    self._db.execute("ROLLBACK")
                raise

    def _read(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()


@contextmanager
def _told() -> Iterator[None]:
    """Say in a sentence why SQLite could not write."""
    try:
        yield
    except sqlite3.OperationalError as cause:
        raise RunError(
            "the server's store cannot be written", got=str(cause), expected="a disk with room, and nobody else's lock",
            advice="Nothing of it was kept. Make room, or end the process that holds bottega.db; then try again.",
        ) from None  # fmt: skip


def _make(file: Path) -> None:
    """Make an empty file for its owner alone. SQLite gives the files beside it, which hold parts of it, the same mode.

    A file that is there must not even be opened: closing it would take away the locks that this process holds on it
    (sqlite.org/howtocorrupt.html, 2.2), and another process would then throw away what was written and not yet moved.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE))
