"""How fast the server takes updates in: ``python -m benchmarks.aggregation [--quick] [--json]``.

Updates are both factors of rank 16 on the attention of Stable Diffusion 1.5: 3.19 million float32, 12.8 MB, sealed.

* *open + check + accumulate*: sealed updates go through the body's decryption and all checks of its tensors into the
  running mean, in a ring of buffers; and once more through the whole of admission, letters included.
* *memory*: the process's high-water mark after 10 updates, and after all.
* *aggregation alone*: the running mean against Flower's own functions on the same arrays, paired in one process.
  ``list reduce`` is ``flwr.server.strategy.aggregate.aggregate``, ``strategy`` is what FedAvg of Flower 1.41 calls.
* *ceiling*: how fast one core reads the same arrays (a dot product), which no aggregation can exceed.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.server.strategy.aggregate import aggregate as flwr_list_reduce
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords as flwr_strategy

from benchmarks.reporting import Bar, finish, table
from common.adapters import AdapterSchema, Flat, LoraModule, pack, unpack
from common.proto import bottega_pb2 as pb
from security.admission import Terms, admit
from security.envelope import (
    Expectation,
    Kind,
    OpenedLetter,
    open_body,
    open_letter,
    peek_header,
    seal_body,
    seal_letter,
)
from security.identity import Identity
from security.names import Role, SpiffeId
from server.mean import GROUP, WeightedMean

DISTINCT = 8
"""Sealed updates that are really made; more are the same ones again."""

ALONE = 100
"""Updates for aggregation alone, over and over the same 20 arrays: 255 MB, so hardly any comes from a cache."""

WEIGHT = 37
NOW_MS = 1_800_000_000_000


def main() -> None:
    """Measure, print the tables and the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help="100 updates at the most instead of 1000")
    args = parser.parse_args()
    schema = attention_schema(rank=16)
    sealed = [_sealed(schema, seed) for seed in range(DISTINCT)]
    counts = (10, 100) if args.quick else (10, 100, 1000)
    _into_ring(schema, sealed, GROUP)  # compiles, and touches every buffer once
    runs = [_measured(schema, sealed, count) for count in counts]
    admitted = _rate(schema, 20, lambda: _through_admission(schema, sealed, 20))
    alone = _aggregation_alone(schema, repeats=3 if args.quick else 5)
    if not args.json:
        _print(schema, runs, admitted, alone)
    figures = {f"open_check_accumulate_gb_per_s_{run.count}": run.gb_per_s for run in runs}
    figures |= {"admit_accumulate_gb_per_s": admitted} | {f"{name}_gb_per_s": rate for name, rate in alone.items()}
    bars = [
        Bar("peak_memory_growth", runs[-1].peak_mb / runs[0].peak_mb, 1.05),
        Bar("mean_over_flwr_list_reduce", alone["mean"] / alone["flwr_list_reduce"], 5.0, at_least=True),
        Bar("mean_over_flwr_strategy", alone["mean"] / alone["flwr_strategy"], 5.0, at_least=True),
    ]
    finish(bars, figures, quiet=args.json)


def attention_schema(rank: int) -> AdapterSchema:
    """Return the schema of LoRA on all 128 attention projections of Stable Diffusion 1.5's U-Net."""
    modules = []
    for block, width in enumerate([320] * 5 + [640] * 5 + [1280] * 6):
        for attention, context in (("attn1", width), ("attn2", 768)):
            for target, inputs in (("to_q", width), ("to_k", context), ("to_v", context), ("to_out.0", width)):
                modules.append(LoraModule(f"blocks.{block}.{attention}.{target}", width, inputs, rank))
    return AdapterSchema(tuple(modules))


@dataclass(frozen=True)
class Sealed:
    """One update as it comes, and what the server asked for."""

    letter: bytes
    body: memoryview
    terms: Terms

    def opened(self) -> OpenedLetter:
        """Open the letter."""
        terms = self.terms
        expect = Expectation(frozenset({Kind.UPDATE}), terms.server.id.federation)
        return open_letter(self.letter, opener=terms.server, sender=terms.site, expect=expect, now_ms=NOW_MS)


@dataclass(frozen=True)
class Measured:
    """What taking in ``count`` updates cost."""

    count: int
    gb_per_s: float
    peak_mb: float


