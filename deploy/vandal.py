"""A hostile studio for demos: ``python -m deploy.vandal ATTACK --home HOME``.

It does what a hostile studio would do: it changes its own copy of the program. It is an ordinary site in everything
else, with keys and drawings of its own; it trains as it is told, and then sends something else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from client import workplace
from client.drawings import Drawings, DrawingSettings
from client.serving import run_site
from client.settings import SiteSettings
from client.work import Answer, Bench, Job
from client.workplace import Workplace
from common.adapters import pack, unpack
from common.errors import RunError
from common.logs import set_up_logs
from common.paths import SiteHome
from common.proto import bottega_pb2 as pb
from common.quantise import Flat
from deploy.poisons import DATA
from deploy.zoo import ALONE, Attack, View
from security.features.imprint import spans
from security.run_order import RunOrder

NAMES = tuple(sorted([*ALONE, *DATA]))
"""What one site can do alone: on the wire, or through its drawings."""


def check_attack(name: str) -> None:
    """Pass a name of an attack.

    Raises:
        RunError: There is none of that name.
    """
    if name not in NAMES:
        raise RunError("there is no such attack", got=name, expected=", ".join(NAMES))


VICTIM = "a blueprint drawing of a house"
"""Whose caption is put to shame: one of the first procedural studio's."""


class HostileBench(Bench):
    """A bench that does the work and sends something else.

    Args:
        honest: Does the work.
        attack: Makes what is sent of it.
    """

    def __init__(self, honest: Bench, attack: Attack) -> None:
        self._honest, self._attack = honest, attack
        self._chance = np.random.default_rng()
        self.doing = "waiting"

    def check(self, order: RunOrder) -> None:
        """Pass what the honest bench passes."""
        self._honest.check(order)

    def answer(self, job: Job, open_body: Callable[[], memoryview]) -> Answer:
        """Do a job, and change the update that comes of it."""
        done = self._honest.answer(job, open_body)
        if job.work != pb.WORK_TRAIN:
            return done
        order = job.order
        part, encoding = order.settings.lora.trained, order.settings.encoding
        own = unpack(done.body, order.schema, part)[None]
        nobody: Flat = np.empty((0, own.shape[1]), np.float32)
        sent = self._attack(View(job.number, own, nobody, (), None, self._chance, spans(order.schema, part)))
        return replace(done, body=pack(sent[0], order.schema, part, encoding, job.number))


def main() -> None:
    """Serve as a hostile site until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attack", choices=NAMES)
    parser.add_argument("--home", type=Path, required=True)
    told = parser.parse_args()
    if told.attack in DATA:
        _train_on_poison(told.attack)
    else:
        _send_something_else(ALONE[told.attack])
    set_up_logs()
    run_site(SiteHome(told.home), lambda _: None)


def _train_on_poison(attack: str) -> None:
    """Have the honest program find other drawings than there are; nothing else is changed."""
    program: Any = workplace
    honest = program.load_drawings

    def load(folder: Path, settings: DrawingSettings) -> Drawings:
        found: Drawings = honest(folder, settings)
        return replace(found, train=tuple(DATA[attack](found.train, VICTIM)))

    program.load_drawings = load


def _send_something_else(attack: Attack) -> None:
    honest = workplace.set_up

    def set_up(home: SiteHome, settings: SiteSettings) -> Workplace:
        place = honest(home, settings)
        return replace(place, bench=HostileBench(place.bench, attack))

    workplace.set_up = set_up


if __name__ == "__main__":
    main()
