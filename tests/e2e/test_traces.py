"""A round seen from outside: one trace of server and sites, and metrics of both, and no drawing in any of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.processes import Supervisor
from common.settings import RunSettings, parse
from common.tracing import VARIABLE
from deploy.federation import Premises, prepare, start_server, start_sites, wait_for_sites
from deploy.studios import make_studios
from server.planning import start_run
from server.ports import free_port, read_ports
from server.store import Store
from tests.collector import Kept, a_collector
from tests.scraping import families_at, values

RUN = {"rounds": 1, "privacy": {"steps": 1, "multiplicity": 1}, "detector": False}
SERVER = {"open", "answers", "ballots", "aggregate", "keep", "ledger", "examine"}
SITE = {"task", "witness", "hold", "open", "train", "seal"}


def told_to_tell(premises: Premises, name: str) -> str:
    """Have a site tell metrics; return where."""
    settings, port = premises.site(name).settings, free_port("127.0.0.1")
    settings.write_text(f"metrics_port = {port}\n{settings.read_text()}")
    return f"http://127.0.0.1:{port}/metrics"


@pytest.mark.slow
def test_a_round_is_one_trace_of_server_and_sites_and_both_tell_its_phases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    premises = prepare(tmp_path / "town")
    studios = make_studios(premises.drawings, 2, seed=0, each=90)
    with a_collector() as collector, Supervisor() as supervisor:
        monkeypatch.setenv(VARIABLE, collector.endpoint)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        start_server(premises, supervisor, studios, RunSettings())
        urls = {studio.name: told_to_tell(premises, studio.name) for studio in studios}
        start_sites(premises, supervisor, studios)
        wait_for_sites(premises, supervisor, studios)
        run = start_run(premises.server, parse(RunSettings, RUN, "the run"))
        with Store(premises.server.database) as store:
            supervisor.wait("the run", lambda: store.run(run).status != "running", 240)
            assert store.run(run).status == "finished"
            spans = collector.until(lambda found: len(of_round(found, 1)) >= 1 + len(SERVER) + 2 * len(SITE))
            at_server = values(families_at(f"http://127.0.0.1:{read_ports(premises.server)['metrics']}/metrics"))
            at_sites = {name: values(families_at(url)) for name, url in urls.items()}
    names = {studio.name for studio in studios}
    trained = of_round(spans, 1)
    assert {kept.span.trace_id for kept in trained} == {root(trained).span.trace_id}
    assert {kept.span.trace_id for kept in of_round(spans, 2)} == {root(of_round(spans, 2)).span.trace_id}
    assert {kept.name for kept in trained if kept.resource["service.name"] == "bottega-server"} == SERVER | {"round"}
    for name in names:
        own = {kept.name: kept for kept in trained if kept.resource.get("bottega.site") == name}
        assert set(own) == SITE
        assert own["task"].span.parent_span_id == root(trained).span.span_id
        assert own["task"].said["bottega.outcome"] == "trained"
        assert own["train"].span.parent_span_id == own["task"].span.span_id
        told = at_sites[name]
        assert (told["bottega_agent_tasks_total", "trained"], told["bottega_agent_tasks_total", "looked"]) == (1, 1)
        assert told["bottega_agent_envelopes_total", "answered"] == 2
        assert told["bottega_agent_phase_seconds_count", "train"] == 1
        assert told["bottega_agent_phase_seconds_sum", "train"] > 0
    assert {name[1] for name in at_server if name[0] == "bottega_phase_seconds_count"} == SERVER
    assert {name[2] for name in at_server if name[0] == "bottega_told_epsilon"} == names
    assert at_server["bottega_sites_awaited", run] == 0
    drawings = {file.stem.encode() for file in premises.drawings.rglob("*") if file.is_file()}
    assert not any(word in body for body in collector.bodies for word in (*drawings, b"drawing of", b"/drawings"))


def of_round(spans: list[Kept], number: int) -> list[Kept]:
    return [kept for kept in spans if kept.said.get("bottega.round") == number]


def root(spans: list[Kept]) -> Kept:
    (found,) = [kept for kept in spans if kept.name == "round"]
    return found
