"""Attacks on the fleet port, and on the ports it must not lead to. Each test is named after its attack.

One real server for all of them: SuperLink, TLS, processes. After each attack an honest SuperNode is answered. That TLS
1.2, plaintext, and clients of another authority are refused, and that the control port is bound to 127.0.0.1, is proved
in `tests/e2e/test_superlink.py`; that a real SuperNode ends when it is let go, in `tests/e2e/test_courier_way.py`; what
admission says to what comes through the gate, in `tests/attacks/test_replay.py`.
"""

from __future__ import annotations

import itertools
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.superlink.main import create_app
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as Record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from security.names import Role
from server import doors
from server.doors import MOST_NEWCOMERS, Newcomers
from server.fleet_gate import FLEET, MOST_AT_ONCE, MOST_BYTES, MOST_OBJECTS
from server.opening import open_desk
from tests.attacks.fleet_port import (
    HEARTBEAT,
    Caller,
    Port,
    Server,
    a_door,
    a_request,
    a_server,
    until_closed,
    within,
)

METHODS = {path: kind for (_, path), kind in PROTOBUF_REQUEST_TYPES.items() if path.startswith(FLEET)}
HOST = {"Host": "127.0.0.1", "Content-Length": "0"}
UNKNOWN, UNSIGNED = "its key is not registered", "its headers are not signed by the key that they show, or not now"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with a_server(tmp_path_factory.mktemp("server"), ("anna", "bruno", "carla")) as server:
        yield server


@pytest.fixture(autouse=True)
def afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever was tried, an honest SuperNode is answered afterwards, and nothing of ours broke."""
    yield
    if "server" in request.fixturenames:
        running: Server = request.getfixturevalue("server")
        assert running.serves()
        assert "Traceback" not in (running.home.root / "server.log").read_text()


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


# --- the ports behind ---


def flowers_routes() -> list[str]:
    """Return the path of each route of Flower's application, however deep it is nested."""
    routes = (context.route for context in iter_route_contexts(create_app().routes))
    return sorted({r.path for r in routes if isinstance(r, APIRoute)} | {path for _, path in PROTOBUF_REQUEST_TYPES})


