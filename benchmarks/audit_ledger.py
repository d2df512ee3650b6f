"""The first half of :mod:`benchmarks.audit`: how the ledger bears a million entries."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.reporting import Bar, table
from security.checkpoint import Checkpoint, sign_checkpoint
from security.database import Database
from security.entries import PrivacyApplied, Update, write_entry
from security.keys import SigningKey
from security.ledger import LEDGER_SCHEMA, Reader, append, keep_checkpoint
from security.ledger_check import verify
from security.merkle import leaf_hash, verify_consistency, verify_inclusion

ORIGIN = "bench.example/bottega"
SIZES, QUICK_SIZES = (1_000, 10_000, 100_000, 1_000_000), (1_000, 10_000, 100_000)
BATCH = 100
"""Entries of one transaction: what a round of a hundred sites writes."""

PROOFS = 2_000
_PLACE = "0" * 64


@dataclass(frozen=True)
class Grown:
    """What was measured at one size.

    Attributes:
        size: Entries.
        rate: Entries a second on the way here from the size before, each batch flushed to the disk.
        inclusion: Seconds of each proof that an entry is in, sorted.
        consistency: Seconds of each proof of growth, sorted.
        computing: Seconds of the processor in each proof of either kind, sorted: what is left on a machine that does
            something else as well.
        verifying: Mean seconds in which a site verifies a proof that its entry is in.
        disk: Bytes of the file.
        content: Bytes of the entries alone.
        checked: Seconds in which the whole ledger is checked.
        memory: The process's high-water mark, MB.
    """

    size: int
    rate: float
    inclusion: list[float]
    consistency: list[float]
    computing: list[float]
    verifying: float
    disk: int
    content: int
    checked: float
    memory: float


class Kept(Database):
    """A ledger kept as the server's store keeps it."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, LEDGER_SCHEMA)
        self.reader = Reader(self._read)

    def write(self, entries: list[bytes]) -> None:
        """Append entries, durably."""
        with self._write() as db:
            append(db, entries, [None] * len(entries))

    def sign(self, key: SigningKey) -> None:
        """Keep a checkpoint of everything, and move what was written into the file itself."""
        size = self.reader.size()
        note = sign_checkpoint(Checkpoint(ORIGIN, size, self.reader.root(size)), key)
        with self._write() as db:
            keep_checkpoint(db, note)
        self._read("PRAGMA wal_checkpoint(TRUNCATE)")


def measure(folder: Path, *, quick: bool) -> list[Grown]:
    """Grow a ledger in a folder, and measure it at each size.

    Args:
        folder: On the disk that is to be measured.
        quick: Stop at a hundred thousand entries.
    """
    key, made = SigningKey(bytes(32)), _entries()
    return [_grown(folder / "ledger.db", size, made, key) for size in (QUICK_SIZES if quick else SIZES)]


def by_batch(folder: Path, batches: tuple[int, ...] = (1, 10, 100, 1_000)) -> dict[int, float]:
    """Return entries a second by the size of the batch, each flushed to the disk."""
    made = _entries()
    return {batch: _rate(folder / f"batch-{batch}.db", batch, made) for batch in batches}


def flush(folder: Path) -> float:
    """Return the seconds in which the disk takes 4 KiB and says that it has them: the floor under every transaction."""
    with (folder / "flushed").open("wb", buffering=0) as file:

        def written() -> None:
            file.write(bytes(4096))
            os.fsync(file.fileno())

        return sorted(_seconds(written) for _ in range(51))[25]


def show(grown: list[Grown], batches: dict[int, float], flushed: float) -> None:
    """Print the tables."""
    rows = [
        (
            f"{one.size:,}", f"{one.rate:,.0f}", _span(one.inclusion), _span(one.consistency), _span(one.computing),
            f"{one.verifying * 1e6:.0f}", f"{one.disk / 1e6:,.1f}", f"{(one.disk - one.content) / one.size:.0f}",
            f"{one.checked:.2f}", f"{one.memory:.0f}",
        )
        for one in grown
    ]  # fmt: skip
    columns = (
        "entries", f"appended/s, {BATCH} a batch", "inclusion proof, us (p50 / p99)", "consistency proof, us",
        "processor of both, us", "verified by a site, us", "file, MB", "bytes over each entry",
        "whole check, s", "memory, MB",
    )  # fmt: skip
    table("the ledger as it grows; every batch is flushed to the disk before the next", columns, rows)
    by_size = [(str(batch), f"{rate:,.0f}") for batch, rate in batches.items()]
    table(
        f"appending by batch (the disk flushes 4 KiB in {flushed * 1e3:.2f} ms)",
        ("entries a batch", "entries/s"),
        by_size,
    )


