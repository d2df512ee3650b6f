"""The record in a server's own home, opened for reading only, whether the server runs or not."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import LedgerError
from common.export import adapter_weights
from common.paths import ServerHome
from security.audit.record import Record, Weights
from security.audit.trust import Trust
from security.files import read_public
from security.ledger import Query, Reader
from security.run_order import read_order
from server.house import House, open_house
from server.journal import Journal
from server.state import STATE_FILE, RunStates

_CLOSED = "SELECT run, round FROM rounds WHERE adapter_digest IS NOT NULL ORDER BY run, round"
_ORDER = 'SELECT "order" FROM runs WHERE run = ?'
_THERE = "SELECT count(*) FROM sqlite_master WHERE name = ?"


@contextmanager
def open_server_record(home: ServerHome, *, sign: bool = False) -> Iterator[Record]:
    """Open the record of a server.

    Args:
        home: The server's.
        sign: Have a checkpoint of all that is written signed first, by the server's key; nothing else is written.

    Raises:
        HomeError: It is no server's home.
        LedgerError: The server has not kept a ledger yet, or its file cannot be read.
        VaultError: The server's keys do not open.
    """
    house = open_house(home)
    if sign:
        with Journal(home.database) as journal:
            journal.checkpoint(house.identity)
    with reading(home.database) as query:
        reader = Reader(query)
        if not reader.rows(_THERE, "ledger_entries")[0][0]:
            raise LedgerError(
                "this server has kept no ledger yet", advice="Start it once with this version (`bottega server start`)."
            )
        published = house.published
        certificate = read_public(home.authority_certificate, error=LedgerError)
        trust = Trust.of(house.identity.peer, published.signed, certificate)
        yield Record(reader, trust, "the server's home", _adapters(house, reader))


@contextmanager
def reading(file: Path) -> Iterator[Query]:
    """Open an SQLite file for reading only; safe to use from several threads.

    Raises:
        LedgerError: It is missing, or none.
    """
    try:
        db = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False, timeout=30)
    except sqlite3.OperationalError as cause:
        raise LedgerError("the ledger cannot be read", got=str(cause), expected=f"{file.name} in the home") from None
    lock = threading.Lock()

    def query(sql: str, *values: object) -> list[tuple[Any, ...]]:
        with lock:
            return db.execute(sql, values).fetchall()

    with contextlib.closing(db):
        yield query


def _adapters(house: House, reader: Reader) -> dict[tuple[str, int], Weights]:
    """Return what reads the adapters of closed rounds that lie in the home."""
    if not reader.rows(_THERE, "rounds")[0][0]:
        return {}
    closed = [(str(run), int(number)) for run, number in reader.rows(_CLOSED)]
    return {
        (run, number): partial(_weights, house, reader, run, number)
        for run, number in closed
        if (house.home.round(run, number) / STATE_FILE).exists()
    }


def _weights(house: House, reader: Reader, run: str, number: int) -> bytes:
    ((signed,),) = reader.rows(_ORDER, run)
    state = RunStates(house.home, run, house.keys.vault).load(number, read_order(signed).schema)
    return adapter_weights(state.adapter)
