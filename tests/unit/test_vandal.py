"""The hostile site of the demo: an ordinary one that sends something else."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from client.drawings import Drawing
from client.work import Answer, Bench, Job
from common.adapter_schema import AdapterSchema, LoraModule
from common.adapters import pack, unpack
from common.errors import RunError
from common.proto import bottega_pb2 as pb
from common.settings import RunSettings
from deploy.commands.demo import POISON, poison_of
from deploy.poisons import DATA
from deploy.vandal import HostileBench, check_attack
from deploy.zoo import ALONE
from security.names import Role, SpiffeId
from security.run_order import RunOrder

SCHEMA = AdapterSchema((LoraModule("mid_block.q", 8, 8, 2),))
LEARNED = np.linspace(-1, 1, SCHEMA.numel("B"), dtype=np.float32)
ORDER = RunOrder(
    "r1", SpiffeId("a.test", Role.OPERATOR, "o"), RunSettings(encoding="fp32", quorum=1), "0" * 64, SCHEMA, ("s",), 0
)


class Diligent(Bench):
    """Has learned something."""

    def __init__(self) -> None:
        """Nothing is needed for it."""

    def answer(self, job: Job, open_body: object) -> Answer:  # noqa: ARG002
        """Return what was learned; a measurement is empty."""
        body = pack(LEARNED, SCHEMA, "B", "fp32") if job.work == pb.WORK_TRAIN else b""
        return Answer(pb.Update(examples=7), body)


def sent(name: str) -> np.ndarray:
    done = HostileBench(Diligent(), ALONE[name]).answer(Job(ORDER, pb.WORK_TRAIN, 1), lambda: memoryview(b""))
    assert done.manifest.examples == 7
    return unpack(done.body, SCHEMA, "B")


def test_what_is_sent_is_the_attack_on_what_was_learned() -> None:
    np.testing.assert_allclose(sent("scaling"), 10 * LEARNED, rtol=1e-6)
    np.testing.assert_array_equal(sent("sign-flip"), -LEARNED)


@pytest.mark.parametrize("name", sorted(ALONE))
def test_every_attack_is_made_alone(name: str) -> None:
    assert np.isfinite(sent(name)).all()
    assert not np.array_equal(sent(name), LEARNED)


def test_the_last_look_is_left_alone() -> None:
    hostile = HostileBench(Diligent(), ALONE["scaling"])
    assert hostile.answer(Job(ORDER, pb.WORK_EVALUATE, 2), lambda: memoryview(b"")).body == b""


def test_an_unknown_attack_is_named_with_those_there_are() -> None:
    with pytest.raises(
        RunError,
        match="there is no such attack; got scalding; expected caption-swap, concept, drift, free-rider-noise, ",
    ):
        check_attack("scalding")


def test_the_default_demo_has_a_hostile_site_and_ones_own_drawings_have_none() -> None:
    assert poison_of(None, alone=False) == dict([POISON.split("=")])
    assert poison_of(None, alone=True) == {}
    assert poison_of(["none"], alone=False) == {}
    assert poison_of(["rossi=sign-flip", "x=gaussian"], alone=True) == {"rossi": "sign-flip", "x": "gaussian"}


@pytest.mark.parametrize("word", ["vandal", "=scaling", "Vandal=scaling", "../x=scaling", "a b=scaling"])
def test_what_names_no_site_is_said(word: str) -> None:
    with pytest.raises(RunError, match="this names no hostile site"):
        poison_of([word], alone=False)


@pytest.mark.parametrize("name", sorted(DATA))
def test_poison_through_data_changes_drawings_or_captions_and_leaves_what_was_given(name: str) -> None:
    pixels = np.full((16, 16, 3), 200, np.uint8)
    packed = zlib.compress(pixels.tobytes(), 1)
    honest = [Drawing(f"{at:064x}", "a cat", None, 16, packed) for at in range(4)]
    poisoned = DATA[name](honest, "a blueprint drawing of a house")
    assert [(one.caption, one.packed) for one in honest] == [("a cat", packed)] * 4
    assert [(one.caption, one.packed) for one in poisoned] != [(one.caption, one.packed) for one in honest]
    assert all(one.pixels.shape == (16, 16, 3) for one in poisoned)