def bars(grown: list[Grown]) -> list[Bar]:
    """Return what is promised of the ledger itself."""
    slowest = max(_p99(proofs) for one in grown for proofs in (one.inclusion, one.consistency))
    return [
        Bar("ledger_appended_per_s", min(one.rate for one in grown), 5_000, at_least=True),
        Bar("ledger_proof_p99_ms", slowest * 1e3, 1.0),
    ]


def figures(grown: list[Grown], batches: dict[int, float], flushed: float) -> dict[str, float]:
    """Return everything that was measured, by name."""
    told = {f"ledger_appended_per_s_batch_{batch}": rate for batch, rate in batches.items()}
    told["disk_flush_ms"] = flushed * 1e3
    for one in grown:
        told |= {
            f"ledger_appended_per_s_{one.size}": one.rate,
            f"ledger_inclusion_p50_ms_{one.size}": one.inclusion[len(one.inclusion) // 2] * 1e3,
            f"ledger_inclusion_p99_ms_{one.size}": _p99(one.inclusion) * 1e3,
            f"ledger_consistency_p99_ms_{one.size}": _p99(one.consistency) * 1e3,
            f"ledger_proof_processor_p99_ms_{one.size}": _p99(one.computing) * 1e3,
            f"ledger_disk_mb_{one.size}": one.disk / 1e6,
            f"ledger_content_mb_{one.size}": one.content / 1e6,
            f"ledger_check_s_{one.size}": one.checked,
        }
    return told


def _rate(file: Path, batch: int, made: Iterator[bytes]) -> float:
    """Return entries a second in batches of one size."""
    with Kept(file) as kept:
        spent, turns = 0.0, max(20, 5_000 // batch)
        for _ in range(turns):
            entries = [next(made) for _ in range(batch)]
            spent += _seconds(partial(kept.write, entries))
    return batch * turns / spent


def _grown(file: Path, size: int, made: Iterator[bytes], key: SigningKey) -> Grown:
    with Kept(file) as kept:
        before = kept.reader.size()
        spent = 0.0
        for _ in range(before, size, BATCH):
            entries = [next(made) for _ in range(BATCH)]
            spent += _seconds(partial(kept.write, entries))
        kept.sign(key)
    with Kept(file) as kept:  # opened anew, with nothing of it in SQLite's own cache
        proofs = _proofs(kept.reader, size)
        checked = _seconds(lambda: verify(kept.reader, ORIGIN, key.public))
        content = int(kept.reader.rows("SELECT sum(length(entry)) FROM ledger_entries")[0][0])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    disk = file.stat().st_size
    return Grown(size, (size - before) / spent, *proofs, disk, content, checked, memory)


def _proofs(reader: Reader, size: int) -> tuple[list[float], list[float], list[float], float]:
    """Make proofs of entries and sizes by chance; every hundredth is verified."""
    chance = random.Random(1)  # noqa: S311 (which proofs, not a secret)
    inclusion: list[float] = []
    consistency: list[float] = []
    computing: list[float] = []
    verifying: list[float] = []
    for turn in range(PROOFS):
        new = chance.randrange(1, size + 1)
        index, old = chance.randrange(new), chance.randrange(1, new + 1)
        for spent, work in (
            (inclusion, partial(reader.inclusion, index, new)),
            (consistency, partial(reader.consistency, old, new)),
        ):
            began = time.thread_time()
            spent.append(_seconds(work))
            computing.append(time.thread_time() - began)
        if turn % 100 == 0:
            root, proof, leaf = reader.root(new), reader.inclusion(index, new), leaf_hash(reader.entry(index))
            verifying.append(_seconds(partial(verify_inclusion, leaf, index, new, proof, root)))
            verify_consistency(old, new, reader.consistency(old, new), reader.root(old), root)
    return sorted(inclusion), sorted(consistency), sorted(computing), sum(verifying) / len(verifying)


def _entries() -> Iterator[bytes]:
    """Yield entries like those of updates of a private run, each another."""
    privacy = PrivacyApplied(
        epsilon=1.25, delta=1e-5, unit="drawing", multiplier=1.1, clip=0.001, rate=0.25, steps=16, multiplicity=4
    )
    like = write_entry(
        Update(
            at="2026-01-01T00:00:00.000Z", run="20260101-000000-bench", round=7, site="a-studio", verdict="admitted",
            check=0, check_name="admitted", sealed=_PLACE, signed="1" * 64, examples=24, weight=0.01, norm=0.5,
            p_value=0.42, privacy=privacy,
        )
    )  # fmt: skip
    number = 0
    while True:
        yield like.replace(_PLACE.encode(), hashlib.sha256(b"%d" % number).hexdigest().encode())
        number += 1


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _p99(spent: list[float]) -> float:
    return spent[len(spent) * 99 // 100]


def _span(spent: list[float]) -> str:
    return f"{spent[len(spent) // 2] * 1e6:.0f} / {_p99(spent) * 1e6:.0f}"
