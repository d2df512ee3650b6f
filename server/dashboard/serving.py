"""Serving the pages: on loopback to whoever opens the link that is told, elsewhere to members by TLS 1.3 alone."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn
from cryptography import x509

from common.errors import ProcessError
from security.https_tls import server_context
from server.dashboard.app import create_app
from server.dashboard.desk import Desk
from server.dashboard.visitors import CERTIFICATE, LinkDoor, MemberDoor
from server.doors import Door, FleetDoor, Newcomers, Talk
from server.ports import bound

if TYPE_CHECKING:
    import socket

    from cryptography.hazmat.primitives.asymmetric import ec

    from security.roster import Roster
    from server.dashboard.ledger_file import LedgerFile

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
"""By which names the pages may be called on this machine."""

_SHUTDOWN_S = 2
_ANOTHER = "name another one with --port"
_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 (looked for, not listened on)


@dataclass(frozen=True)
class Tls:
    """What it takes to let members in from elsewhere.

    Attributes:
        key: Of the server's certificate.
        certificate: PEM.
        authority: The certificate of the authority that certifies members, PEM.
        roster: Returns who belongs at this moment.
        reached_by: Name or address that members reach the server by.
    """

    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    authority: bytes
    roster: Callable[[], Roster]
    reached_by: str


def serve_here(file: LedgerFile, host: str, port: int, tell: Callable[[str], None]) -> None:
    """Serve the pages on this machine alone until SIGINT or SIGTERM.

    Args:
        file: The ledger.
        host: A loopback address.
        port: 0 lets the system choose.
        tell: Is told a link that is good once: at the beginning, and another whenever one was used.

    Raises:
        ProcessError: The port is taken.
        LedgerError: The ledger cannot be opened.
        IdentityError: Nobody's signature can be believed.
    """
    with bound(host, port, _ANOTHER) as listener:
        number = listener.getsockname()[1]

        def told() -> None:
            tell(f"http://{_written(host)}:{number}/login?token={door.link()}")

        door = LinkDoor(number, used=told)
        with Desk(file, door) as desk:
            app = create_app(desk, {*LOOPBACK_NAMES, host.lower()}, secure=False)
            config = uvicorn.Config(app, lifespan="off", **_common())
            asyncio.run(_until_stopped(Door(config), listener, desk, told))


def serve_members(file: LedgerFile, host: str, port: int, tls: Tls, tell: Callable[[str], None]) -> None:
    """Serve the pages to operators and auditors, by their certificates, until SIGINT or SIGTERM.

    Args:
        file: The ledger.
        host: What to listen on.
        port: 0 lets the system choose.
        tls: Who is let in, and as whom this server shows itself.
        tell: Is told the address of the pages.

    Raises:
        ProcessError: The port is taken, or certificate and key cannot be used.
        LedgerError: The ledger cannot be opened.
        IdentityError: Nobody's signature can be believed.
    """
    names = _names(x509.load_pem_x509_certificate(tls.certificate))
    try:
        context = server_context(tls.key, tls.certificate, tls.authority)
    except (OSError, ssl.SSLError) as cause:
        raise ProcessError("the server's certificate and key cannot be used", got=type(cause).__name__) from None
    with bound(host, port, _ANOTHER) as listener, Desk(file, MemberDoor(tls.roster)) as desk:
        app = create_app(desk, {name.lower() for name in names}, secure=True)
        config = uvicorn.Config(app, ssl_context_factory=lambda *_: context, lifespan="off", **_common())
        newcomers = Newcomers()
        server = FleetDoor(config, newcomers, partial(_Shown, newcomers))
        reached = tls.reached_by if host in _EVERYWHERE else host
        address = f"https://{_written(reached)}:{listener.getsockname()[1]}/"
        asyncio.run(_until_stopped(server, listener, desk, lambda: tell(address)))


class _Shown(Talk):
    """HTTP on a connection whose caller has shown a certificate, which each of its requests then carries."""

    def __init__(self, newcomers: Newcomers, *args: Any) -> None:  # noqa: ANN401 (as uvicorn's)
        super().__init__(*args)
        self._newcomers = newcomers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin: the handshake is over, and it has verified a certificate."""
        super().connection_made(transport)
        shown = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        certificate = x509.load_der_x509_certificate(shown) if shown else None
        self.app_state = {**self.app_state, CERTIFICATE: certificate}
        self._newcomers.leave(transport.get_extra_info("peername")[:2])


async def _until_stopped(
    server: uvicorn.Server, listener: socket.socket, desk: Desk, ready: Callable[[], None]
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve([listener]))
    waiting = asyncio.create_task(stop.wait())
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if not serving.done():
            ready()
        await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
        if serving.done() and not stop.is_set():
            raise ProcessError("the pages are served no longer", got=repr(serving.exception()))
    finally:
        waiting.cancel()
        desk.follower.stop()  # first, so that streams of events end
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)


def _common() -> dict[str, Any]:
    # No WebSockets, and nothing is believed that a header says of the caller's address.
    return {
        "ws": "none", "proxy_headers": False, "server_header": False, "log_config": None, "access_log": False,
        "timeout_graceful_shutdown": _SHUTDOWN_S,
    }  # fmt: skip


def _names(certificate: x509.Certificate) -> Sequence[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return [*found.get_values_for_type(x509.DNSName), *addresses]


def _written(host: str) -> str:
    """Return a host as URLs have it (RFC 3986, section 3.2.2)."""
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host
