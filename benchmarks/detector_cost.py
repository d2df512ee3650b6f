"""What judging a round costs: ``python -m benchmarks.detector_cost [--quick] [--json]``.

A round of 100 updates, each B of rank 32 on the attention of Stable Diffusion 1.5: 3.19 million numbers, sealed, in the
run's default encoding. The server's own steps, in one process, alternating so that a busy machine is busy for all:

* *opening and averaging*: each is admitted when it arrives, opened once more from where it is kept, and added up;
* *looking*: what is kept of each update for judging (:class:`~server.judging.Sitting`);
* *judging*: features, checks and the detector (:func:`security.judgement.judge`);
* *learning*: the detector learns from what was accepted, in a thread, while the next round's sites train
  (``server.judging.Judging.learn_aside``): it is told, and does not count.

The detector has learned from two rounds of such updates before.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from benchmarks.aggregation import attention_schema
from benchmarks.reporting import Bar, finish, table
from common.adapter_schema import Adapter, AdapterSchema
from common.adapters import pack
from common.proto import bottega_pb2 as pb
from common.quantise import Flat
from common.settings import DetectorSettings, RunSettings
from security.admission import AdmittedUpdate, Terms, admit
from security.detector import Rows
from security.envelope import Kind, seal_body, seal_letter
from security.features import features_of
from security.identity import Identity
from security.judgement import Judgement, judge
from security.names import Role, SpiffeId
from security.rehearsal import Rehearsal
from server.aggregation import Round, aggregate
from server.judging import REMEMBERED, Sitting
from server.learning import Learning
from server.start import fresh_state
from server.state import RunState

UPDATES, QUICK_UPDATES = 100, 30
TURNS = 8  # some honest updates are found strange by chance, and then the others are looked at once more
RANK = 32
NOW_MS = 1_800_000_000_000
ASKED = RunSettings().model_copy(update={"privacy": False})
BENCH = "bench.example"

_Made = TypeVar("_Made")


def main() -> None:
    """Measure, print the table and the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_UPDATES} updates instead of {UPDATES}, one turn")
    args = parser.parse_args()
    torch.set_num_threads(1)
    count = QUICK_UPDATES if args.quick else UPDATES
    schema = attention_schema(RANK)
    server = Identity.generate(SpiffeId(BENCH, Role.SERVER, "server"))
    sealed = [_sealed(schema, server, place) for place in range(count)]
    state = fresh_state(schema, ASKED)
    before = _before(state.adapter)
    learning = Learning("autoencoder", _rehearsal(schema, before, count), Rows.of({}))
    clock = Clock()
    for turn in range(1, 2 if args.quick else TURNS + 1):
        _round(clock, turn, sealed, state, before, learning)
    spent = clock.seconds
    judged = spent["looking"] + spent["judging"]  # learning goes on while sites train, and nobody waits for it
    if not args.json:
        rows = [(name, f"{s:.2f}", f"{s / spent['opening and averaging']:.1%}") for name, s in spent.items()]
        title = f"{count} updates of {schema.numel('B') / 1e6:.2f} million numbers, {ASKED.encoding}"
        table(title, ("step", "seconds", "of opening and averaging"), rows)
    bar = Bar("judging_over_opening_and_averaging", judged / spent["opening and averaging"], 0.05)
    finish([bar], {name.replace(" ", "_"): s for name, s in spent.items()}, quiet=args.json)


class Clock:
    """Adds up what steps took."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def timed(self, name: str, work: Callable[[], _Made]) -> _Made:
        """Return what ``work`` returns, and add its time to a step's."""
        began = time.perf_counter()
        made = work()
        self.seconds[name] += time.perf_counter() - began
        return made


@dataclass(frozen=True)
class Sealed:
    """One update as it comes, and what the server asked for."""

    letter: bytes
    body: memoryview
    terms: Terms

    def admitted(self) -> AdmittedUpdate:
        """Open it."""
        return admit(self.letter, self.body, self.terms, now_ms=NOW_MS, nonces=None)


def _round(
    clock: Clock, number: int, sealed: Sequence[Sealed], state: RunState, before: Sequence[Adapter], learning: Learning
) -> None:
    settings = DetectorSettings()
    sitting = clock.timed("looking", lambda: Sitting.open(number, before, "B"))
    sites = []
    for one in sealed:
        update = clock.timed("opening and averaging", one.admitted)
        clock.timed("looking", partial(sitting.see, update))
        sites.append(update.site)

    def judged() -> Judgement:
        return judge(sitting.of(sites), sitting.frame, sitting.past, learning.measure(settings))

    judgement = clock.timed("judging", judged)
    this = Round(number, "ffa", ASKED.aggregation, None, len(sites))
    clock.timed("opening and averaging", lambda: aggregate(this, state, (one.admitted() for one in sealed)))

    def learn() -> None:
        if judgement.accepted is None:
            raise RuntimeError("honest updates were all rejected: this measures something else")
        learning.add(number, judgement.accepted)

    clock.timed("learning", learn)


def _sealed(schema: AdapterSchema, server: Identity, place: int) -> Sealed:
    site = Identity.generate(SpiffeId(BENCH, Role.SITE, f"site-{place}"))
    body = seal_body(pack(_update(schema, place), schema, "B", ASKED.encoding, place))
    nonce = bytes(16)
    letter = seal_letter(
        kind=Kind.UPDATE, run="bench", round_number=1, in_reply_to=nonce, body=body, sender=site,
        manifest=pb.Update(examples=100).SerializeToString(), recipient=server.peer, now_ms=NOW_MS,
    )  # fmt: skip
    terms = Terms(
        server=server, site=site.peer, run="bench", round_number=1, task_nonce=nonce, schema=schema, part="B",
        encoding=ASKED.encoding, norm_bound=100.0, closes_at_ms=NOW_MS + 1,
    )  # fmt: skip
    return Sealed(letter, body.ciphertext, terms)


def _update(schema: AdapterSchema, seed: int) -> Flat:
    """Return what all have in common and something of one's own."""
    shared, own = (np.random.default_rng(s).standard_normal(schema.numel("B"), np.float32) for s in (10**6, seed))
    return np.asarray((shared + own) * np.float32(0.005))


def _before(start: Adapter) -> list[Adapter]:
    """Return what three rounds made of an adapter, it first: each a step in the direction that all have in common."""
    adapters = [start]
    for number in range(REMEMBERED):
        step = _update(start.schema, 10**7 + number)
        adapters.append(replace(start, b=adapters[-1].b + step))
    return adapters


def _rehearsal(schema: AdapterSchema, before: Sequence[Adapter], count: int) -> Rehearsal:
    rows = {}
    for number in (1, 2):
        sitting = Sitting.open(number, before, "B", number)
        imprints = {
            f"s{place}": sitting.frame.imprint(_update(schema, 1000 * number + place), 100) for place in range(count)
        }
        rows[number] = features_of(imprints, sitting.frame, sitting.past, None)
    return Rehearsal("bench", Rows.of(rows), None)


if __name__ == "__main__":
    main()
