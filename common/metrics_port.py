"""The port that Prometheus scrapes, of a server or of a site: plain HTTP, and no questions."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from common.errors import ProcessError

_App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class MetricsPort:
    """The open port. A context manager: it answers from its beginning on, and is closed at its end.

    On loopback it answers those alone who call it by an address or as ``localhost``. A page in a browser on the same
    machine can have a name of its own made to point here; by that name it is not let in.

    Args:
        registry: What is told.
        host: What it listens on; it asks nobody for credentials, so keep it to loopback.
        port: 0 lets the system choose.
        settings: The file whose ``metrics_port`` this is, for the error.

    Raises:
        ProcessError: The port is taken.
    """

    def __init__(self, registry: CollectorRegistry, host: str, port: int, settings: str) -> None:
        app: _App = make_wsgi_app(registry)
        try:
            self._server = make_server(
                host,
                port,
                _called_by_address(app) if is_loopback(host) else app,
                _Server6 if ":" in host else _Server,
                _Quiet,
            )
        except OSError as cause:
            raise ProcessError(
                f"port {port} on {host} cannot be taken", got=cause.strerror, expected="a free port",
                advice=f"Stop what uses the port, or set another `metrics_port` in {settings}.",
            ) from None  # fmt: skip
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    @property
    def port(self) -> int:
        """The open port."""
        return self._server.server_port

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def is_loopback(host: str) -> bool:
    """Return whether an address, or ``localhost``, is this machine's own, so that no other can come there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _called_by_address(app: _App) -> _App:
    def asked(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if not is_loopback(_name(environ.get("HTTP_HOST", "localhost"))):
            start("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"call this by its address\n"]
        return app(environ, start)

    return asked


def _name(host: str) -> str:
    """Return the name or address in a Host header, without the port (RFC 9110, section 7.2)."""
    if host.startswith("["):
        address, _, port = host[1:].partition("]")
        return "" if port.lstrip(":0123456789") else address
    return host.partition(":")[0].lower()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Take the port. The standard library's asks a name server what this machine is called, which nobody needs."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the standard library's name)
        """Say nothing of each scrape."""

    def handle(self) -> None:
        """Serve, or let go of a caller that hung up or said nothing in time."""
        with contextlib.suppress(OSError):
            super().handle()
