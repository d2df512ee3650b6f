"""Metrics where they come from: a registry that a member really calls, and the endpoint of a site that really runs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from client.agent_socket import GRPC_OPTIONS
from common.paths import SiteHome
from common.proto import bottega_pb2 as pb
from common.proto import bottega_pb2_grpc as rpc
from common.proto import registry_pb2
from deploy.studios import make_studios
from security.authority import load_certificate
from security.calling import registry
from security.grpc_tls import server_credentials
from security.keys import pkcs8_pem
from security.names import Role
from server.house import open_house
from server.metrics import Metrics
from server.registry import serve_registry
from tests.integration.town import Town, a_town, keys_of
from tests.scraping import Scraped, families_at, families_of, values

BOTTEGA = [sys.executable, "-P", "-m", "deploy.cli"]
PATIENCE_S = 60


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with a_town(tmp_path_factory.mktemp("town")) as town:
        yield town


def test_how_long_a_members_certificate_holds_is_known_from_their_calls_while_they_are_a_member(town: Town) -> None:
    member, house = town.site("verdi"), open_house(town.home)
    metrics = Metrics(house, lambda: "127.0.0.1:1")
    credentials = server_credentials(
        pkcs8_pem(house.tls_key), town.home.certificate.read_bytes(), town.home.authority_certificate.read_bytes()
    )

    def told() -> Scraped:
        found = values(families_of(metrics.registry))
        return {name: value for name, value in found.items() if name[0] == "bottega_member_certificate_seconds_left"}

    server, port = serve_registry(town.desk, "127.0.0.1:0", credentials, seen=[metrics.grpc("registry")])
    try:
        with registry(member, keys_of(member, "verdi"), f"127.0.0.1:{port}") as stub:
            with pytest.raises(grpc.RpcError):
                stub.StopRun(registry_pb2.RunCall(run="x"), timeout=20)
            assert told() == {}, "of a call that was refused nothing is kept"
            stub.GetRoster(registry_pb2.GetRosterCall(known_version=1), timeout=20)
    finally:
        server.stop(1).wait()
    until = load_certificate(member.certificate).not_valid_after_utc.timestamp()
    assert told() == {
        ("bottega_member_certificate_seconds_left", "verdi", "site"): pytest.approx(until - time.time(), abs=20)
    }
    town.desk.revoke(Role.SITE, "verdi", "left")
    assert told() == {}


@pytest.fixture(scope="module")
def site(town: Town) -> SiteHome:
    """A site with drawings, that tells metrics at a port of the system's choice."""
    (studio,) = make_studios(town.root / "drawings", 1, seed=0, each=90)
    home = town.site("rossi")
    lines = [line for line in home.settings.read_text().splitlines() if not line.startswith(("data =", "registry ="))]
    told = [f'data = "{studio.folder}"', f'registry = "{town.address}"', "metrics_port = 0", *lines]
    home.settings.write_text("\n".join(told))
    return home


def started(site: SiteHome) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*BOTTEGA, "site", "start", "--part", "agent", "--home", str(site.root), "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def metrics_of(process: subprocess.Popen[str]) -> str:
    """Return where the site says that it tells its metrics."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"metrics: (http://127\.0\.0\.1:\d+/metrics)", json.loads(line)["message"]):
            return found[1]
    raise AssertionError("it did not say where")


def test_a_site_that_runs_tells_how_it_is_and_names_no_drawing(site: SiteHome) -> None:
    process = started(site)
    try:
        url = metrics_of(process)
        end, told = time.monotonic() + PATIENCE_S, values(families_at(url))
        while not (told["bottega_agent_up",] and ("bottega_agent_last_contact_seconds",) in told):
            assert process.poll() is None
            assert time.monotonic() < end, told
            time.sleep(0.2)
            told = values(families_at(url))
        with grpc.insecure_channel(f"unix:{site.socket}", options=GRPC_OPTIONS) as channel:
            with pytest.raises(grpc.RpcError):
                rpc.SiteAgentStub(channel).Answer(pb.Envelope(letter=b"no letter", body=b"at all"), timeout=30)
            status = rpc.SiteAgentStub(channel).GetStatus(pb.StatusRequest(), timeout=30)
        families = families_at(url)
        told = values(families)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert told["bottega_agent_info", "members.test", "rossi"] == 1
    assert told["bottega_agent_drawings", "train"] == status.drawings > 50
    assert (told["bottega_agent_busy",], told["bottega_agent_trouble",]) == (0, 0)
    assert told["bottega_agent_roster_version",] == status.standing.roster_version
    assert 0 < told["bottega_agent_certificate_seconds_left",] < 73 * 3600
    assert told["bottega_agent_epsilon_limit",] == 10
    assert all(value == 1 for name, value in told.items() if name[0] == "bottega_agent_readable")
    assert told["bottega_agent_envelopes_total", "unbelieved"] == 1
    assert told["bottega_agent_bytes_total", "in"] == len(b"no letter") + len(b"at all")
    said = {value for family in families for sample in family.samples for value in sample.labels.values()}
    words = {"rossi", "members.test", "train", "held_out", "in", "unbelieved"}
    parts = {"roster", "certificate", "budget", "runs", "disk"}
    assert said - words - parts == set(), "labels hold nothing else"


def test_a_port_that_is_taken_keeps_a_site_from_starting_and_is_told(site: SiteHome, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port, before = other.getsockname()[1], site.settings.read_text()
        site.settings.write_text(before.replace("metrics_port = 0", f"metrics_port = {port}"))
        process = started(site)
        _, log = process.communicate(timeout=PATIENCE_S)
    site.settings.write_text(before)
    assert process.returncode == 1
    last = json.loads(log.splitlines()[-1])["message"]
    assert f"port {port} on 127.0.0.1 cannot be taken" in last
    assert "`metrics_port` in site.toml" in last