def test_every_path_of_the_control_and_runtime_apis(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    monkeypatch.setenv("FLWR_DATABASE", str(tmp_path / "superlink.db"))
    paths = [path for path in flowers_routes() if not path.startswith(FLEET)]
    assert {"/v1/control/start-run", "/v1/runtime/push-messages", "/health"} <= set(paths)
    assert len(paths) > 60
    signed = server.nodes["anna"].headers()
    for path in paths:
        answer = server.post(path, b"", signed)  # not even to a registered node
        assert (answer.status_code, answer.content) == (404, b""), path
    assert server.said("there is nothing but the fleet API here")


CLIMBING = [
    "/v1/fleet/../control/list-nodes", "/v1/fleet/%2e%2e/control/list-nodes", "/v1/fleet/%2E%2E%2Fcontrol/list-nodes",
    "/v1/fleet/..;/control/list-nodes", "/v1/fleet/x/../../control/list-nodes", "//v1/control/list-nodes",
    "/v1//control/list-nodes", "/v1/control//list-nodes", "/V1/CONTROL/LIST-NODES", "/v1/Control/list-nodes",
    "/v1/control/list-nodes/", "/v1/control/list-nodes?x=/v1/fleet/", "/v1/control/list-nodes#/v1/fleet/",
    "/./v1/control/list-nodes", "/v1/%63ontrol/list-nodes", "http://127.0.0.1/v1/control/list-nodes",
    "https://elsewhere.test/v1/control/list-nodes", "http:/v1/fleet/../control/list-nodes", "*",
    "/v1/fleet\\..\\control/list-nodes", "/v1/fleet/%00/../control/list-nodes",
    "/v1/fleet/%252e%252e/control/list-nodes", "/v1/fleet/list-nodes", "/v1/fleet/",
]  # fmt: skip


@pytest.mark.parametrize("path", CLIMBING)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_that_leads_elsewhere(path: str, method: str, server: Server) -> None:
    """A registered node is the better climber: it comes past the gate's check of its key."""
    signed = server.nodes["anna"].headers()
    answer = server.told(a_request(path, {**HOST, **signed, "Connection": "close"}, method=method))
    assert statuses(answer) in ([400], [404])


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8450", "x/v1/control/list-nodes?", "x/v1/runtime/pull-object?", "x/v1/runtime/pull-object#", "", "@"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/control/list-nodes", "/v1/fleet/pull-object"])
def test_a_host_header_that_holds_another_path(path: str, host: str, server: Server) -> None:
    """Flower asks for a signature by the path of an address that Starlette puts together with the Host header.

    `/v1/runtime/pull-object` takes the same record as its sister of the fleet, and asks for none.
    """
    body = METHODS[FLEET + "pull-object"]().SerializeToString()
    told = {"Host": host, "X-Forwarded-Host": host, "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Prefix": "/v1/control"}
    headers = {**told, "Content-Type": "application/protobuf", "Content-Length": "0", "Connection": "close"}
    assert statuses(server.told(a_request(path, headers, body))) in ([400], [401], [404])


def test_a_second_request_in_the_shadow_of_a_good_one(server: Server) -> None:
    """HTTP/1.1 pipelining: each request is judged by itself."""
    anna = server.nodes["anna"]
    good = a_request(
        HEARTBEAT,
        {**anna.headers(), "Host": "127.0.0.1", "Content-Length": str(len(anna.heartbeat()))},
        anna.heartbeat(),
    )
    bad = a_request("/v1/control/list-nodes", HOST)
    assert statuses(server.told(good + good + bad + good)) == [200, 200, 404]


@pytest.mark.parametrize("encoding", ["chunked", "Chunked", "identity, chunked", "chunked, identity", "xchunked"])
def test_a_request_hidden_in_the_body_of_another(encoding: str, server: Server) -> None:
    anna = server.nodes["anna"]
    hidden = a_request("/v1/control/list-nodes", HOST)
    lengths = {"Content-Length": str(len(anna.heartbeat())), "Transfer-Encoding": encoding, "Host": "127.0.0.1"}
    answer = server.told(a_request(HEARTBEAT, {**anna.headers(), **lengths}, anna.heartbeat() + b"0\r\n\r\n" + hidden))
    assert set(statuses(answer)) <= {200, 400, 404, 501}
    assert FLEET.encode() not in answer
    assert b"control" not in answer


@pytest.mark.parametrize("path", ["/v1/control/stream-logs", "/v1/fleet/pull-messages", "/"])
@pytest.mark.parametrize("to", ["websocket", "h2c", "TLS/1.0"])
def test_an_upgrade_to_another_protocol(to: str, path: str, server: Server) -> None:
    socket_headers = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
    headers = {"Host": "127.0.0.1", "Upgrade": to, "Connection": "Upgrade", **socket_headers}
    expected = [401] if path.startswith(FLEET) else [404]
    assert statuses(server.told(a_request(path, headers, method="GET"))) == expected


def test_the_control_port_from_another_address_of_this_machine(server: Server) -> None:
    mine = {a.address for card in psutil.net_if_addrs().values() for a in card if a.family == socket.AF_INET}
    for address in (mine | {"127.0.0.2"}) - {"127.0.0.1"}:
        with pytest.raises(OSError):  # noqa: PT011 (refused, or no way there)
            socket.create_connection((address, server.control), timeout=5).close()


# --- who calls ---

Signing = Callable[[Server], dict[str, str]]


def another_signature(server: Server) -> dict[str, str]:
    stranger = Caller().headers()
    return {**stranger, "flwr-public-key": server.nodes["anna"].headers()["flwr-public-key"]}


def another_time(server: Server) -> dict[str, str]:
    return {**server.nodes["anna"].headers(300), "flwr-timestamp": server.nodes["anna"].headers()["flwr-timestamp"]}


SIGNED: dict[str, tuple[Signing, str]] = {
    "a key that nobody registered": (lambda _: Caller().headers(), UNKNOWN),
    "a registered key and another signature": (another_signature, UNSIGNED),
    "a signature for another time": (another_time, UNSIGNED),
    "signed too long ago": (lambda s: s.nodes["anna"].headers(310), UNSIGNED),
    "signed for later": (lambda s: s.nodes["anna"].headers(-60), UNSIGNED),
    "signed for the end of time": (lambda s: s.nodes["anna"].stamped("9999-12-31T23:59:59.999999-23:59"), UNSIGNED),
    "signed for the first day": (lambda s: s.nodes["anna"].stamped("0001-01-01T00:00:00+23:59"), UNSIGNED),
    "a time without a zone": (lambda s: s.nodes["anna"].stamped("2026-01-01T00:00:00"), UNSIGNED),
    "no time": (lambda s: s.nodes["anna"].stamped("now"), UNSIGNED),
    "a signature in no base64": (lambda s: {**s.nodes["anna"].headers(), "flwr-signature": "?"}, UNSIGNED),
    "a key in no base64": (lambda s: {**s.nodes["anna"].headers(), "flwr-public-key": "?"}, "key cannot be read"),
    "nothing signed": (lambda _: {"content-type": "application/protobuf"}, UNKNOWN),
}


@pytest.mark.parametrize("how", SIGNED)
def test_a_fleet_call_with(how: str, server: Server) -> None:
    signing, words = SIGNED[how]
    node = Node(node_id=server.nodes["anna"].number)
    for path, kind in METHODS.items():
        record = kind(**{"node": node} if "node" in kind.DESCRIPTOR.fields_by_name else {})
        answer = server.post(path, record.SerializeToString(), signing(server))
        beginning = words == UNKNOWN and path == FLEET + "activate-node"
        assert answer.status_code == (412 if beginning else 401), path
        assert answer.headers["connection"] == "close"
        assert "Traceback" not in answer.text
    assert server.said(words)


def test_a_stranger_who_registers_himself(server: Server) -> None:
    """Flower's SuperLink lets anybody in who asks, unless it is told not to."""
    stranger = Caller()
    for path, status in (("register-node", 401), ("activate-node", 412)):
        body = METHODS[FLEET + path](public_key=stranger.public).SerializeToString()
        assert server.post(FLEET + path, body, stranger.headers()).status_code == status
    # Nor does a member bring one in, or take another out.
    body = METHODS[FLEET + "register-node"](public_key=stranger.public).SerializeToString()
    assert server.post(FLEET + "register-node", body, server.nodes["anna"].headers()).status_code == 401
    for name, status in (("bruno", 401), ("anna", 412)):
        gone = METHODS[FLEET + "unregister-node"](node_id=server.nodes[name].number).SerializeToString()
        assert server.post(FLEET + "unregister-node", gone, server.nodes["anna"].headers()).status_code == status
    assert server.serves("bruno")


def test_a_call_for_another_node(server: Server) -> None:
    anna, bruno = server.nodes["anna"], server.nodes["bruno"]
    body = PullMessagesRequest(node=Node(node_id=anna.number)).SerializeToString()
    assert server.post(FLEET + "pull-messages", body, bruno.headers()).status_code == 401


def test_fleet_headers_replayed_on_another_call(server: Server) -> None:
    """Flower's node signs a time and nothing else, so for five minutes whoever has its headers calls in its name.

    They pass inside TLS 1.3 alone. Who had them nevertheless gets at sealed envelopes, none of which it can open or
    change (`test_replay.py`); it is no other node by them, and after five minutes nobody.
    """
    anna, bruno = server.nodes["anna"], server.nodes["bruno"]
    seen = anna.headers()
    for node, status in ((anna, 200), (bruno, 401)):
        body = PullMessagesRequest(node=Node(node_id=node.number)).SerializeToString()
        for _ in range(2):
            assert server.post(FLEET + "pull-messages", body, seen).status_code == status
    assert server.post(HEARTBEAT, anna.heartbeat(), anna.headers(306)).status_code == 401


def pushed(sender: int, node: int, reply_to: str) -> bytes:
    told = Metadata(
        run_id=1, message_id="m", src_node_id=sender, dst_node_id=SUPERLINK_NODE_ID, reply_to_message_id=reply_to,
        message_type="train", created_at=time.time(), ttl=60,
    )  # fmt: skip
    request = PushMessagesRequest(node=Node(node_id=node), messages_list=[Message(metadata=told)])
    return request.SerializeToString()


def test_a_reply_under_another_nodes_number(server: Server) -> None:
    """Flower compares a reply's sender with who was asked, but not with who calls."""
    anna, bruno = server.nodes["anna"], server.nodes["bruno"]
    push = FLEET + "push-messages"
    for node in (anna, bruno):
        answer = server.post(push, pushed(anna.number, node.number, "a" * 64), bruno.headers())
        assert (answer.status_code, answer.json()) == (403, {"detail": "A node sends replies of its own"})
    assert server.said("it sends what is not a reply of its own")
    # Its own comes through the gate; that there is no such run, Flower says.
    own = server.post(push, pushed(bruno.number, bruno.number, "a" * 64), bruno.headers())
    assert own.status_code != 401
    assert "replies of its own" not in own.text


def test_a_reply_of_more_objects_than_an_envelope_has(server: Server) -> None:
    """Flower counts neither the messages of a call nor the objects of a reply, and makes room for each."""
    anna = server.nodes["anna"]
    own = PushMessagesRequest.FromString(pushed(anna.number, anna.number, "a" * 64))
    deep = ObjectTree(object_id="0" * 64)
    for at in range(1, 40):  # protobuf reads no deeper than a hundred levels
        deep = ObjectTree(object_id=f"{at:064d}", children=[deep])
    wide = ObjectTree(children=[ObjectTree(object_id=f"{at:064d}") for at in range(MOST_OBJECTS)])
    several = [deep] * (MOST_OBJECTS // 40 + 1)
    for request in (
        PushMessagesRequest(node=own.node, messages_list=[*own.messages_list] * 2),
        PushMessagesRequest(node=own.node, messages_list=own.messages_list, message_object_trees=[wide]),
        PushMessagesRequest(node=own.node, messages_list=own.messages_list, message_object_trees=several),
    ):
        answer = server.post(FLEET + "push-messages", request.SerializeToString(), anna.headers())
        assert (answer.status_code, answer.json()) == (413, {"detail": "A node sends one reply at a time"})
    few = PushMessagesRequest(node=own.node, messages_list=own.messages_list, message_object_trees=[deep])
    assert server.post(FLEET + "push-messages", few.SerializeToString(), anna.headers()).status_code != 413


def test_a_task_by_a_node_in_the_superlinks_name(server: Server) -> None:
    """Flower stores what is no reply as an instruction, for any node that it names."""
    bruno = server.nodes["bruno"]
    for sender in (SUPERLINK_NODE_ID, bruno.number):
        answer = server.post(FLEET + "push-messages", pushed(sender, bruno.number, ""), bruno.headers())
        assert answer.status_code == 403


def test_a_revoked_site_goes_on_with_its_valid_key(server: Server) -> None:
    carla = server.nodes["carla"]
    pull = PullMessagesRequest(node=Node(node_id=carla.number)).SerializeToString()
    with httpx.Client(verify=server.trusting()) as client:

        def polls() -> int:
            return client.post(server.url + FLEET + "pull-messages", content=pull, headers=carla.headers()).status_code

        assert polls() == 200
        open_desk(server.home).revoke(Role.SITE, "carla", "its key was stolen")
        assert polls() == 401  # on the connection that it had
    begin = ActivateNodeRequest(public_key=carla.public, heartbeat_interval=30).SerializeToString()
    assert server.post(FLEET + "activate-node", begin, carla.headers()).status_code == 412
    assert server.said(UNKNOWN)


# --- too much ---


def sent_before_it_hangs_up(port: Port, head: bytes, part: bytes, most: int) -> tuple[int, bytes]:
    """Send a request without end; return how many bytes were taken, and the answer."""
    with port.secure() as secure:
        secure.sendall(head)
        count = 0
        try:
            while count < most:
                secure.sendall(part)
                count += len(part)
        except OSError:
            pass
        return count, until_closed(secure)


@pytest.mark.parametrize("part", [b"x" * 65536, b"x: y\r\n" * 10_000], ids=["one", "many"])
def test_headers_without_end(part: bytes, server: Server) -> None:
    head = f"POST {HEARTBEAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nx-long: ".encode()
    count, answer = sent_before_it_hangs_up(server, head, part, 2**26)
    assert count < 2**26
    assert statuses(answer) in ([], [400])  # the answer may be lost to a caller who is still sending


def endless(headers: dict[str, str]) -> bytes:
    chunked = {"Host": "127.0.0.1", "Transfer-Encoding": "chunked"}
    return a_request(HEARTBEAT, {**chunked, **headers})


A_CHUNK = b"100000\r\n" + bytes(2**20) + b"\r\n"


def test_a_body_without_end_by_a_stranger(server: Server) -> None:
    """Flower reads the whole of it before it looks who sent it."""
    before = server.process.memory_info().rss
    count, answer = sent_before_it_hangs_up(server, endless(Caller().headers()), A_CHUNK, 2**28)
    assert count < 2**25  # what the kernels of both ends hold
    assert statuses(answer) in ([], [401])
    assert server.process.memory_info().rss < before + 2**26


def test_a_body_without_end_by_a_registered_node(server: Server) -> None:
    head = endless(server.nodes["anna"].headers())
    count, answer = sent_before_it_hangs_up(server, head, A_CHUNK, 2**28)
    assert count < MOST_BYTES + 2**25
    assert statuses(answer) in ([], [413])
    assert server.said("it is longer than")


def test_many_bodies_at_once_that_never_end_by_a_registered_node(server: Server) -> None:
    """Each holds what came of it in memory."""
    head = endless(server.nodes["anna"].headers())
    with ExitStack() as stack:
        for _ in range(MOST_AT_ONCE):
            stack.enter_context(server.secure()).sendall(head + A_CHUNK)
        anna = server.nodes["anna"]
        assert within(lambda: server.post(HEARTBEAT, anna.heartbeat(), anna.headers()).status_code == 503)
        assert server.serves("bruno")  # another node is answered meanwhile
    assert server.said("the same node sends many other calls")
    assert within(server.serves)


def test_a_body_that_announces_too_much(server: Server) -> None:
    announced = {**server.nodes["anna"].headers(), "Host": "127.0.0.1", "Content-Length": str(MOST_BYTES + 1)}
    assert statuses(server.told(a_request(HEARTBEAT, announced))) == [413]


def test_the_longest_body_that_may_be(server: Server) -> None:
    """The limit would be worthless if an honest answer met it."""
    headers = server.nodes["anna"].headers()
    assert server.post(HEARTBEAT, bytes(MOST_BYTES), headers).status_code == 400  # it is no record, says Flower
    assert server.post(HEARTBEAT, bytes(MOST_BYTES), headers).json()["detail"]


# --- too slow ---


@pytest.mark.parametrize("stage", ["in the handshake", "in the headers"])
def test_slowloris_with_more_connections_than_there_is_room_for(stage: str, server: Server) -> None:
    before = server.process.num_fds()
    with ExitStack() as stack:
        connections: list[socket.socket] = []
        for _ in range(MOST_NEWCOMERS + 40):
            if stage == "in the handshake":
                connections.append(stack.enter_context(server.plain()))
            else:
                connections.append(stack.enter_context(server.secure()))
                connections[-1].sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\n")
        assert within(lambda: server.process.num_fds() <= before + MOST_NEWCOMERS + 20)
        assert server.serves()  # while they are all there
        assert until_closed(connections[0]) == b""  # the oldest made room
    assert within(lambda: server.process.num_fds() <= before + 20)
    assert server.said("show no registered key: the oldest are closed")


@pytest.fixture
def hasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Port]:
    """The same door, with less patience."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    monkeypatch.setenv("FLWR_DATABASE", str(tmp_path / "superlink.db"))
    for name, seconds in (("HANDSHAKE_S", 0.8), ("HEADERS_S", 0.8), ("REQUEST_S", 1.5)):
        monkeypatch.setattr(doors, name, seconds)
    with a_door(tmp_path / "home", Newcomers()) as port:
        yield port
        assert port.serves()


def dribbled(connection: socket.socket, text: bytes) -> bytes:
    """Send a byte now and then, without end, and return what comes until the server hangs up."""
    connection.settimeout(0.1)
    came = b""
    for byte in itertools.islice(itertools.cycle(text), 100):
        try:
            connection.sendall(bytes([byte]))
            part = connection.recv(4096)
        except TimeoutError:
            continue
        except OSError:
            return came
        if not part:
            return came
        came += part
    raise AssertionError("the server listened to the end")


def test_slowloris_in_the_handshake(hasty: Port) -> None:
    with hasty.plain() as silent:
        assert until_closed(silent) == b""
    with hasty.plain() as slow:
        slow.sendall(b"\x16\x03\x01\x02\x00")  # a record of 512 bytes begins
        assert dribbled(slow, b"\x01\x00\x01\xfc\x03\x03") == b""


def test_slowloris_in_the_headers(hasty: Port) -> None:
    with hasty.secure() as silent:
        assert until_closed(silent) == b""
    with hasty.secure() as slow:
        slow.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\n")
        assert dribbled(slow, b"x: y\r\n") == b""


def test_slowloris_in_the_headers_of_a_second_request(hasty: Port) -> None:
    anna = hasty.nodes["anna"]
    length = {"Host": "127.0.0.1", "Content-Length": str(len(anna.heartbeat()))}
    with hasty.secure() as slow:
        slow.sendall(a_request(HEARTBEAT, {**anna.headers(), **length}, anna.heartbeat()))
        assert statuses(dribbled(slow, b"P")) == [200]


def test_slowloris_in_the_body(hasty: Port) -> None:
    length = {"Host": "127.0.0.1", "Content-Length": "1000"}
    with hasty.secure() as slow:
        slow.sendall(a_request(HEARTBEAT, {**hasty.nodes["anna"].headers(), **length}))
        assert dribbled(slow, b"x") == b""


def test_a_body_that_goes_on_after_its_refusal(hasty: Port) -> None:
    with hasty.secure() as slow:
        slow.sendall(endless({}))
        assert statuses(dribbled(slow, b"1\r\nx\r\n")) in ([], [401])


# --- garbage ---


@st.composite
def filled(draw: st.DrawFn, kind: type[Record], node: int, depth: int = 3) -> bytes:
    """A record of a kind with anything in its fields, now and then changed in a byte or cut short."""
    record = kind()
    _fill(draw, record, node, depth)
    data = bytearray(record.SerializeToString())
    change = draw(st.sampled_from(["none", "none", "flip", "cut"]))
    if data and change != "none":
        at = draw(st.integers(0, len(data) - 1))
        if change == "cut":
            del data[at:]
        else:
            data[at] ^= draw(st.integers(1, 255))
    return bytes(data)


def _fill(draw: st.DrawFn, record: Record, node: int, depth: int) -> None:
    fields: list[FieldDescriptor] = list(record.DESCRIPTOR.fields)  # type: ignore[arg-type]
    for field in fields:
        if field.name == "node_id":
            record.node_id = node  # type: ignore[attr-defined]
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        elif field.message_type is not None:
            part = getattr(record, field.name)
            if depth and draw(st.booleans() if field.name != "node" else st.just(value=True)):
                _fill(draw, part.add() if _many(field) else part, node, depth - 1)
                if not _many(field):
                    part.SetInParent()
        elif _many(field):
            getattr(record, field.name).extend(draw(st.lists(_value(field), max_size=2)))
        elif draw(st.booleans()):
            setattr(record, field.name, draw(_value(field)))


def _many(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _value(field: FieldDescriptor) -> st.SearchStrategy[object]:
    kinds: dict[int, st.SearchStrategy[object]] = {
        FieldDescriptor.CPPTYPE_STRING: st.binary(max_size=40)
        if field.type == FieldDescriptor.TYPE_BYTES
        else st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
        FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
        FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
        FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
        FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
        FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
        FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
        FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
        FieldDescriptor.CPPTYPE_ENUM: st.sampled_from([v.number for v in field.enum_type.values])
        if field.enum_type
        else st.just(0),
    }
    return kinds[field.cpp_type]


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.removeprefix(FLEET))
def test_garbage_on(path: str, server: Server) -> None:
    anna = server.nodes["anna"]
    with httpx.Client(verify=server.trusting(), base_url=server.url) as client:

        @given(st.binary(max_size=300) | filled(METHODS[path], anna.number), st.sampled_from([True, True, True, False]))
        @settings(max_examples=30, suppress_health_check=list(HealthCheck), database=None)
        def garbage(body: bytes, signed: bool) -> None:
            headers = anna.headers() if signed else {"content-type": "application/protobuf", "flwr-public-key": "AAAA"}
            answer = client.post(path, content=body, headers=headers)
            assert signed or answer.status_code in (401, 412)
            assert answer.status_code in (200, 400, 401, 403, 404, 409, 412, 422, 500)
            if answer.status_code == 500:  # Flower's own word for what it did not expect; the server goes on
                assert answer.json() == {"detail": "Internal server error."}
            assert b"Traceback" not in answer.content
            assert b'File "' not in answer.content

        garbage()


NO_HTTP = {
    "zeros": b"\x00" * 2000,
    "no request": b"GET\r\n\r\n",
    "no version": b"POST /v1/fleet/x HTTP/9.9\r\n\r\n",
    "empty lines": b"\r\n" * 5000,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a negative length": a_request(HEARTBEAT, {"Host": "x", "Content-Length": "-1"}),
    "a vast length": a_request(HEARTBEAT, {"Host": "x", "Content-Length": "9" * 30}),
    "a vast chunk": a_request(HEARTBEAT, {"Host": "x", "Transfer-Encoding": "chunked"}, b"F" * 20 + b"\r\n"),
}


@pytest.mark.parametrize("sent", NO_HTTP.values(), ids=NO_HTTP)
def test_garbage_in_place_of_http(sent: bytes, server: Server) -> None:
    with server.secure() as secure:
        secure.sendall(sent)
        secure.shutdown(socket.SHUT_WR)
        assert set(statuses(until_closed(secure))) <= {400, 401, 404, 413}
