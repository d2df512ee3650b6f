"""Releasing an adapter: from this moment on it is a file that anybody may be given, with a signed manifest beside it.

Until then a round's adapter lies in the server's vault, and goes to sites sealed. So that it gets out at all, and when,
is somebody's decision, and this is where it is made.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from common.errors import HomeError, RunError
from common.export import write_adapter
from security.run_order import read_order
from server.consent import against_release
from server.house import House
from server.manifests import write_manifest
from server.state import RunStates
from server.store import RoundRow, Store


class Released(NamedTuple):
    """What was released.

    Attributes:
        number: The round whose adapter it is.
        digest: SHA-256 (hex) of the weights file, as the record of the round has it.
        weights: Where that file is.
    """

    number: int
    digest: str
    weights: Path


def release(
    house: House,
    store: Store,
    run: str,
    folder: Path,
    number: int | None = None,
    despite: str = "",
    named: Collection[str] = (),
) -> Released:
    """Write the adapter of a closed round as files that other programs read, and record that it was done.

    Args:
        house: The server's.
        store: Of the house.
        run: The run's id.
        folder: Where; it must not exist, or be empty.
        number: Which round's; the last that trained when left out.
        despite: Why, although something stands against it (:mod:`server.consent`).
        named: Sites that agreed to be named in the manifest (:mod:`server.manifests`); the others get pseudonyms.

    Raises:
        RunError: There is no such run or round, something stands against the release and no reason was given, the
            round's state is not what its record says, or a site is to be named that the run did not ask.
        ProvenanceError: The manifest cannot be made.
        VaultError: The round's state is missing, or was changed.
        HomeError: There is something in the folder, or it cannot be written; then nothing is left there.
    """
    row = closed_round(store, run, number)
    if (against := against_release(store, run, row.round)) and not despite.strip():
        raise RunError(
            "this adapter is not to be released as it is", got="; ".join(against),
            expected="an adapter that was checked, and no site that taught it to object",
            advice="Check it (`bottega run check`), speak with the sites, or say why all the same: `--despite REASON`.",
        )  # fmt: skip
    reason = despite.strip() if against else ""
    order = read_order(store.run(run).order)
    adapter = RunStates(house.home, run, house.keys.vault).load(row.round, order.schema).adapter
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            weights = write_adapter(fresh, adapter, order.settings.base)
            digest = hashlib.sha256(weights.read_bytes()).hexdigest()
            if digest != row.adapter_digest:
                raise RunError("a round's state is not what its record says", got=digest, expected=row.adapter_digest)
            write_manifest(house, store, order, row, fresh, against=against, despite=reason, named=named)
            fresh.chmod(0o755)
            fresh.replace(folder)  # takes the place of nothing but an empty folder
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as cause:
        raise HomeError(
            "the adapter cannot be written", got=cause.strerror, expected=f"a new or empty folder {folder}",
            advice="Name another folder.",
        ) from None  # fmt: skip
    store.released(run, row.round, digest, reason, house.founder)
    return Released(row.round, digest, folder / weights.name)


def closed_round(store: Store, run: str, number: int | None = None) -> RoundRow:
    """Return a round that closed with an adapter; the last one when left out.

    Raises:
        RunError: There is no such run or round.
    """
    store.run(run)
    closed = [row for row in store.rounds(run) if row.adapter_digest is not None]
    found = [row for row in closed if number is None or row.round == number]
    if not found:
        raise RunError(
            "there is no such closed round", got=f"round {number}" if number else "none closed",
            expected=f"one of {', '.join(str(row.round) for row in closed)}" if closed else "a round that closed",
            advice="See `bottega run show RUN`.",
        )  # fmt: skip
    return max(found, key=lambda row: row.round)
