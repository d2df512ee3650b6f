"""The demo's record, taken away and put to the test: what an auditor elsewhere would find.

The federation's record is exported with what it takes to do every round again. Then, from that file alone and the
server's public key, everything is verified and every round replayed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from deploy.federation import Premises
from deploy.records import Place, open_record
from security.audit.bundle import Bundle
from security.audit.exporting import export
from security.audit.verification import verify_record
from server.house import open_house
from server.journal import SOFTWARE
from server.record import open_server_record
from server.replay_bundle import BundleReplays, disclosed
from server.replay_home import HomeReplays
from server.replaying import replay
from server.store import Store


def audited(premises: Premises, run: str) -> dict[str, Any]:
    """Export the demo's record, verify it, do every round of a run again, and return what was found.

    Args:
        premises: The demo's.
        run: The run's id.

    Raises:
        LedgerError: The record cannot be exported or read.
    """
    file = premises.root / "record.zip"
    file.unlink(missing_ok=True)
    with open_server_record(premises.server, sign=True) as record, Store(premises.server.database) as store:
        key = str(record.trust.server_keys[0])
        export(record, file, SOFTWARE, (), disclosed(HomeReplays(open_house(premises.server), store, run), run))
    return {"bundle": str(file), "key": key, **_found(file, key, run)}


def _found(file: Path, key: str, run: str) -> dict[str, Any]:
    place = Place(bundle=file, key=key)
    with open_record(place) as record, Bundle(file) as bundle, tempfile.TemporaryDirectory() as folder:
        check = verify_record(record)
        told = record.chronicle().runs[run]
        source = BundleReplays(bundle, run, record.trust.roster, Path(folder))
        again = [replay(source, number, told) for number in source.rounds]
        return {
            "entries": record.reader.size(),
            "faults": [str(fault.words) for fault in check.faults],
            "witnesses": {site: size for site, size in check.witnesses.items() if size},
            "replayed": len(again),
            "different": [one.number for one in again if one.differences],
        }
