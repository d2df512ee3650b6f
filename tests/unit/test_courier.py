"""The courier: light to start, quick to say that nobody is there, and it carries bytes as they are."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given, settings
from hypothesis import strategies as st

from client.app import hand_over
from common.courier_records import from_envelope, to_envelope
from common.errors import AgentError, EnvelopeError
from common.proto import bottega_pb2 as pb

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
