"""Admission: each numbered check refuses what it is for, and only what passes all of them is an AdmittedUpdate."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.adapter_schema import AdapterSchema, LoraModule
from common.adapters import pack
from common.proto import bottega_pb2 as pb
from common.settings import PrivacySettings
from security.admission import AdmittedUpdate, Check, Refused, Terms, admit
from security.energies import energy
from security.envelope import Kind, peek_header, seal_body, seal_letter
from security.identity import Identity
from security.names import Role, SpiffeId
from security.replay import NonceBook

NOW = 1_700_000_000_000
SCHEMA = AdapterSchema((LoraModule("mid.attn.to_q", 6, 5, 2), LoraModule("mid.attn.to_k", 4, 5, 2)))
SERVER = Identity.generate(SpiffeId("fed.example", Role.SERVER, "server"))
SITE = Identity.generate(SpiffeId("fed.example", Role.SITE, "rossi"))
OTHER = Identity.generate(SpiffeId("fed.example", Role.SITE, "bianchi"))
NONCE = b"t" * 16
TERMS = Terms(
    server=SERVER, site=SITE.peer, run="r1", round_number=3, task_nonce=NONCE, schema=SCHEMA, part="B",
    encoding="fp32", norm_bound=10.0, closes_at_ms=NOW + 5_000,
)  # fmt: skip


def a_delta() -> NDArray[np.float32]:
    return np.linspace(-1, 1, SCHEMA.numel("B"), dtype=np.float32)


@dataclass
class Answer:
    """What a site sends, every part of it open to change."""

    sender: Identity = SITE
    recipient: Identity = SERVER
    kind: Kind = Kind.UPDATE
    run: str = "r1"
    round_number: int = 3
    in_reply_to: bytes = NONCE
    update: pb.Update = field(default_factory=lambda: pb.Update(examples=40, metrics={"loss": 0.3}, seconds=2.0))
    manifest: bytes | None = None
    tensors: bytes = field(default_factory=lambda: pack(a_delta(), SCHEMA, "B", "fp32"))
    made_at: int = NOW

    def sealed(self) -> tuple[bytes, bytes]:
        body = seal_body(self.tensors)
        letter = seal_letter(
            kind=self.kind, run=self.run, round_number=self.round_number, in_reply_to=self.in_reply_to,
            manifest=self.update.SerializeToString() if self.manifest is None else self.manifest,
            body=body, sender=self.sender, recipient=self.recipient.peer, now_ms=self.made_at,
        )  # fmt: skip
        return letter, bytes(body.ciphertext)


def judged(answer: Answer, terms: Terms = TERMS, now_ms: int = NOW, nonces: NonceBook | None = None) -> AdmittedUpdate:
    letter, body = answer.sealed()
    return admit(letter, body, terms, now_ms=now_ms, nonces=nonces or NonceBook(600_000))


def refused_by(check: Check, answer: Answer, terms: Terms = TERMS, now_ms: int = NOW) -> Refused:
    with pytest.raises(Refused) as caught:
        judged(answer, terms, now_ms)
    assert caught.value.check is check, str(caught.value)
    return caught.value


def test_an_honest_update_is_admitted_as_it_was_sent() -> None:
    update = judged(Answer())
    assert (update.site, update.examples, update.metrics, update.seconds) == ("rossi", 40, {"loss": 0.3}, 2.0)
    assert np.array_equal(update.delta, a_delta())
    assert update.norm == pytest.approx(float(np.linalg.norm(a_delta().astype(np.float64))), rel=1e-6)


def test_check_2_in_time() -> None:
    why = refused_by(Check.IN_TIME, Answer(made_at=NOW + 7_500), now_ms=NOW + 7_500)
    assert why.got == "2.5 s late"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(run="r2"),
        Answer(round_number=4),
        Answer(in_reply_to=b"x" * 16),
        Answer(sender=OTHER),
        Answer(made_at=NOW - 3_600_000),
        Answer(made_at=NOW + 3_600_000),
    ],
    ids=["another run", "another round", "another task", "another site", "stale", "from the future"],
)
def test_check_3_envelope_of_another_time_or_place(answer: Answer) -> None:
    refused_by(Check.ENVELOPE, answer)


def test_check_3_envelope_sealed_to_somebody_else() -> None:
    foreign = Identity.generate(SpiffeId("fed.example", Role.SERVER, "elsewhere"))
    refused_by(Check.ENVELOPE, Answer(recipient=foreign))


def test_check_3_envelope_signed_with_a_key_of_another_federation() -> None:
    thief = replace(SITE, signing=OTHER.signing)
    refused_by(Check.ENVELOPE, Answer(sender=thief))


@given(st.binary(max_size=200))
@settings(max_examples=60)
def test_check_3_envelope_of_any_bytes(garbage: bytes) -> None:
    with pytest.raises(Refused) as caught:
        admit(garbage, b"", TERMS, now_ms=NOW, nonces=NonceBook(600_000))
    assert caught.value.check is Check.ENVELOPE


def test_check_4_first_answer() -> None:
    letter, body = Answer().sealed()
    nonces = NonceBook(600_000)
    admit(letter, body, TERMS, now_ms=NOW, nonces=nonces)
    with pytest.raises(Refused) as caught:
        admit(letter, body, TERMS, now_ms=NOW + 1, nonces=nonces)
    assert caught.value.check is Check.FIRST_ANSWER


def test_an_answer_from_the_spool_is_opened_again_without_the_memory_of_nonces() -> None:
    letter, body = Answer().sealed()
    again = admit(letter, body, TERMS, now_ms=peek_header(letter).created_at_ms, nonces=None)
    assert np.array_equal(again.delta, a_delta())


def test_check_5_willing() -> None:
    refusal = pb.Refusal(reason="the house rules forbid\nso many steps", check="rule").SerializeToString()
    why = refused_by(Check.WILLING, Answer(kind=Kind.REFUSAL, manifest=refusal, tensors=b""))
    assert why.what == "the site refused: the house rules forbid?so many steps"


def test_check_5_willing_with_a_manifest_that_is_none() -> None:
    refused_by(Check.WILLING, Answer(manifest=b"\xff\xff\xff\xff"))


def test_check_6_body() -> None:
    letter, _ = Answer().sealed()
    _, other_body = Answer().sealed()
    with pytest.raises(Refused) as caught:
        admit(letter, other_body, TERMS, now_ms=NOW, nonces=NonceBook(600_000))
    assert caught.value.check is Check.BODY


def schema_of(*modules: LoraModule) -> AdapterSchema:
    return AdapterSchema(modules)


@pytest.mark.parametrize(
    "schema",
    [
        schema_of(LoraModule("mid.attn.to_q", 6, 5, 3), LoraModule("mid.attn.to_k", 4, 5, 3)),
        schema_of(LoraModule("mid.attn.to_q", 6, 5, 2)),
        schema_of(*SCHEMA.modules, LoraModule("mid.attn.to_v", 4, 5, 2)),
        schema_of(*reversed(SCHEMA.modules)),
    ],
    ids=["another rank", "a tensor missing", "a tensor too many", "another order"],
)
def test_check_7_schema(schema: AdapterSchema) -> None:
    tensors = pack(np.zeros(schema.numel("B"), np.float32), schema, "B", "fp32")
    refused_by(Check.SCHEMA, Answer(tensors=tensors))


def test_check_7_schema_in_another_encoding() -> None:
    refused_by(Check.SCHEMA, Answer(tensors=pack(a_delta(), SCHEMA, "B", "fp16")))


def test_check_7_schema_of_the_wrong_factors() -> None:
    refused_by(Check.SCHEMA, Answer(tensors=pack(np.zeros(SCHEMA.numel("A"), np.float32), SCHEMA, "A", "fp32")))


def test_check_7_schema_where_only_a_measurement_was_asked_for() -> None:
    refused_by(Check.SCHEMA, Answer(), replace(TERMS, part=None))


@given(st.binary(max_size=400))
@settings(max_examples=60)
def test_check_7_schema_of_any_bytes(garbage: bytes) -> None:
    refused_by(Check.SCHEMA, Answer(tensors=garbage))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_check_8_finite(bad: float) -> None:
    tensors = bytearray(pack(a_delta(), SCHEMA, "B", "fp32"))
    tensors[-4:] = np.float32(bad).tobytes()
    why = refused_by(Check.FINITE, Answer(tensors=bytes(tensors)))
    assert why.got == "mid.attn.to_k.lora_B.weight"


def test_check_8_finite_in_what_is_reported() -> None:
    refused_by(Check.FINITE, Answer(update=pb.Update(examples=4, metrics={"loss": float("nan")})))


def test_check_9_claims() -> None:
    refused_by(Check.CLAIMS, Answer(update=pb.Update(examples=0)))


def test_check_10_norm() -> None:
    tensors = pack(a_delta() * 100, SCHEMA, "B", "fp32")
    why = refused_by(Check.NORM, Answer(tensors=tensors))
    assert why.expected == "at most 10"


ASKED = PrivacySettings(epsilon=8, rate=0.25, steps=2, multiplicity=4, clip=1e-3)


def told(**other: object) -> pb.Update:
    """Return the manifest of a private update; ``other`` is what it says otherwise than was asked."""
    said: dict[str, object] = {
        "epsilon": 1.5, "delta": 1e-4, "unit": "drawing", "multiplier": 0.9, "clip": 1e-3, "rate": 0.25, "steps": 2,
        "multiplicity": 4, "budget": pb.BudgetHead(entries=3, digest=b"d" * 32),
    }  # fmt: skip
    return pb.Update(examples=40, metrics={"loss": 0.3}, privacy=pb.Privacy(**{**said, **other}))  # type: ignore[arg-type]


def test_check_13_privacy_as_it_was_asked_is_recorded_and_nothing_else() -> None:
    update = judged(Answer(update=told()), replace(TERMS, privacy=ASKED))
    assert update.metrics == {
        "epsilon": 1.5, "delta": 1e-4, "multiplier": 0.9, "clip": 1e-3, "rate": 0.25, "steps": 2, "multiplicity": 4,
    }  # fmt: skip
    assert update.privacy is not None
    assert update.privacy.budget == pb.BudgetHead(entries=3, digest=b"d" * 32)


def test_check_13_privacy_that_nothing_is_said_of() -> None:
    refused_by(Check.PRIVACY, Answer(), replace(TERMS, privacy=ASKED))


@pytest.mark.parametrize(
    "other",
    [
        {"clip": 1e-2}, {"rate": 0.5}, {"steps": 3}, {"steps": 1}, {"multiplicity": 1}, {"unit": "artist"},
        {"unit": ""},
        {"multiplier": 0.0}, {"multiplier": float("nan")}, {"multiplier": float("inf")}, {"epsilon": -1.0},
        {"epsilon": float("nan")}, {"epsilon": float("inf")}, {"delta": 0.0}, {"delta": 1.0}, {"delta": float("nan")},
        {"clip": float("nan")}, {"budget": pb.BudgetHead()}, {"budget": pb.BudgetHead(entries=1, digest=b"short")},
    ],
    ids=str,
)  # fmt: skip
def test_check_13_privacy_other_than_was_asked_or_that_cannot_be(other: dict[str, object]) -> None:
    refused_by(Check.PRIVACY, Answer(update=told(**other)), replace(TERMS, privacy=ASKED))


def test_what_a_site_says_of_privacy_in_a_run_without_is_not_recorded() -> None:
    update = judged(Answer(update=told()))
    assert (update.metrics, update.privacy) == ({"loss": 0.3}, None)


def test_the_first_failing_check_is_the_one_that_is_named() -> None:
    late_and_foreign = Answer(sender=OTHER, made_at=NOW + 9_000)
    refused_by(Check.IN_TIME, late_and_foreign, now_ms=NOW + 9_000)


def test_a_measurement_is_admitted_without_tensors() -> None:
    update = judged(
        Answer(tensors=b"", update=pb.Update(examples=9, metrics={"held_out_loss": 0.2})), replace(TERMS, part=None)
    )
    assert update.delta.size == 0
    assert update.norm == 0.0


def test_a_site_does_not_report_what_the_server_works_out() -> None:
    told = pb.Update(examples=5, metrics={"loss": 0.3, "p_value": 1.0, "epsilon": 0.1, "site_epsilon": 0.0})
    assert judged(Answer(update=told)).metrics == {"loss": 0.3}


def test_a_refusal_tells_no_values() -> None:
    why = refused_by(Check.NORM, Answer(tensors=pack(a_delta() * 1234.5, SCHEMA, "B", "fp32")))
    assert "1234" not in str(why).replace("e+04", "")


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 200_001])
def test_the_norm_is_that_of_numpy(size: int) -> None:
    vector = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    assert energy(vector) ** 0.5 == pytest.approx(float(np.linalg.norm(vector.astype(np.float64))), rel=1e-6, abs=0)


@pytest.mark.parametrize("scale", [1e-20, 1e-13, 1e13, 1e30])
def test_no_norm_is_lost_to_float32(scale: float) -> None:
    vector = np.full(1000, scale, np.float32)
    assert energy(vector) ** 0.5 == pytest.approx(scale * 1000**0.5, rel=1e-6)
