"""The courier: light to start, quick to say that nobody is there, and it carries bytes as they are."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from client.agent_socket import GRPC_OPTIONS
from client.app import app, hand_over
from common.courier_records import from_envelope, to_envelope
from common.errors import AgentError, EnvelopeError
from common.proto import bottega_pb2 as pb
from common.proto import bottega_pb2_grpc as rpc

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "datasets", "opacus", "numba", "PIL")


def test_the_courier_loads_no_model_library() -> None:
    code = f"import sys, client.app; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_the_courier_loads_nothing_that_opens_envelopes() -> None:
    code = "import sys, client.app; print([m for m in sys.modules if m.split('.')[0] in ('security', 'server')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_where_no_agent_listens_the_courier_says_so_at_once(tmp_path: Path) -> None:
    dead = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(dead))
    for path in (dead, tmp_path / "nothing.sock"):
        began = time.monotonic()
        with pytest.raises(AgentError, match="the site agent gave no answer; got UNAVAILABLE"):
            hand_over(str(path), pb.Envelope(letter=b"l", body=b"b"), 60.0)
        assert time.monotonic() - began < 5


@given(letter=st.binary(max_size=500), body=st.binary(max_size=2000))
@settings(max_examples=60, deadline=None)
def test_what_goes_in_comes_out(letter: bytes, body: bytes) -> None:
    assert to_envelope(from_envelope(letter, memoryview(body))) == (letter, body)


@given(letter=st.binary(max_size=100), body=st.binary(max_size=100))
@settings(max_examples=20, deadline=None)
def test_what_goes_in_comes_out_after_flowers_own_wire(letter: bytes, body: bytes) -> None:
    content = from_envelope(letter, body)
    wire = {name: part.deflate() for name, part in get_all_nested_objects(content).items()}
    assert to_envelope(inflate_object_from_contents(content.object_id, wire)) == (letter, body)


def test_one_body_to_many_sites_is_one_object_to_flower() -> None:
    body = np.arange(50_000, dtype=np.uint8).tobytes()
    one, two = from_envelope(b"letter to anna", body), from_envelope(b"letter to bruno", body)
    other = from_envelope(b"letter to anna", body[:-1] + b"x")
    assert one["body"].object_id == two["body"].object_id
    assert one["body"].object_id != other["body"].object_id
    assert one["letter"].object_id != two["letter"].object_id


def an_array(kind: str = "bottega.sealed") -> ArrayRecord:
    return ArrayRecord({"sealed": Array(dtype="uint8", shape=(3,), stype=kind, data=b"abc")})


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"letter": ConfigRecord({"letter": b"l"})}),
        RecordDict({"body": an_array()}),
        RecordDict({"body": an_array(), "letter": ConfigRecord({"letter": "text"})}),
        RecordDict({"body": an_array(), "letter": ConfigRecord({"other": b"l"})}),
        RecordDict({"body": an_array("numpy.ndarray"), "letter": ConfigRecord({"letter": b"l"})}),
        RecordDict({"letter": an_array(), "body": ConfigRecord({"letter": b"l"})}),
    ],
    ids=["nothing", "no body", "no letter", "letter of text", "another key", "a numpy array", "the two swapped"],
)
def test_records_that_carry_no_envelope_are_refused(content: RecordDict) -> None:
    with pytest.raises(EnvelopeError):
        to_envelope(content)


class FarSide(rpc.SiteAgentServicer):
    """An agent for the courier to meet: it answers backwards, or as slowly as it is told to."""

    def Answer(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:  # noqa: N802
        if request.letter == b"slow":
            time.sleep(2)
        if request.letter == b"refused":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the envelope is of yesterday")
        return pb.Envelope(letter=request.letter[::-1], body=request.body[::-1])

    def GetStatus(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.Status:  # noqa: ARG002, N802
        return pb.Status()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("agent") / "a.sock"
    server = grpc.server(ThreadPoolExecutor(2), options=GRPC_OPTIONS)
    rpc.add_SiteAgentServicer_to_server(FarSide(), server)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    yield path
    server.stop(grace=0).wait()


def a_task(content: RecordDict, ttl: float = 60.0, kind: str = "train") -> Message:
    # What Flower sets in the process of an app before it starts.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    return Message(content, 7, kind, ttl=ttl)


def the_site(**node_config: str | int) -> Context:
    settings = {name.replace("_", "-"): value for name, value in node_config.items()}
    return Context(run_id=1, node_id=7, node_config=settings, state=RecordDict(), run_config={})


def test_the_courier_carries_more_than_grpcs_own_limit_both_ways(agent: Path) -> None:
    body = np.random.default_rng(1).bytes(9_000_000)  # gRPC's own limit is 4 MiB
    reply = app(a_task(from_envelope(b"abc", body)), the_site(agent_socket=str(agent)))
    assert to_envelope(reply.content) == (b"cba", body[::-1])


def test_an_agent_that_does_not_answer_in_the_time_of_the_message_is_given_up(agent: Path) -> None:
    began = time.monotonic()
    with pytest.raises(AgentError, match="got DEADLINE_EXCEEDED"):
        app(a_task(from_envelope(b"slow", b"body"), ttl=0.3), the_site(agent_socket=str(agent)))
    assert time.monotonic() - began < 1.5


def test_what_the_agent_says_of_an_envelope_that_it_refuses_is_passed_on(agent: Path) -> None:
    with pytest.raises(AgentError, match="got the envelope is of yesterday"):
        app(a_task(from_envelope(b"refused", b"body")), the_site(agent_socket=str(agent)))


@pytest.mark.parametrize("config", [{}, {"agent_socket": 5}])
def test_a_supernode_that_was_not_told_of_the_agent_says_so(config: dict[str, str | int]) -> None:
    with pytest.raises(AgentError, match="was not told where the site agent listens"):
        app(a_task(from_envelope(b"abc", b"body")), the_site(**config))


@pytest.mark.parametrize("kind", ["evaluate", "query", "train.other"])
def test_the_courier_knows_no_other_kind_of_message(agent: Path, kind: str) -> None:
    with pytest.raises(ValueError, match=r"No .* function registered"):
        app(a_task(from_envelope(b"abc", b"body"), kind=kind), the_site(agent_socket=str(agent)))
