"""Faults that the round loop once had; each left its test."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from common.adapters import pack
from common.courier_records import from_envelope
from common.proto import bottega_pb2 as pb
from security.envelope import Kind, peek_header, seal_body, seal_letter
from server import pulling, rounds
from server.pulling import PULL_MOST
from tests.integration.federation import RUN, SCHEMA, SETTINGS, Federation, Way

HONEST = ("anna", "bruno", "carla")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "GRACE_S", 0.3)
    monkeypatch.setattr(pulling, "POLL_S", 0.01)


def test_a_claim_of_more_examples_than_a_database_holds_is_refused_and_the_run_goes_on(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST)
    easel = federation.sites["anna"].easel
    honest = easel.answer

    def boastful(*words: Any) -> Any:  # noqa: ANN401
        answer = honest(*words)
        answer.manifest.examples = 2**64 - 1
        return answer

    easel.answer = boastful  # type: ignore[method-assign, assignment]
    federation.play()
    assert federation.checks() == {"anna": "claims", "bruno": "admitted", "carla": "admitted"}


def test_a_file_in_the_place_of_the_spool_refuses_the_answers_and_not_the_run(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST)
    spool = federation.home.spool(RUN, 1)

    def put_a_file_there() -> None:
        if not spool.exists():
            spool.parent.mkdir(parents=True, exist_ok=True)
            spool.write_text("in the way")

    federation.play(federation.post(on_pull=put_a_file_there))
    assert set(federation.checks(1).values()) == {"spooled"}
    assert federation.outcome(1) == "kept"


def test_what_a_killed_server_left_half_written_in_the_spool_is_cleared(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST)
    spool = federation.home.spool(RUN, 1)
    spool.mkdir(parents=True)
    (spool / ".anna.sealed.abc.tmp").write_bytes(b"half")
    federation.play()
    assert set(federation.checks(1).values()) == {"admitted"}
    assert not spool.exists()


def test_of_two_different_answers_to_one_task_the_first_is_averaged(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "two", HONEST)
    anna = federation.sites["anna"]
    sent_once = anna._sent

    def sent_twice(letter: bytes, body: bytes) -> list[RecordDict]:
        head = peek_header(letter)
        if head.round_number != 1:
            return sent_once(letter, body)
        poison = seal_body(pack(np.full(SCHEMA.numel("B"), 0.2, np.float32), SCHEMA, "B", "fp32"))
        second = seal_letter(
            kind=Kind.UPDATE, run=head.run, round_number=1, in_reply_to=head.in_reply_to,
            manifest=pb.Update(examples=1000).SerializeToString(), body=poison, sender=anna.identity,
            recipient=anna.server, now_ms=int(time.time() * 1000),
        )  # fmt: skip
        return [from_envelope(letter, body), from_envelope(second, poison.ciphertext)]

    anna._sent = sent_twice  # type: ignore[method-assign]
    federation.play()
    undisturbed = Federation(tmp_path / "one", HONEST)
    undisturbed.play()
    assert federation.digest() == undisturbed.digest()


def test_quick_refused_answers_do_not_close_the_round_on_slower_honest_sites(tmp_path: Path) -> None:
    federation = Federation(tmp_path, (*HONEST, "mallory", "trudy"))
    for name in ("mallory", "trudy"):
        federation.sites[name].behave(Way.NAN)
    for name in HONEST:
        federation.sites[name].behave(Way.HONEST, 1.0)
    federation.play()
    assert {federation.checks(1)[name] for name in HONEST} == {"admitted"}
    assert federation.outcome(1) == "aggregated"


def test_silent_sites_do_not_hide_the_answers_of_the_others(tmp_path: Path) -> None:
    names = tuple(f"s{i:02d}" for i in range(11))
    federation = Federation(tmp_path, names, SETTINGS.model_copy(update={"deadline_s": 3.0}))
    for name in names[:PULL_MOST]:
        federation.sites[name].behave(Way.SILENT)
    federation.play()
    assert {federation.checks(1)[name] for name in names[PULL_MOST:]} == {"admitted"}


def test_answers_that_are_announced_and_never_sent_hold_up_nobody(tmp_path: Path) -> None:
    names = tuple(f"s{i:02d}" for i in range(11))
    federation = Federation(tmp_path, names, SETTINGS.model_copy(update={"deadline_s": 3.0}))
    for name in names[: PULL_MOST - 1]:
        federation.sites[name].behave(Way.ANNOUNCES)
    federation.play()
    assert {federation.checks(1)[name] for name in names[PULL_MOST - 1 :]} == {"admitted"}
    assert {federation.checks(1)[name] for name in names[: PULL_MOST - 1]} == {"in-time"}
