"""What the pages are about: one federation's ledger in a file, whom it is held to, and the server beside it, if any."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from common.errors import LedgerError

if TYPE_CHECKING:
    from pathlib import Path

    from security.audit.trust import Trust
    from server.dashboard.beside import Beside

WAIT_S = 5.0
"""How long a read waits for another process's lock."""


@dataclass(frozen=True)
class LedgerFile:
    """One federation's ledger.

    Attributes:
        file: SQLite, with the tables of a ledger; it is never written to.
        trust: Returns whose signatures count at this moment.
        kind: A server's own ledger, an auditor's copy of one, or what came in a bundle.
        beside: What else the server's home tells; None where there is none.
        refresh: Brings a copy up to date, now and then; None where there is nothing to ask.
    """

    file: Path
    trust: Callable[[], Trust]
    kind: Literal["server", "mirror", "bundle"]
    beside: Beside | None = None
    refresh: Callable[[], object] | None = None

    def open(self) -> sqlite3.Connection:
        """Open the file for reading alone.

        Raises:
            LedgerError: There is none, it is no SQLite file, or it holds no ledger.
        """
        try:
            db = sqlite3.connect(
                f"file:{quote(str(self.file))}?mode=ro", uri=True, isolation_level=None, check_same_thread=False,
                timeout=WAIT_S,
            )  # fmt: skip
            try:
                db.execute("PRAGMA query_only=ON")
                db.execute('SELECT "index", hash, entry FROM ledger_entries LIMIT 1').fetchall()
            except sqlite3.Error:
                db.close()
                raise
        except sqlite3.Error as cause:
            raise LedgerError(
                "the ledger cannot be opened", got=str(cause), expected="an SQLite file with a ledger in it",
                advice="A server keeps one from its first start on; an auditor's copy comes with `bottega audit sync`.",
            ) from None  # fmt: skip
        return db
