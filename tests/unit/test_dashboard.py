"""The dashboard and the guide speak of the metrics that the endpoints serve, and of no others."""

from __future__ import annotations

import datetime as dt
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry

from client.budget import Budget, Need
from client.budget_settings import BudgetSettings
from client.metrics import SiteMetrics
from client.settings import SiteSettings
from client.settling import join, settle
from client.units import Unit
from common.paths import ServerHome, SiteHome
from common.proto import bottega_pb2 as pb
from common.tracing import phase
from security.accounting import Steps
from security.authority import create_authority, save_certificate
from security.identity import Identity
from security.key_folder import open_vault
from security.names import Role, SpiffeId
from security.roster import Roster, sign_roster
from server.founding import add_site, found
from server.house import open_house
from server.metrics import Metrics
from server.settings import ServerSettings
from server.store import Store, Verdict
from tests.scraping import families_of

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy" / "grafana" / "bottega.json"
GUIDE = ROOT / "docs" / "guides" / "service.md"
SCRAPED = frozenset({"job", "instance"})  # labels that Prometheus itself adds
PARTS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
STANDS_FOR = {"$__rate_interval": "5m", "$__range": "6h", "$site": "rossi"}
FEDERATION = "dashboard.test"


@dataclass(frozen=True)
class Served:
    """The metrics of an endpoint: the labels of each name, as far as there is a sample."""

    labels: dict[str, frozenset[str]]
    families: frozenset[str]


def served(registry: CollectorRegistry) -> Served:
    labels: dict[str, frozenset[str]] = {}
    families = families_of(registry)
    for family in families:
        base = family.name
        for name in [base + part for part in PARTS.get(family.type, ("",))]:
            labels[name] = frozenset()
        for sample in family.samples:
            labels[sample.name] = labels.get(sample.name, frozenset()) | frozenset(sample.labels)
    made = frozenset(family.name for family in families if not family.name.endswith("_created"))
    return Served(labels, made)


class Nobody(BaseHTTPRequestHandler):
    """The Control API of a SuperLink that nobody is connected with: each answer is an empty record."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture(scope="module")
def superlink() -> Iterator[str]:
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Nobody) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, superlink: str) -> Served:
    """A server that has something of everything to tell."""
    home, site = ServerHome(tmp_path_factory.mktemp("server")), SiteHome(tmp_path_factory.mktemp("member"))
    found(home, ServerSettings(federation=FEDERATION), ["127.0.0.1"])
    add_site(home, settle(site, SiteSettings(federation=FEDERATION, name="rossi", server="127.0.0.1:1", data="none")))
    with Store(home.database) as store:
        store.start_run("r1", b"an order")
        store.open_round("r1", 1, "train", 2)
        store.record("r1", 1, Verdict("rossi", True, 0, "admitted"), {"epsilon": 1.0})
        store.judged("r1", 1, [], "")
        store.note("r1", 1, "rossi", {"p_value": 0.5, "site_epsilon": 1.0})
        store.close_round("r1", 1, "aggregated", None)
    with closing(sqlite3.connect(home.database)) as db, db:
        db.execute(
            "CREATE TABLE IF NOT EXISTS phases (run TEXT NOT NULL, round INTEGER NOT NULL, phase TEXT NOT NULL, "
            "seconds REAL NOT NULL, PRIMARY KEY (run, round, phase)) STRICT"
        )
        db.execute("INSERT INTO phases VALUES ('r1', 1, 'aggregate', 1.0)")
    metrics = Metrics(open_house(home), lambda: superlink)
    metrics.calls.labels("registry", "GetRoster", "OK").inc()
    metrics.fleet_bytes.labels("push-object", "in").inc()
    metrics._seen._until[SpiffeId(FEDERATION, Role.SITE, "rossi")] = dt.datetime.now(dt.UTC)
    return served(metrics.registry)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A site that has something of everything to tell."""
    folder = tmp_path_factory.mktemp("site")
    home, peer = SiteHome(folder / "rossi"), Identity.generate(SpiffeId(FEDERATION, Role.SERVER, "server"))
    settings = SiteSettings(federation=FEDERATION, name="rossi", server="127.0.0.1:1", data=str(folder))
    settle(home, settings)
    join(home, peer.peer, sign_roster(Roster.first(peer.peer, 0), peer), b"")
    save_certificate(home.certificate, create_authority(FEDERATION).certificate)
    budget = Budget(home.budget, open_vault(home), BudgetSettings())
    units = tuple(Unit(frozenset({f"{n:064x}"}), (n,)) for n in range(20))
    budget.reserve(Need("r1", Steps(30.0, 1.0, 10)), 1, units, int(time.time() * 1000))
    metrics = SiteMetrics(home, settings)
    metrics.tell(lambda: pb.Status(doing="r1 round 1", drawings=2, standing=pb.Standing(last_contact_ms=1)))
    metrics._envelopes.labels("answered").inc()
    metrics._bytes.labels("in").inc()
    with phase("task"), phase("train"):
        pass
    end = time.monotonic() + 60
    while not (told := served(metrics.registry)).labels.get("bottega_agent_epsilon_spent"):
        assert time.monotonic() < end
        time.sleep(0.05)
    return told


