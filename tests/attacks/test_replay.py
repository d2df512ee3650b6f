"""Sealed tasks and updates sent again, to others, by others, in parts. Each test is named after its attack.

Everything is real but Flower's wire, on which the attacker sits: it keeps, copies and swaps what it carries. That each
byte of an envelope is guarded, `tests/unit/test_envelope.py` shows; that a site believes no task of a stranger,
`tests/unit/test_agent.py`; that an update is refused in the next round, `tests/attacks/test_hostile_sites.py`. Here
rounds go on around the attack, and end where they would have ended without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Error, Message, RecordDict

from common.courier_records import from_envelope, to_envelope
from common.errors import EnvelopeError
from security.admission import Refused
from security.envelope import Expectation, Kind, open_letter, peek_header, seal_body, seal_letter
from security.identity import Identity
from security.run_order import RunOrder, sign_order
from server import pulling, rounds
from server.operating import load_operator
from server.rounds import SealedRounds
from server.run import Run
from server.start import starting_state
from tests.integration.federation import RUN, SCHEMA, SETTINGS, Federation, Site

HONEST = ("anna", "bruno")
NAMES = (*HONEST, "mallory")

Way = Callable[[Message, RecordDict], list[RecordDict | Error]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds here take fractions of a second."""
    monkeypatch.setattr(rounds, "GRACE_S", 0.2)
    monkeypatch.setattr(pulling, "POLL_S", 0.01)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What anna and bruno make without mallory."""
    federation = Federation(tmp_path_factory.mktemp("honest"), HONEST)
    federation.play()
    return federation.digest()


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path, NAMES)


def answers(site: Site, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have something else come back for the tasks of a site than what its agent answers."""
    monkeypatch.setattr(site, "replies", way)


def its_own(site: Site, message: Message) -> RecordDict:
    """Return what the site's agent answers."""
    (answer,) = Site.replies(site, message, message.content)
    assert isinstance(answer, RecordDict)
    return answer


def task_of(message: Message) -> tuple[bytes, bytes]:
    return to_envelope(message.content)


def refused(federation: Federation, name: str, number: int, check: str, words: str, run: str = RUN) -> bool:
    verdict = {v.site: v for v in federation.store.verdicts(run, 1)}[name]
    assert (verdict.admitted, verdict.number, verdict.check) == (False, number, check)
    assert words in verdict.reason
    return True


# --- tasks ---


def test_an_impostor_server_of_the_same_name_sends_a_task(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, honest: str
) -> None:
    mallory, signed = federation.sites["mallory"], federation.house.identity
    impostor = replace(signed, signing=Identity.generate(signed.id).signing)

    def forged(message: Message, _: RecordDict) -> list[RecordDict | Error]:
        """Ask what the server asks, in its name, under another key."""
        header = peek_header(task_of(message)[0])
        expect = Expectation(frozenset({Kind.TASK}), header.federation)
        task = open_letter(
            task_of(message)[0], opener=mallory.identity, sender=signed.peer, expect=expect, now_ms=header.created_at_ms
        )
        body = seal_body(b"an adapter of its own")
        letter = seal_letter(
            kind=Kind.TASK, run=header.run, round_number=header.round_number, in_reply_to=b"", manifest=task.manifest,
            body=body, sender=impostor, recipient=mallory.identity.peer, now_ms=header.created_at_ms,
        )  # fmt: skip
        return Site.replies(mallory, Message(from_envelope(letter, body.ciphertext), 1, "train"), message.content)

    answers(mallory, forged, monkeypatch)
    federation.play()
    assert refused(federation, "mallory", 1, "delivered", "signature is not by the key of the sender it names")
    assert mallory.easel.tasks == 0
    assert federation.digest() == honest


