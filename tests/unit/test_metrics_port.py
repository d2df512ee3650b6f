"""The port that Prometheus scrapes: told when it is taken, closed to who comes by a name of their own."""

from __future__ import annotations

import socket
from http.client import HTTPConnection
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, Gauge

from common.errors import ProcessError
from common.metrics_port import MetricsPort, is_loopback

EVERYWHERE = "0.0.0.0"  # noqa: S104 (a server's may be told to listen there)


@pytest.fixture
def registry() -> CollectorRegistry:
    found = CollectorRegistry()
    Gauge("one", "A metric", registry=found).set(1)
    return found


def test_a_port_that_is_taken_is_told(registry: CollectorRegistry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ProcessError, match=f"port {number} on 127.0.0.1 cannot be taken") as caught:
            MetricsPort(registry, "127.0.0.1", number, "site.toml")
    assert "`metrics_port` in site.toml" in str(caught.value)


def test_a_silent_caller_keeps_no_other_from_being_answered(registry: CollectorRegistry) -> None:
    with (
        MetricsPort(registry, "127.0.0.1", 0, "site.toml") as port,
        socket.create_connection(("127.0.0.1", port.port)),
        urlopen(f"http://127.0.0.1:{port.port}/metrics", timeout=30) as answer,
    ):
        assert b"one 1.0" in answer.read()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200), ("127.0.0.1:8452", 200), ("localhost:8452", 200), ("LOCALHOST", 200), ("[::1]:8452", 200),
        ("page.example", 403), ("page.example:8452", 403), ("127.0.0.1.page.example", 403), ("192.0.2.1", 403),
        ("", 403), ("[::1].page.example", 403),
    ],
)  # fmt: skip
def test_on_loopback_it_answers_who_calls_it_by_its_address(
    registry: CollectorRegistry, host: str, status: int
) -> None:
    with MetricsPort(registry, "127.0.0.1", 0, "site.toml") as port:
        call = HTTPConnection("127.0.0.1", port.port, timeout=30)
        call.putrequest("GET", "/metrics", skip_host=True)
        call.putheader("Host", host)
        call.endheaders()
        answer = call.getresponse()
        assert (answer.status, b"one 1.0" in answer.read()) == (status, status == 200)
        call.close()


def test_elsewhere_it_may_be_called_by_a_name(registry: CollectorRegistry) -> None:
    with MetricsPort(registry, EVERYWHERE, 0, "server.toml") as port:
        call = HTTPConnection("127.0.0.1", port.port, timeout=30)
        call.request("GET", "/metrics", headers={"Host": "metrics.studios.example"})
        assert call.getresponse().status == 200
        call.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_it_listens_on_the_loopback_of_ipv6_too(registry: CollectorRegistry) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with (
        MetricsPort(registry, "::1", 0, "site.toml") as port,
        urlopen(f"http://[::1]:{port.port}/metrics", timeout=30) as answer,
    ):
        assert b"one 1.0" in answer.read()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.0.2.1", "localhost.example", "", "127.1"])
def test_no_loopback(host: str) -> None:
    assert not is_loopback(host)