def _sealed(schema: AdapterSchema, seed: int) -> Sealed:
    server = Identity.generate(SpiffeId("bench.example", Role.SERVER, "server"))
    site = Identity.generate(SpiffeId("bench.example", Role.SITE, f"site-{seed}"))
    body = seal_body(pack(_update(schema, seed), schema, "both", "fp32"))
    nonce = bytes(16)
    letter = seal_letter(
        kind=Kind.UPDATE, run="bench", round_number=1, in_reply_to=nonce, body=body, sender=site,
        manifest=pb.Update(examples=WEIGHT).SerializeToString(), recipient=server.peer, now_ms=NOW_MS,
    )  # fmt: skip
    terms = Terms(
        server=server, site=site.peer, run="bench", round_number=1, task_nonce=nonce, schema=schema, part="both",
        encoding="fp32", norm_bound=100.0, closes_at_ms=NOW_MS + 1,
    )  # fmt: skip
    return Sealed(letter, body.ciphertext, terms)


def _update(schema: AdapterSchema, seed: int) -> Flat:
    flat = np.random.default_rng(seed).standard_normal(schema.numel("both"), np.float32)
    return flat * np.float32(0.01)


def _mean(schema: AdapterSchema) -> WeightedMean:
    return WeightedMean(schema.numel("both"), largest_weight=1000, largest_value=100.0)


def _into_ring(schema: AdapterSchema, sealed: list[Sealed], count: int) -> Flat:
    ring = [np.empty(s.body.nbytes - 16, np.uint8) for s in sealed[:GROUP]]
    opened = [s.opened() for s in sealed]

    def updates() -> Iterator[tuple[int, Flat]]:
        for i in range(count):
            plain = open_body(opened[i % DISTINCT], sealed[i % DISTINCT].body, out=ring[i % GROUP])
            yield WEIGHT, unpack(plain, schema, "both", "fp32")

    mean = _mean(schema)
    mean.add_all(updates())
    return mean.mean()


def _through_admission(schema: AdapterSchema, sealed: list[Sealed], count: int) -> Flat:
    mean = _mean(schema)
    cycle = itertools.islice(itertools.cycle(sealed), count)
    admitted = (
        admit(s.letter, s.body, s.terms, now_ms=peek_header(s.letter).created_at_ms, nonces=None) for s in cycle
    )
    mean.add_all((update.examples, update.delta) for update in admitted)
    return mean.mean()


def _measured(schema: AdapterSchema, sealed: list[Sealed], count: int) -> Measured:
    rate = _rate(schema, count, lambda: _into_ring(schema, sealed, count))
    return Measured(count, rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _rate(schema: AdapterSchema, count: int, work: Callable[[], object]) -> float:
    """Return GB (10^9 bytes of float32) a second."""
    began = time.perf_counter()
    work()
    return count * schema.numel("both") * 4 / (time.perf_counter() - began) / 1e9


def _aggregation_alone(schema: AdapterSchema, repeats: int) -> dict[str, float]:
    """Return the best rate of each way in GB/s; the ways take turns, so that a busy machine is busy for all."""
    flats = [_update(schema, seed) for seed in range(20)] * (ALONE // 20)
    tensors = [list(schema.views(flat, "both").values()) for flat in flats]
    records = [
        RecordDict(
            {
                "arrays": ArrayRecord({str(i): Array(tensor) for i, tensor in enumerate(layers)}),
                "metrics": MetricRecord({"num-examples": WEIGHT}),
            }
        )
        for layers in tensors
    ]

    def ours() -> Flat:
        mean = _mean(schema)
        mean.add_all((WEIGHT, flat) for flat in flats)
        return mean.mean()

    ways: dict[str, Callable[[], object]] = {
        "mean": ours,
        "flwr_list_reduce": lambda: flwr_list_reduce([(layers, WEIGHT) for layers in tensors]),
        "flwr_strategy": lambda: flwr_strategy(records, "num-examples"),
        "ceiling": lambda: [np.dot(flat, flat) for flat in flats],
    }
    best = dict.fromkeys(ways, 0.0)
    for _ in range(repeats):
        for name, way in ways.items():
            best[name] = max(best[name], _rate(schema, ALONE, way))
    return best


def _print(schema: AdapterSchema, runs: list[Measured], admitted: float, alone: dict[str, float]) -> None:
    size = f"{schema.numel('both') / 1e6:.2f} million float32 each"
    table(
        f"open + check + accumulate, sealed updates of {size}",
        ("updates", "GB/s", "peak memory, MB"),
        [(str(r.count), f"{r.gb_per_s:.2f}", f"{r.peak_mb:.0f}") for r in runs],
    )
    table("the same through the whole of admission", ("updates", "GB/s"), [("20", f"{admitted:.2f}")])
    table(
        f"aggregation alone, {ALONE} updates in memory, one core, best of the repeats",
        ("way", "GB/s", "mean is faster by"),
        [(name, f"{rate:.2f}", f"{alone['mean'] / rate:.1f}x") for name, rate in alone.items()],
    )


if __name__ == "__main__":
    main()
