"""The two doors of the SuperLink: everything on loopback, nothing but the fleet API outside, TLS 1.3 only."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from common.errors import ProcessError
from common.paths import ServerHome
from common.processes import ChildProcess, Supervisor
from server.founding import found
from server.ports import read_ports
from server.settings import ServerSettings

PROTOBUF = {"content-type": "application/protobuf"}


@dataclass(frozen=True)
class Running:
    """A server that is up."""

    home: ServerHome
    fleet: int
    control: int

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.home.authority_certificate))


def server_process(home: ServerHome) -> ChildProcess:
    command = [sys.executable, "-P", "-m", "deploy.cli", "server", "start", "--home", str(home.root)]
    return ChildProcess("server", command, home.root / "server.log")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = ServerHome(tmp_path_factory.mktemp("server"))
    settings = ServerSettings(
        federation="doors.test",
        host="127.0.0.1",
        fleet_port=0,
        registry_port=0,
        door_port=0,
        control_port=0,
        metrics_port=0,
    )
    found(home, settings, ["127.0.0.1", "localhost"])
    with Supervisor([server_process(home)]) as supervisor:
        patience = time.monotonic() + 60
        while not home.ports.exists():
            supervisor.check()
            assert time.monotonic() < patience
            time.sleep(0.1)
        ports = read_ports(home)
        yield Running(home, ports["fleet"], ports["control"])


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/openapi.json", "/health", "/v1/control/start-run", "/v1/control/register-node",
     "/v1/runtime/pull-messages", "/v1/fleet", "/v1//fleet/x", "/V1/fleet/x"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_outside_there_is_nothing_but_the_fleet_api(running: Running, path: str, method: str) -> None:
    url = f"https://127.0.0.1:{running.fleet}"
    with httpx.Client(verify=running.trusting()) as client:
        answer = client.send(httpx.Request(method, httpx.URL(url).copy_with(raw_path=path.encode())))
    assert answer.status_code == 404
    assert answer.content == b""


@pytest.mark.parametrize("path", ["/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run"])
def test_no_path_climbs_out_of_the_fleet_api(running: Running, path: str) -> None:
    request = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", running.fleet)) as plain,
        running.trusting().wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(request.encode())
        answer = b"".join(iter(lambda: secure.recv(4096), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404")
    assert body == b""


def test_a_stranger_cannot_use_the_fleet_api(running: Running) -> None:
    with httpx.Client(verify=running.trusting()) as client:
        answer = client.post(f"https://127.0.0.1:{running.fleet}/v1/fleet/pull-messages", content=b"", headers=PROTOBUF)
    assert answer.status_code in (400, 401, 403), answer.status_code


def test_tls_1_2_is_refused(running: Running) -> None:
    context = running.trusting()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", running.fleet)) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")


def test_tls_1_3_is_what_is_spoken(running: Running) -> None:
    with (
        socket.create_connection(("127.0.0.1", running.fleet)) as plain,
        running.trusting().wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.version() == "TLSv1.3"


def test_plain_http_is_not_answered_outside(running: Running) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{running.fleet}/v1/fleet/x")


def test_a_client_that_does_not_trust_the_authority_does_not_connect(running: Running) -> None:
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"https://127.0.0.1:{running.fleet}/v1/fleet/x")


def test_the_control_door_listens_on_loopback_alone(running: Running) -> None:
    listening = Path("/proc/net/tcp").read_text().splitlines()[1:]
    addresses = [line.split()[1] for line in listening if line.split()[3] == "0A"]
    ours = [a for a in addresses if int(a.split(":")[1], 16) == running.control]
    assert ours == [f"0100007F:{running.control:04X}"]


def test_a_port_in_use_is_named_and_nothing_is_touched(running: Running, tmp_path: Path) -> None:
    home = ServerHome(tmp_path / "second")
    settings = ServerSettings(
        federation="doors.test",
        host="127.0.0.1",
        fleet_port=running.fleet,
        registry_port=0,
        door_port=0,
        control_port=0,
        metrics_port=0,
    )
    found(home, settings, ["127.0.0.1"])
    with Supervisor([server_process(home)]) as supervisor, pytest.raises(ProcessError) as caught:
        supervisor.watch(threading.Event())
    assert f"port {running.fleet} on 127.0.0.1 cannot be taken" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert not (home.flower / "superlink.db").exists()
