"""Metrics: what the store knows is read and not counted again; nobody can make up time series."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send

from common.errors import ProcessError
from common.paths import ServerHome
from server.applicants import Applicants
from server.figures import ROUND_SECONDS, damage, read_figures
from server.founding import found
from server.house import House, open_house
from server.metrics import OTHER, Metrics, MetricsPort
from server.settings import ServerSettings
from server.store import Store, Verdict

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


def scraped(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Scrape over HTTP: values by name and labels."""
    with MetricsPort(metrics.registry, "127.0.0.1", 0) as port:
        text = urlopen(f"http://127.0.0.1:{port.port}/metrics", timeout=30).read().decode()
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


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


def test_a_port_that_is_taken_is_told(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ProcessError, match=f"port {number} on 127.0.0.1 cannot be taken") as caught:
            MetricsPort(Metrics(house, lambda: NOWHERE).registry, "127.0.0.1", number)
    assert "metrics_port" in str(caught.value)


def test_a_silent_caller_keeps_no_other_from_being_answered(house: House) -> None:
    metrics = Metrics(house, lambda: NOWHERE)
    with (
        MetricsPort(metrics.registry, "127.0.0.1", 0) as port,
        socket.create_connection(("127.0.0.1", port.port)),
        urlopen(f"http://127.0.0.1:{port.port}/metrics", timeout=30) as answer,
    ):
        assert b"bottega_up 1.0" in answer.read()
