"""Attacks on the agent's UNIX socket, by whoever runs as the site's user: garbage, too much, too many, too slow.

That only its owner opens it, and that replayed, foreign and stale tasks are refused over it, is proved in
`tests/unit/test_agent.py`. After each attack an honest task is answered.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.agent import AgentService
from client.agent_socket import GRPC_OPTIONS, serve
from common.proto import bottega_pb2 as pb
from common.proto import bottega_pb2_grpc as rpc
from security.envelope import seal_body
from tests.unit.test_agent import Desk, Task, an_agent

ANSWER, STATUS = "/bottega.v1.SiteAgent/Answer", "/bottega.v1.SiteAgent/GetStatus"
REFUSED = {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED}
PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def desk() -> Desk:
    return Desk()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, desk: Desk) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("s")
    long_ago = {"horizon_ms": int(time.time() * 1000) - 10 * 24 * 3_600_000, "nonces": []}
    (home / "nonces.json").write_text(json.dumps(long_ago))
    agent = an_agent(desk, home / "nonces.json")
    server = serve(AgentService(agent, lambda: pb.Status(site="rossi")), home / "agent.sock")
    yield home / "agent.sock"
    server.stop(None).wait()


@pytest.fixture(autouse=True)
def afterwards(path: Path, desk: Desk) -> Iterator[None]:
    """Whatever was tried, nothing was worked on, and an honest task is answered."""
    before = desk.asked
    yield
    assert desk.asked == before
    with channel_to(path) as channel:
        letter, body = Task().sealed()
        answer = rpc.SiteAgentStub(channel).Answer(pb.Envelope(letter=letter, body=body), timeout=PATIENCE_S)
    assert answer.letter
    assert desk.asked == before + 1


def channel_to(path: Path) -> grpc.Channel:
    own = ("grpc.use_local_subchannel_pool", 1)  # else gRPC shares one connection between all channels to an address
    return grpc.insecure_channel(f"unix:{path}", options=[*GRPC_OPTIONS, own])


def refusal(channel: grpc.Channel, method: str, message: bytes) -> grpc.RpcError | None:
    """Send bytes to a method; return the error, or None where they were taken."""
    try:
        channel.unary_unary(method, None, None)(message, timeout=PATIENCE_S)
    except grpc.RpcError as why:
        return why
    return None


garbage = st.binary(max_size=400) | st.builds(
    lambda letter, body: pb.Envelope(letter=letter, body=body).SerializeToString(),
    st.binary(max_size=300),
    st.binary(max_size=60),
)


@pytest.mark.parametrize(
    "method", [ANSWER, STATUS, "/bottega.v1.SiteAgent/Train", "/grpc.reflection.v1.ServerReflection/X"]
)
def test_garbage_on_every_call(method: str, path: Path) -> None:
    with channel_to(path) as channel:

        @given(garbage)
        @settings(max_examples=150, suppress_health_check=list(HealthCheck), database=None)
        def sent(message: bytes) -> None:
            why = refusal(channel, method, message)
            if why is None:
                assert method == STATUS  # which asks for nothing, so that anything is a question
            else:
                assert why.code() in REFUSED
                assert "Traceback" not in str(why.details())

        sent()


@pytest.mark.parametrize(
    "text", [b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 500, b"\x00" * 9000]
)
def test_garbage_in_place_of_grpc(text: bytes, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(PATIENCE_S)
        plain.connect(str(path))
        plain.sendall(text)
        plain.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while plain.recv(4096):
                pass


def test_a_huge_message(path: Path) -> None:
    """There is no limit below that of an envelope, so it has to be refused by what it says."""
    huge = pb.Envelope(letter=bytes(2**25), body=bytes(2**26)).SerializeToString()
    with channel_to(path) as channel:
        why = refusal(channel, ANSWER, huge)
    assert why is not None
    assert why.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "the letter is too long" in str(why.details())


def test_a_letter_with_a_body_that_it_does_not_name(path: Path, desk: Desk) -> None:
    letter, _ = Task().sealed()
    with channel_to(path) as channel:
        answer = rpc.SiteAgentStub(channel).Answer(
            pb.Envelope(letter=letter, body=bytes(seal_body(bytes(2**20)).ciphertext)), timeout=PATIENCE_S
        )
    assert answer.letter  # a sealed refusal
    desk.asked -= 1  # the bench asked for the body, and got none


def test_many_connections_at_once(path: Path) -> None:
    with ExitStack() as stack:
        for _ in range(300):
            idle = stack.enter_context(socket.socket(socket.AF_UNIX))
            idle.connect(str(path))
        channels = [stack.enter_context(channel_to(path)) for _ in range(24)]
        with ThreadPoolExecutor(24) as callers:
            answers = list(callers.map(lambda channel: refusal(channel, ANSWER, b"\x0a\x03abc"), channels))
        assert [why.code() for why in answers if why is not None] == [grpc.StatusCode.FAILED_PRECONDITION] * 24
        assert refusal(channels[0], STATUS, b"") is None


def test_two_hundred_connections_that_never_say_what_they_ask_do_not_stop_a_real_one(path: Path, desk: Desk) -> None:
    gone = threading.Event()

    def silence() -> Iterator[bytes]:
        gone.wait()
        yield b""

    with ExitStack() as stack:
        channels = [stack.enter_context(channel_to(path)) for _ in range(200)]
        stack.callback(gone.set)
        calls = [channel.stream_unary(ANSWER, None, None).future(silence()) for channel in channels]

        letter, body = Task().sealed()
        with channel_to(path) as honest:
            answer = rpc.SiteAgentStub(honest).Answer(pb.Envelope(letter=letter, body=body), timeout=PATIENCE_S)
        assert answer.letter
        desk.asked -= 1  # this one was to be worked on
        for call in calls:  # all are hung up on in the end
            with pytest.raises(grpc.RpcError):
                call.result(timeout=PATIENCE_S)