@pytest.fixture(scope="module")
def both(server: Served, site: Served) -> Served:
    labels = {
        name: server.labels.get(name, frozenset()) | site.labels.get(name, frozenset())
        for name in server.labels.keys() | site.labels.keys()
    }
    return Served(labels, server.families | site.families)


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return loaded


def targets(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [target for panel in dashboard["panels"] for target in panel.get("targets", [])]


def parsed(text: str) -> promql_parser.Expr:
    for variable, value in STANDS_FOR.items():
        text = text.replace(variable, value)
    assert "$" not in text
    return promql_parser.parse(text)


def selectors(expr: object) -> Iterator[promql_parser.VectorSelector]:
    """Yield what an expression reads."""
    if isinstance(expr, promql_parser.VectorSelector):
        yield expr
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        if (inner := getattr(expr, name, None)) is not None:
            yield from selectors(inner)
    for inner in getattr(expr, "args", None) or ():
        yield from selectors(inner)


def result_labels(expr: object, known: Served) -> frozenset[str]:
    """Return the labels that the series of a result have."""
    if isinstance(expr, promql_parser.VectorSelector):
        assert expr.name is not None
        return known.labels[expr.name] | SCRAPED
    if isinstance(expr, promql_parser.AggregateExpr):
        within, by = result_labels(expr.expr, known), frozenset(expr.modifier.labels if expr.modifier else ())
        assert by <= within, f"{expr.prettify()} groups by {by - within}"
        return by
    if isinstance(expr, promql_parser.BinaryExpr):
        sides = [result_labels(side, known) for side in (expr.lhs, expr.rhs)]
        if expr.modifier and expr.modifier.group_labels:
            gained = frozenset(expr.modifier.group_labels)
            assert gained <= sides[1]
            assert expr.modifier.matching is not None
            assert frozenset(expr.modifier.matching.labels) <= sides[0] & sides[1]
            return sides[0] | gained
        return sides[0] or sides[1]
    if isinstance(expr, promql_parser.Call):
        within = frozenset[str]().union(*(result_labels(inner, known) for inner in expr.args))
        return within - {"le"} if expr.func.name == "histogram_quantile" else within
    inner = getattr(expr, "expr", None) or getattr(expr, "vector_selector", None)
    return frozenset() if inner is None else result_labels(inner, known)


def test_every_expression_reads_metrics_that_are_served_by_labels_that_they_have(
    dashboard: dict[str, Any], both: Served
) -> None:
    assert len(targets(dashboard)) > 40
    for target in targets(dashboard):
        expr = parsed(target["expr"])
        read = list(selectors(expr))
        assert read, target["expr"]
        for selector in read:
            assert selector.name in both.labels, f"{selector.name} is not served: {target['expr']}"
            asked = {matcher.name for matcher in selector.matchers.matchers}
            assert asked <= both.labels[selector.name] | SCRAPED, target["expr"]
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert shown <= result_labels(expr, both), f"{target['legendFormat']}: {target['expr']}"


def test_the_test_itself_finds_a_metric_and_a_label_that_there_are_not(both: Served) -> None:
    assert "bottega_nothing" not in both.labels
    with pytest.raises(AssertionError, match="groups by"):
        result_labels(parsed("sum by (site) (bottega_rounds)"), both)


def test_every_family_that_is_served_is_on_the_dashboard(dashboard: dict[str, Any], both: Served) -> None:
    read = {str(s.name) for target in targets(dashboard) for s in selectors(parsed(target["expr"]))}
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in read}
    ours = {name for name in both.families if name.startswith("bottega_")}
    assert ours - shown == set()


def test_the_guide_lists_every_metric_that_is_served_and_no_other(both: Served) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    listed = {
        re.sub(r"_total$", "", name)
        for line in text.splitlines()
        if line.startswith("| `bottega_")
        for name in re.findall(r"`(bottega_\w+)`", line.split("|")[1])
    }
    assert listed == {name for name in both.families if name.startswith("bottega_")}


def test_its_variables_are_defined_and_every_panel_asks_the_chosen_source(
    dashboard: dict[str, Any], both: Served
) -> None:
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables["site"]["definition"]).groups()  # type: ignore[union-attr]
    assert label in both.labels[name]
    source = {"type": "prometheus", "uid": "${datasource}"}
    charts = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert all(panel["datasource"] == source for panel in charts)
    assert all(target["datasource"] == source for target in targets(dashboard))
    used = set(re.findall(r"\$\{?(\w+)", FILE.read_text(encoding="utf-8")))
    assert {name for name in used if not name.startswith("__")} == set(variables)


def test_it_can_be_imported(dashboard: dict[str, Any]) -> None:
    assert dashboard["id"] is None
    assert dashboard["schemaVersion"] == 42  # the last of the classic model
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) > 30
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert taken.isdisjoint(cells), panel["title"]
        taken |= cells


def test_what_prometheus_is_told_to_scrape_is_where_the_guide_says_it_is() -> None:
    jobs = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    told = {job["job_name"]: job["static_configs"][0]["targets"] for job in jobs}
    usual = ServerSettings(federation=FEDERATION)
    assert told == {
        "bottega-server": [f"{usual.metrics_host}:{usual.metrics_port}"], "bottega-site": ["127.0.0.1:8452"],
    }  # fmt: skip
    assert "metrics_port = 8452" in GUIDE.read_text(encoding="utf-8")
