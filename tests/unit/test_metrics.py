"""Metrics: what the store knows is read and not counted again; nobody can make up time series."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from common.paths import ServerHome
from server.applicants import Applicants
from server.figures import ROUND_SECONDS, damage, read_figures
from server.founding import found
from server.house import House, open_house
from server.metrics import OTHER, Metrics
from server.settings import ServerSettings
from server.store import Store, Verdict
from tests.scraping import Scraped, families_of, values

NOWHERE = "127.0.0.1:1"


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> House:
    home = ServerHome(tmp_path_factory.mktemp("server"))
    found(home, ServerSettings(federation="metrics.test"), ["127.0.0.1"])
    return open_house(home)


@pytest.fixture
def house(founded: House) -> House:
    for file in founded.home.root.glob("bottega.db*"):
        file.unlink()
    return founded


def scraped(metrics: Metrics) -> Scraped:
    return values(families_of(metrics.registry))


def test_what_the_store_knows_is_told_and_survives_a_restart(house: House) -> None:
    with Store(house.home.database) as store:
        store.start_run("r1", b"an order")
        for number, outcome in ((1, "aggregated"), (2, "kept"), (3, None)):
            store.open_round("r1", number, "train", 2)
            store.record("r1", number, Verdict("rossi", True, 0, "admitted"), {})
            store.record("r1", number, Verdict("bianchi", False, 10, "norm", "too large"), {})
            if outcome:
                store.close_round("r1", number, outcome, None)
    for told in (scraped(Metrics(house, lambda: NOWHERE)), scraped(Metrics(house, lambda: NOWHERE))):
        assert told["bottega_up",] == 1
        assert told["bottega_runs", "running"] == 1
        assert (told["bottega_rounds", "aggregated"], told["bottega_rounds", "open"]) == (1, 1)
        assert told["bottega_verdicts", "admitted", "rossi"] == 3
        assert told["bottega_verdicts", "norm", "bianchi"] == 3
        assert told["bottega_round_seconds_count",] == 2
        assert told["bottega_round_seconds_bucket", "+Inf"] == told["bottega_round_seconds_bucket", "1.0"] == 2
        assert told["bottega_members", "operator", "active"] == 1
        assert 0 < told["bottega_certificate_seconds_left", "server"] < 90 * 86_400
        assert told["bottega_disk_free_bytes",] > 0
        assert told["process_open_fds",] > 0


def test_a_part_that_cannot_be_read_is_said_to_be_so_and_costs_the_others_nothing(house: House) -> None:
    house.home.database.write_bytes(b"no SQLite file at all" * 100)
    told = scraped(Metrics(house, lambda: NOWHERE))
    assert (told["bottega_readable", "store"], told["bottega_readable", "superlink"]) == (0, 0)
    assert (told["bottega_readable", "roster"], told["bottega_roster_version",]) == (1, 2)
    assert not any(name == "bottega_members" for name, *_ in told)


def test_a_store_that_is_not_made_yet_or_holds_some_tables_alone_holds_nothing(house: House, tmp_path: Path) -> None:
    assert read_figures(house.home.database).runs == {}
    assert damage(house.home.database) == ""
    assert not house.home.database.exists(), "to look made it"
    Applicants(tmp_path / "half.db").close()
    figures = read_figures(tmp_path / "half.db")
    assert (figures.runs, figures.applicants, figures.newest_s) == ({}, (), 0)


def test_lengths_are_counted_by_class(house: House) -> None:
    with Store(house.home.database) as store:
        store.start_run("r1", b"an order")
        for number, seconds in enumerate((0.5, 3.0, 20.0, 9e9), start=1):
            store.open_round("r1", number, "train", 2)
            with store._write() as db:
                db.execute("UPDATE rounds SET closed_at=opened_at+?1 WHERE round=?2", (seconds, number))
    lengths = read_figures(house.home.database).lengths
    by_class = dict(zip(ROUND_SECONDS, lengths.up_to, strict=True))
    assert (by_class[1.0], by_class[10.0], by_class[30.0], by_class[3600.0], lengths.count) == (1, 2, 3, 3, 4)


def test_fleet_calls_are_counted_by_name_status_and_bytes_and_made_up_names_are_one(house: House) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 401 if "x" in scope["path"] else 200, "headers": []})
        await send({"type": "http.response.body", "body": b"12345"})

    async def call(path: str, body: bytes) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        async def send(_: Message) -> None:
            pass

        await counted({"type": "http", "path": path}, receive, send)

    metrics = Metrics(house, lambda: NOWHERE)
    counted = metrics.fleet(app)
    for path, body in (
        ("/v1/fleet/push-object", b"abc"), ("/v1/fleet/push-object", b"d"), ("/v1/fleet/x1", b""), ("/v1/x2", b"")
    ):  # fmt: skip
        asyncio.run(call(path, body))
    told = scraped(metrics)
    assert told["bottega_calls_total", "push-object", "200", "fleet"] == 2
    assert told["bottega_calls_total", OTHER, "401", "fleet"] == 2
    assert told["bottega_fleet_bytes_total", "push-object", "in"] == 4
    assert told["bottega_fleet_bytes_total", "push-object", "out"] == 10
    assert not any("x1" in part for name in told for part in name)


def test_two_servers_in_one_process_count_apart(house: House) -> None:
    one, other = Metrics(house, lambda: NOWHERE), Metrics(house, lambda: NOWHERE)
    one.calls.labels("registry", "GetRoster", "OK").inc()
    assert scraped(one)["bottega_calls_total", "GetRoster", "OK", "registry"] == 1
    assert not any(name == "bottega_calls_total" for name, *_ in scraped(other))


def judged(store: Store, run: str, number: int, p_values: dict[str, float], unsure: str = "") -> None:
    """Close a round that a detector judged."""
    store.open_round(run, number, "train", len(p_values))
    for site in p_values:
        store.record(run, number, Verdict(site, True, 0, "admitted"), {"epsilon": float(number), "p_value": 1.0})
    store.judged(run, number, [], unsure)
    for site, p in p_values.items():
        store.note(run, number, site, {"p_value": p, "site_epsilon": number / 2})
    store.close_round(run, number, "aggregated", None)


def test_scores_of_the_last_judged_round_and_the_last_word_on_epsilon_are_told_by_site(house: House) -> None:
    with Store(house.home.database) as store:
        store.start_run("r1", b"an order")
        judged(store, "r1", 1, {"rossi": 0.9, "bianchi": 0.8})
        judged(store, "r1", 2, {"rossi": 0.4, "bianchi": 0.002})
        store.open_round("r1", 3, "train", 3)
        store.record("r1", 3, Verdict("rossi", True, 0, "admitted"), {"epsilon": 3.0})
    told = scraped(Metrics(house, lambda: NOWHERE))
    assert (told["bottega_p_value", "r1", "rossi"], told["bottega_p_value", "r1", "bianchi"]) == (0.4, 0.002)
    assert (told["bottega_told_epsilon", "r1", "rossi"], told["bottega_told_epsilon", "r1", "bianchi"]) == (3, 2)
    assert told["bottega_site_epsilon", "r1", "rossi"] == 1


def test_a_number_that_a_site_calls_a_p_value_is_none_where_the_detector_did_not_judge(house: House) -> None:
    with Store(house.home.database) as store:
        store.start_run("r1", b"an order")
        store.open_round("r1", 1, "train", 1)
        store.record("r1", 1, Verdict("rossi", True, 0, "admitted"), {"p_value": 1.0})
        store.close_round("r1", 1, "aggregated", None)
        judged(store, "r1", 2, {"rossi": 1.0}, unsure="too few have been seen")
    assert not any(name == "bottega_p_value" for name, *_ in scraped(Metrics(house, lambda: NOWHERE)))


def test_the_queue_is_told_for_runs_that_are_running(house: House) -> None:
    with Store(house.home.database) as store:
        for run in ("old", "r1", "r2"):
            store.start_run(run, b"an order")
        store.open_round("old", 1, "train", 9)
        store.stop_run("old", "enough")
        store.open_round("r1", 1, "train", 3)
        store.record("r1", 1, Verdict("rossi", True, 0, "admitted"), {})
    told = scraped(Metrics(house, lambda: NOWHERE))
    assert told["bottega_runs_pending",] == 1
    assert {name: value for name, value in told.items() if name[0] == "bottega_sites_awaited"} == {
        ("bottega_sites_awaited", "r1"): 2, ("bottega_sites_awaited", "r2"): 0,
    }  # fmt: skip


def test_when_no_run_is_running_the_last_one_is_told_and_no_other(house: House) -> None:
    with Store(house.home.database) as store:
        for run in ("r1", "r2"):
            store.start_run(run, b"an order")
            judged(store, run, 1, {"rossi": 0.5})
            store.stop_run(run, "enough")
    told = scraped(Metrics(house, lambda: NOWHERE))
    assert {labels[1] for labels in told if labels[0] == "bottega_p_value"} == {"r2"}


def test_phases_of_rounds_are_added_up_and_a_store_without_them_is_read_all_the_same(house: House) -> None:
    with Store(house.home.database) as store:
        store.start_run("r1", b"an order")
    with closing(sqlite3.connect(house.home.database)) as db:
        db.execute("DROP TABLE IF EXISTS phases")
    assert read_figures(house.home.database).phases == {}
    with closing(sqlite3.connect(house.home.database)) as db, db:
        db.execute("CREATE TABLE phases (run TEXT, round INTEGER, phase TEXT, seconds REAL) STRICT")
        db.executemany(
            "INSERT INTO phases VALUES ('r1', ?, ?, ?)",
            [(1, "aggregate", 2.0), (2, "aggregate", 3.0), (2, "judge", 0.5)],
        )
    told = scraped(Metrics(house, lambda: NOWHERE))
    assert (told["bottega_phase_seconds_count", "aggregate"], told["bottega_phase_seconds_sum", "aggregate"]) == (2, 5)
    assert told["bottega_phase_seconds_sum", "judge"] == 0.5
