"""The store: what was committed stays, the first verdict on a site stands, a damaged file is said to be so."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import RunError
from server.figures import read_figures
from server.store import Store, Verdict


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "bottega.db")
    store.start_run("r1", b"an order")
    return store


def test_a_run_is_remembered_across_connections(store: Store, tmp_path: Path) -> None:
    store.open_round("r1", 1, "train", 4)
    store.close_round("r1", 1, "aggregated", "d" * 64)
    store.close()
    again = Store(tmp_path / "bottega.db")
    assert again.last_closed("r1") == 1
    assert [(r.round, r.outcome, r.asked, r.adapter_digest) for r in again.rounds("r1")] == [
        (1, "aggregated", 4, "d" * 64)
    ]


def test_what_another_process_reads_and_leaves_takes_nothing_of_ours_away(store: Store, tmp_path: Path) -> None:
    """It would, if we had opened the file once beside SQLite: its locks go when any handle of this process closes."""
    Store(tmp_path / "bottega.db").submitted("r1", 1)
    look = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('SELECT * FROM runs'); db.close()"
    subprocess.run([sys.executable, "-c", look, str(tmp_path / "bottega.db")], check=True)
    store.open_round("r1", 1, "train", 4)
    count = (
        "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM rounds').fetchone())"
    )
    seen = subprocess.run(
        [sys.executable, "-c", count, str(tmp_path / "bottega.db")], check=True, capture_output=True, text=True
    )
    assert seen.stdout.strip() == "1"


def test_the_store_is_its_owners_alone(store: Store, tmp_path: Path) -> None:
    store.open_round("r1", 1, "train", 4)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_an_open_round_is_not_the_last_closed(store: Store) -> None:
    store.open_round("r1", 1, "train", 2)
    assert store.last_closed("r1") == 0


def test_a_measuring_round_is_not_the_last_closed(store: Store) -> None:
    store.open_round("r1", 1, "train", 2)
    store.close_round("r1", 1, "aggregated", None)
    store.open_round("r1", 2, "evaluate", 2)
    store.close_round("r1", 2, "measured", None)
    assert store.last_closed("r1") == 1


def test_the_first_verdict_on_a_site_stands(store: Store) -> None:
    store.open_round("r1", 1, "train", 2)
    store.record("r1", 1, Verdict("a", False, 10, "norm", "too large"), {})
    store.record("r1", 1, Verdict("a", True, 0, "admitted"), {"held_out_loss": 0.1})
    assert [(v.site, v.admitted, v.check) for v in store.verdicts("r1", 1)] == [("a", False, "norm")]
    assert store.metrics("r1", 1) == {}


def test_opening_a_round_again_forgets_the_try_that_was_cut_off(store: Store) -> None:
    store.open_round("r1", 1, "train", 2)
    store.record("r1", 1, Verdict("a", True, 0, "admitted", examples=3), {"held_out_loss": 0.5})
    store.open_round("r1", 1, "train", 3)
    assert store.verdicts("r1", 1) == []
    assert store.metrics("r1", 1) == {}
    assert store.rounds("r1")[0].asked == 3


def test_a_resumed_run_is_running_again_and_keeps_its_start(store: Store) -> None:
    began = store.run("r1").started_at
    store.submitted("r1", 7)
    store.end_run("r1", 7, "failed", "the disk was full")
    assert store.run("r1").error == "the disk was full"
    store.start_run("r1", b"an order")
    row = store.run("r1")
    assert (row.status, row.error, row.ended_at, row.started_at) == ("running", "", None, began)


def test_an_unknown_run_is_a_clear_error(store: Store) -> None:
    with pytest.raises(RunError, match="no such run; got nope"):
        store.run("nope")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "bottega.db"
    file.write_bytes(b"not a database at all, but long enough to look at" * 40)
    before = file.read_bytes()
    with pytest.raises(RunError, match="cannot be opened"):
        Store(file)
    assert file.read_bytes() == before


def test_a_failed_write_leaves_nothing_behind(store: Store) -> None:
    store.open_round("r1", 1, "train", 1)
    with pytest.raises(sqlite3.IntegrityError):
        store.record("r1", 1, Verdict("a", True, 0, "admitted"), {"loss": None})  # type: ignore[dict-item]
    assert store.verdicts("r1", 1) == []


def test_the_largest_number_that_flower_gives_a_run_is_kept(store: Store) -> None:
    assert store.run("r1").flower is None
    store.submitted("r1", 2**64 - 1)
    assert store.run("r1").flower == str(2**64 - 1)


def test_the_end_of_an_earlier_try_is_not_the_end_of_the_run(store: Store) -> None:
    store.submitted("r1", 7)
    store.stop_run("r1", "stopped by an operator")
    store.end_run("r1", 7, "failed", "the grid was closed")
    assert store.run("r1").status == "stopped", "what an operator stopped has not failed"
    store.start_run("r1", b"an order")
    store.submitted("r1", 8)
    store.end_run("r1", 7, "failed", "late")
    assert store.run("r1").status == "running"
    store.end_run("r1", 8, "finished")
    store.submitted("r1", 8)
    assert store.run("r1").status == "finished", "a run may end before its number is heard"


def test_the_phases_of_a_round_are_kept_and_forgotten_when_it_is_tried_again(tmp_path: Path) -> None:
    with Store(tmp_path / "bottega.db") as store:
        store.start_run("r1", b"an order")
        store.open_round("r1", 1, "train", 2)
        store.took("r1", 1, {"answers": 5.0})
        store.took("r1", 1, {"answers": 6.0, "aggregate": 0.5})
        store.took("r1", 2, {"answers": 1.0})
        assert read_figures(tmp_path / "bottega.db").phases == {"aggregate": (1, 0.5), "answers": (2, 7.0)}
        store.open_round("r1", 1, "train", 2)
        assert read_figures(tmp_path / "bottega.db").phases == {"answers": (1, 1.0)}
