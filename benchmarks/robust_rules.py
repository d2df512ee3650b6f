"""What a robust rule costs: ``python -m benchmarks.robust_rules [--quick] [--json] [--folder DIR]``.

1,000 updates of 3.19 million float32 (both factors of rank 16 on the attention of Stable Diffusion 1.5), a quarter of
them hostile, 12.8 GB in all, kept encrypted on disk and read in blocks. Each rule starts from what is on disk:
distances between all pairs are computed anew for every rule that needs them.

* *seconds* beside those of the plain mean, which reads everything once;
* *peak memory*: the process's high-water mark while the rule runs, set back before each.

If the disk has no room for all updates, as many are taken as fit, and the table says how many.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.reporting import Bar, finish, table
from common.quantise import Flat
from common.settings import RobustSettings, RuleName
from server.robust import Updates, aggregate

NUMEL = 3_188_736
"""Numbers in an update: see ``attention_schema`` in :mod:`benchmarks.aggregation`."""

UPDATES, QUICK_UPDATES = 1000, 50
HOSTILE = 0.25
SPARE = 1.2
"""Nobody else's disk is filled up: this many times the room must be free."""

GIB = 2**30


def main() -> None:
    """Measure, print the table and the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_UPDATES} updates instead of {UPDATES}")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the updates are kept")
    args = parser.parse_args()
    wanted = QUICK_UPDATES if args.quick else UPDATES
    count = min(wanted, int(shutil.disk_usage(args.folder).free / SPARE / (NUMEL * 4)))
    with Updates(NUMEL, count, args.folder) as updates:
        adding = _measured("adding", partial(_fill, updates, count))
        runs = [_measured(name, partial(aggregate, updates, chosen)) for name, chosen in _rules(count)]
    if not args.json:
        _print(count, wanted, [adding, *runs])
    finish(
        [Bar("peak_memory_gib", max(run.peak_gib for run in [adding, *runs]), 8.0)],
        {"updates": count} | {f"{run.name}_s".replace(" + ", "_"): run.seconds for run in [adding, *runs]},
        quiet=args.json,
    )


@dataclass(frozen=True)
class Measured:
    """What one step cost."""

    name: str
    seconds: float
    peak_gib: float


def _rules(count: int) -> Iterator[tuple[str, RobustSettings]]:
    yield "mean", RobustSettings(rule="mean", hostile=0)
    for mixing in (False, True):
        for rule in get_args(RuleName):
            if rule != "mean":
                hostile = int(HOSTILE * count)
                yield f"nnm + {rule}" if mixing else rule, RobustSettings(rule=rule, mixing=mixing, hostile=hostile)


def _fill(updates: Updates, count: int) -> None:
    for seed in range(count):
        updates.add(_update(seed, flipped=seed < HOSTILE * count))


def _update(seed: int, *, flipped: bool) -> Flat:
    flat = np.random.default_rng(seed).standard_normal(NUMEL, dtype=np.float32)
    flat += np.float32(0.3)
    flat *= np.float32(-0.03 if flipped else 0.01)
    return flat


def _measured(name: str, work: Callable[[], object]) -> Measured:
    with suppress(OSError):  # where the system does not allow it, the peak is that of all steps so far
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    peak = next(line for line in Path("/proc/self/status").read_text("ascii").splitlines() if line.startswith("VmHWM"))
    return Measured(name, seconds, int(peak.split()[1]) * 1024 / GIB)


def _print(count: int, wanted: int, runs: list[Measured]) -> None:
    mean = next(run.seconds for run in runs if run.name == "mean")
    short = "" if count == wanted else f" ({wanted} do not fit on this disk)"
    table(
        f"{count} updates{short} of {NUMEL / 1e6:.2f} million float32, {count * NUMEL * 4 / 1e9:.1f} GB on disk",
        ("rule", "seconds", "times the mean", "peak memory, GiB"),
        [(run.name, f"{run.seconds:.1f}", f"{run.seconds / mean:.1f}", f"{run.peak_gib:.2f}") for run in runs],
    )


if __name__ == "__main__":
    main()
