"""What it costs that every round can be audited: ``python -m benchmarks.audit [--quick] [--json] [--dir DIR]``.

* *the ledger* (:mod:`benchmarks.audit_ledger`): how fast entries are appended, every batch of 100 flushed to the disk
  before the next; how long a proof takes that an entry is in, and that the ledger only grew, at 10^3 to 10^6 entries;
  what it needs on the disk; how long a check of the whole takes. Entries are like those of updates, about 500 bytes.
* *a round* (:mod:`benchmarks.audit_round`): what entries, flushes, proofs, receipts and co-signatures add to it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import audit_ledger, audit_round
from benchmarks.reporting import finish


def main() -> None:
    """Measure, print the tables and the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help="up to 10^5 entries instead of 10^6")
    parser.add_argument(
        "--dir", type=Path, help="a folder on the disk to measure; the system's temporary one if left out"
    )
    parser.add_argument(
        "--round-s", type=float, default=17.7, help="seconds of the round to compare with; by default a short one of "
        "`bottega demo`, which says how long each took",
    )  # fmt: skip
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as made:
        flushed = audit_ledger.flush(Path(made))
        batches = audit_ledger.by_batch(Path(made))
        grown = audit_ledger.measure(Path(made), quick=args.quick)
        added = audit_round.measure(Path(made) / "rounds", (4,) if args.quick else (4, 20, 100), 15)
    if not args.json:
        audit_ledger.show(grown, batches, flushed)
        audit_round.show(added, args.round_s)
    bars = [*audit_ledger.bars(grown), *audit_round.bars(added, args.round_s)]
    finish(bars, audit_ledger.figures(grown, batches, flushed), quiet=args.json)


if __name__ == "__main__":
    main()
