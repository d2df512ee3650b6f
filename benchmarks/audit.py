"""What it costs that every round can be audited: ``python -m benchmarks.audit [--quick] [--json] [--dir DIR]``.

* *the ledger* (:mod:`benchmarks.audit_ledger`): how fast entries are appended, every batch of 100 flushed to the disk
  before the next; how long a proof takes that an entry is in, and that the ledger only grew, at 10^3 to 10^6 entries;
  what it needs on the disk; how long a check of the whole takes. Entries are like those of updates, about 500 bytes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import audit_ledger
from benchmarks.reporting import finish


def main() -> None:
    """Measure, print the tables and the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help="up to 10^5 entries instead of 10^6")
    parser.add_argument(
        "--dir", type=Path, help="a folder on the disk to measure; the system's temporary one if left out"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as made:
        flushed = audit_ledger.flush(Path(made))
        batches = audit_ledger.by_batch(Path(made))
        grown = audit_ledger.measure(Path(made), quick=args.quick)
    if not args.json:
        audit_ledger.show(grown, batches, flushed)
    bars, figures = audit_ledger.bars(grown), audit_ledger.figures(grown, batches, flushed)
    # What the audit adds to a round is measured here, with a bar of its own in `bars`.
    finish(bars, figures, quiet=args.json)


if __name__ == "__main__":
    main()