@pytest.mark.parametrize("restarted", [False, True], ids=["", "after a restart"])
def test_a_task_replayed_to_the_same_site(
    restarted: bool, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna = federation.sites["anna"]

    def replayed(message: Message, _: RecordDict) -> list[RecordDict | Error]:
        first = its_own(anna, message)
        if restarted:
            anna.restart()
        with pytest.raises(EnvelopeError, match="taken before: this is a replay"):
            anna.agent.answer(*task_of(message))
        return [first]

    answers(anna, replayed, monkeypatch)
    federation.play()
    assert anna.easel.tasks == 2  # one round and one measurement
    assert federation.checks() == dict.fromkeys(NAMES, "admitted")


def test_a_task_replayed_to_another_site(federation: Federation, monkeypatch: pytest.MonkeyPatch, honest: str) -> None:
    mallory, seen = federation.sites["mallory"], dict[str, Message]()

    def kept(message: Message, _: RecordDict) -> list[RecordDict | Error]:
        seen["task"] = message
        return [its_own(federation.sites["bruno"], message)]

    def handed_on(_: Message, __: RecordDict) -> list[RecordDict | Error]:
        return Site.replies(mallory, seen["task"], seen["task"].content)

    answers(federation.sites["bruno"], kept, monkeypatch)
    answers(mallory, handed_on, monkeypatch)
    federation.play()
    assert refused(federation, "mallory", 1, "delivered", "the letter's recipient does not match")
    assert mallory.easel.tasks == 0
    assert federation.digest() == honest


def test_the_letter_of_one_task_with_the_body_of_another(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, honest: str
) -> None:
    mallory = federation.sites["mallory"]

    def mixed(message: Message, _: RecordDict) -> list[RecordDict | Error]:
        other = from_envelope(task_of(message)[0], bytes(seal_body(b"another adapter").ciphertext))
        return Site.replies(mallory, Message(other, 1, "train"), other)

    answers(mallory, mixed, monkeypatch)
    federation.play()
    assert refused(federation, "mallory", 5, "willing", "got envelope")  # the site's own words, sealed
    assert mallory.easel.plain == []
    assert federation.digest() == honest


# --- updates ---


def test_the_update_of_another_site_handed_in_as_ones_own(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, honest: str
) -> None:
    seen = dict[str, RecordDict]()

    def kept(message: Message, _: RecordDict) -> list[RecordDict | Error]:
        seen["update"] = its_own(federation.sites["bruno"], message)
        return [seen["update"]]

    answers(federation.sites["bruno"], kept, monkeypatch)
    answers(federation.sites["mallory"], lambda *_: [seen["update"]], monkeypatch)
    federation.play()
    assert refused(federation, "mallory", 3, "envelope", "in_reply_to does not match")
    assert federation.digest() == honest


def test_an_update_of_ones_own_handed_in_for_another_site(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the fleet gate had let mallory answer under bruno's number, which it does not (test_fleet.py)."""
    anna, mallory = federation.sites["anna"], federation.sites["mallory"]

    def posed(message: Message, _: RecordDict) -> list[RecordDict | Error]:
        """Answer bruno's task in bruno's name, signed by the only key that mallory has."""
        header = peek_header(task_of(message)[0])
        body = seal_body(b"\x00" * 64)
        letter = seal_letter(
            kind=Kind.UPDATE, run=header.run, round_number=header.round_number, in_reply_to=header.nonce, manifest=b"",
            body=body, sender=mallory.identity, recipient=mallory.server, now_ms=header.created_at_ms,
        )  # fmt: skip
        return [from_envelope(letter, body.ciphertext)]

    answers(federation.sites["bruno"], posed, monkeypatch)
    federation.play()
    assert refused(federation, "bruno", 3, "envelope", "the letter's sender does not match")
    assert federation.checks() == {"anna": "admitted", "bruno": "envelope", "mallory": "admitted"}
    assert anna.easel.tasks == 2


def test_an_update_copied_and_sent_again_counts_once(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What replayed fleet headers get an attacker: the same envelope a second time, or a changed one."""
    anna = federation.sites["anna"]

    def copied(message: Message, _: RecordDict) -> list[RecordDict | Error]:
        letter, body = to_envelope(its_own(anna, message))
        return [from_envelope(letter, body), from_envelope(letter, body), from_envelope(letter[:-1], body)]

    alone = Federation(federation.home.root.parent / "alone", NAMES)
    alone.play()
    answers(anna, copied, monkeypatch)
    with caplog.at_level(logging.WARNING, "bottega.rounds"):
        federation.play()
    assert federation.checks() == dict.fromkeys(NAMES, "admitted")
    assert federation.digest() == alone.digest()
    assert "anna refused by check 4 (first-answer)" in caplog.text


def test_an_update_replayed_in_another_run(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = dict[str, RecordDict]()
    mallory = federation.sites["mallory"]

    def kept(message: Message, _: RecordDict) -> list[RecordDict | Error]:
        seen.setdefault("update", its_own(mallory, message))
        return [seen["update"]]

    answers(mallory, kept, monkeypatch)
    federation.play()
    assert federation.verdicts()["mallory"].admitted
    in_another_run(federation, "r2")
    assert refused(federation, "mallory", 3, "envelope", "run does not match; got 'r1'; expected r2", run="r2")
    assert {v.site for v in federation.store.verdicts("r2", 1) if v.admitted} == set(HONEST)


def in_another_run(federation: Federation, name: str) -> None:
    """Play a second run of the same federation, over the same wire."""
    operator = load_operator(federation.home.operator).identity
    order = RunOrder(name, operator.id, SETTINGS, "0" * 64, SCHEMA, tuple(sorted(NAMES)), 0)
    signed = sign_order(order, operator)
    federation.store.start_run(name, signed)
    run = Run(order, signed, federation.house, federation.store)
    first, state = starting_state(run.states, federation.store, SETTINGS, SCHEMA)
    SealedRounds(run, state, first).start(federation.post())


def test_the_letter_of_one_update_with_the_body_of_another(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, honest: str
) -> None:
    seen, mallory = dict[str, bytes](), federation.sites["mallory"]

    def kept(message: Message, _: RecordDict) -> list[RecordDict | Error]:
        answer = its_own(federation.sites["bruno"], message)
        seen["body"] = to_envelope(answer)[1]
        return [answer]

    def mixed(message: Message, _: RecordDict) -> list[RecordDict | Error]:
        return [from_envelope(to_envelope(its_own(mallory, message))[0], seen["body"])]

    answers(federation.sites["bruno"], kept, monkeypatch)
    answers(mallory, mixed, monkeypatch)
    federation.play()
    assert refused(federation, "mallory", 6, "body", "body sha256 does not match")
    assert federation.digest() == honest


def test_a_site_answers_with_the_task_that_it_was_sent(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, honest: str
) -> None:
    """A reflection: the envelope is of the server's own making, and fresh."""
    answers(federation.sites["mallory"], lambda message, _: [message.content], monkeypatch)
    federation.play()
    assert refused(federation, "mallory", 3, "envelope", "the letter's kind does not match; got TASK")
    assert federation.digest() == honest


def test_updates_swapped_in_the_spool_between_admission_and_aggregation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes to the server's disk can end a round, but put nobody's update in another's place."""
    monkeypatch.setattr(pulling, "PULL_MOST", 1)
    federation, alone = Federation(tmp_path / "swapped", NAMES), Federation(tmp_path / "alone", NAMES)
    alone.play()
    one, other = (federation.home.spool(RUN, 1) / f"{name}.sealed" for name in HONEST)
    swapped = list[bool]()

    def swap() -> None:
        if one.exists() and other.exists() and not swapped:
            first, second = one.read_bytes(), other.read_bytes()
            one.write_bytes(second)
            other.write_bytes(first)
            swapped.append(True)

    with pytest.raises(Refused, match="in_reply_to does not match"):
        federation.play(federation.post(order=NAMES, on_pull=swap))
    assert swapped
    assert federation.outcome() == "open"
    federation.play()  # resumed
    assert federation.outcome() == "aggregated"
    assert federation.digest() == alone.digest()
