"""A real server with registered SuperNodes, and callers of its fleet port who do with HTTP and TLS what they like."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.superlink.main import create_app

from common.paths import ServerHome
from common.processes import Supervisor
from security.enrolment import MemberKeys
from security.https_tls import server_context
from security.keys import supernode_line
from security.names import Role, SpiffeId
from server import superlink
from server.control import control
from server.doors import FleetDoor, Newcomers
from server.fleet_gate import FLEET, FleetGate
from server.founding import add_site, found
from server.house import open_house
from server.ports import read_ports
from server.settings import ServerSettings
from server.supernodes import flower_key
from tests.e2e.test_superlink import server_process

FEDERATION = "fleet.test"
HEARTBEAT = FLEET + "send-node-heartbeat"
PATIENCE_S = 15.0
"""How long a test waits for what comes at once."""


@dataclass(frozen=True)
class Caller:
    """Who signs fleet calls: a SuperNode's key, and the number that Flower gave it."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))
    number: int = 7

    @property
    def public(self) -> bytes:
        """The public key, PEM."""
        return bytes(public_key_to_bytes(self.key.public_key()))

    def headers(self, age_s: float = 0.0) -> dict[str, str]:
        """Return what a SuperNode sends with a call, signed some time ago."""
        return self.stamped((dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age_s)).isoformat())

    def stamped(self, stamp: str) -> dict[str, str]:
        """Return the headers for a timestamp of any form."""
        return {
            "content-type": "application/protobuf",
            "flwr-public-key": b64encode(self.public).decode(),
            "flwr-timestamp": stamp,
            "flwr-signature": b64encode(sign_message(self.key, stamp.encode())).decode(),
        }

    def heartbeat(self) -> bytes:
        """Return the body of a call that any registered node may make."""
        return SendNodeHeartbeatRequest(node=Node(node_id=self.number), heartbeat_interval=30).SerializeToString()


@dataclass
class Port:
    """A fleet port, and who may call there."""

    home: ServerHome
    fleet: int
    nodes: dict[str, Caller]

    def trusting(self) -> ssl.SSLContext:
        """Return TLS that trusts the federation's authority."""
        return ssl.create_default_context(cafile=str(self.home.authority_certificate))

    @property
    def url(self) -> str:
        """Where it is."""
        return f"https://127.0.0.1:{self.fleet}"

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """Make one call on a connection of its own."""
        with httpx.Client(verify=self.trusting(), timeout=PATIENCE_S) as client:
            return client.post(self.url + path, content=body, headers=headers)

    def serves(self, name: str = "anna") -> bool:
        """Tell whether an honest node's call is answered."""
        node = self.nodes[name]
        answer = self.post(HEARTBEAT, node.heartbeat(), node.headers())
        return answer.status_code == 200 and SendNodeHeartbeatResponse.FromString(answer.content).success

    def plain(self) -> socket.socket:
        """Return a connection that has not spoken."""
        return socket.create_connection(("127.0.0.1", self.fleet), timeout=PATIENCE_S)

    @contextmanager
    def secure(self) -> Iterator[ssl.SSLSocket]:
        """Open a connection on which TLS is spoken."""
        with self.plain() as plain, self.trusting().wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            yield secure

    def told(self, request: bytes) -> bytes:
        """Send bytes and return all that comes back until the server hangs up."""
        with self.secure() as secure:
            with suppress(OSError):  # it need not hear us out
                secure.sendall(request)
            return until_closed(secure)


@dataclass
class Server(Port):
    """A port of a whole server, with its processes."""

    control: int

    @property
    def process(self) -> psutil.Process:
        """The process that listens."""
        return psutil.Process(read_ports(self.home)["pid"])

    def said(self, words: str) -> bool:
        """Tell whether the log says why a call was refused, or that so many were that it no longer says."""
        return within(lambda: any(w in self._log() for w in (words, "a flood of calls by 127.0.0.1")))

    def _log(self) -> str:
        return (self.home.root / "server.log").read_text()


def a_request(path: str, headers: dict[str, str], body: bytes = b"", method: str = "POST") -> bytes:
    """Return a request as it goes over the wire, with no header but these."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def until_closed(connection: socket.socket) -> bytes:
    """Return what comes until the other end hangs up, by whatever means; a timeout is an error."""
    parts: list[bytes] = []
    while True:
        try:
            part = connection.recv(65536)
        except TimeoutError:
            raise
        except OSError:
            part = b""
        if not part:
            return b"".join(parts)
        parts.append(part)


def within(done: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
    """Wait for something to come about."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def a_home(root: Path, names: tuple[str, ...]) -> tuple[ServerHome, dict[str, Caller]]:
    """Found a federation and let in sites."""
    home = ServerHome(root)
    told = ServerSettings(
        federation=FEDERATION,
        host="127.0.0.1",
        fleet_port=0,
        registry_port=0,
        door_port=0,
        control_port=0,
        metrics_port=0,
    )
    found(home, told, ["127.0.0.1"])
    callers = {}
    for name in names:
        keys = MemberKeys.generate(SpiffeId(FEDERATION, Role.SITE, name))
        assert keys.supernode is not None
        add_site(home, keys.public)
        callers[name] = Caller(keys.supernode)
    return home, callers


@contextmanager
def a_server(root: Path, names: tuple[str, ...]) -> Iterator[Server]:
    """Run a server, in processes of its own, that knows these sites."""
    home, callers = a_home(root, names)
    with Supervisor([server_process(home)]) as supervisor:
        supervisor.wait("the server", home.ports.exists, 60)
        ports = read_ports(home)
        with control(f"127.0.0.1:{ports['control']}", "list the nodes") as client:
            numbers = {n.public_key: n.node_id for n in client.ListNodes(ListNodesRequest()).nodes_info}
        nodes = {name: Caller(c.key, numbers[c.public]) for name, c in callers.items()}
        yield Server(home, ports["fleet"], nodes, ports["control"])


@contextmanager
def a_door(root: Path, newcomers: Newcomers) -> Iterator[Port]:
    """Run the SuperLink's outer door alone, in a thread, so that its patience can be made short."""
    home, callers = a_home(root, ("anna",))
    app = create_app()
    app.state.enable_supernode_auth = True
    lines = {name: supernode_line(caller.key.public_key()) for name, caller in callers.items()}
    superlink._register(app, lines)
    state = app.state.linkstate_factory.state()
    nodes = {n: Caller(c.key, state.get_node_id_by_public_key(flower_key(lines[n]))) for n, c in callers.items()}
    context = server_context(open_house(home).tls_key, home.certificate.read_bytes())
    config = uvicorn.Config(
        FleetGate(app, newcomers.leave), ssl_context_factory=lambda *_: context,
        lifespan="off", ws="none", log_config=None, timeout_graceful_shutdown=1,
    )  # fmt: skip
    door = FleetDoor(config, newcomers)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(door.serve([listener])))
        thread.start()
        try:
            assert within(lambda: door.started)
            yield Port(home, listener.getsockname()[1], nodes)
        finally:
            door.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
