"""The courier's start to hand-over against an empty ClientApp: ``python -m benchmarks.courier [--quick] [--json]``.

Flower starts a process for each message, which loads the ClientApp that the run names. Each sample here is a fresh
process of the same Python that loads an app and ends; the ways take turns, and medians are compared.

* *app alone*: ``import`` of the module that holds the app. Ours goes on to hand an envelope with a body of 1 MB to a
  real site agent on its socket, which opens it, answers with as much, and the answer is received.
* *within Flower's process*: the same after importing what ``flwr-clientapp`` imports anyhow.

The bar is on the first, where what we add weighs more.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.reporting import Bar, finish, table
from benchmarks.round_overhead import EchoBench
from client.agent import AgentService, SiteAgent
from client.agent_socket import serve
from client.ledger_book import LedgerBook
from common.adapter_schema import AdapterSchema, LoraModule
from common.adapters import pack
from common.errors import ProcessError
from common.proto import bottega_pb2 as pb
from common.settings import LoraSettings, RunSettings
from security.checkpoint import Checkpoint, sign_checkpoint
from security.envelope import Kind, SealedBody, seal_body, seal_letter
from security.identity import Identity
from security.ledger_names import origin_of
from security.merkle import EMPTY_ROOT
from security.names import Role, SpiffeId
from security.roster import Roster
from security.run_order import RunOrder, sign_order

FEDERATION = "bench.bottega"
WITHIN = "import flwr.supernode.cli.flwr_clientapp\n"
EMPTY = "import empty_client_app\n"
EMPTY_APP = "from flwr.clientapp import ClientApp\n\napp = ClientApp()\n"
OURS = "import client.app\n"
HAND_OVER = """
import sys
from pathlib import Path
from common.proto import bottega_pb2 as pb
envelope = pb.Envelope.FromString(Path(sys.argv[1]).read_bytes())
answer = client.app.hand_over(sys.argv[2], envelope, 60.0)
assert len(answer.body) > 1_000_000
"""
NO_MODEL = "import sys\nassert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys()\n"


def main() -> None:
    """Measure, print the table and the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help="9 samples of each instead of 21")
    args = parser.parse_args()
    took = _taken(9 if args.quick else 21)
    if not args.json:
        _print(took)
    bar = Bar("courier_vs_empty_clientapp", median(took["ours"]) / median(took["empty"]), 1.5)
    figures = {f"{way}_s": median(seconds) for way, seconds in took.items()}
    figures["within_flower_ratio"] = median(took["ours_within"]) / median(took["empty_within"])
    finish([bar], figures, quiet=args.json)


@dataclass(frozen=True)
class Desk:
    """A site agent at work, and the server that seals tasks for it."""

    server: Identity
    site: Identity
    roster: Roster
    order: bytes
    body: SealedBody

    @property
    def checkpoint(self) -> bytes:
        """That of a ledger in which nothing is written yet."""
        empty = Checkpoint(origin_of(self.server.id.federation), 0, EMPTY_ROOT)
        return sign_checkpoint(empty, self.server.signing)

    def task(self) -> bytes:
        """Return a task as the courier gets it; each is another one, since none is answered twice."""
        ledger = pb.Shown(checkpoint=self.checkpoint)
        manifest = pb.Task(work=pb.WORK_TRAIN, order=self.order, ledger=ledger)
        letter = seal_letter(
            kind=Kind.TASK, run="bench", round_number=1, in_reply_to=b"", manifest=manifest.SerializeToString(),
            body=self.body, sender=self.server, recipient=self.site.peer, now_ms=int(time.time() * 1000),
        )  # fmt: skip
        return pb.Envelope(letter=letter, body=bytes(self.body.ciphertext)).SerializeToString()


def _taken(samples: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory(prefix="bottega-courier-") as name:
        root = Path(name)
        (root / "empty_client_app.py").write_text(EMPTY_APP, "utf-8")
        desk = _desk()
        book = LedgerBook(root / "witness", desk.site, lambda: desk.server.signing.public)
        agent = SiteAgent(desk.site, lambda: desk.roster, EchoBench(), root / "nonces.json", book)
        socket = root / "agent.sock"
        listening = serve(AgentService(agent, lambda: pb.Status(site="uno")), socket)
        try:
            return _in_turns(root, desk, socket, samples)
        finally:
            listening.stop(grace=1).wait()


def _desk() -> Desk:
    """Return a desk whose adapter is 1.05 MB in fp16."""
    server = Identity.generate(SpiffeId(FEDERATION, Role.SERVER, "server"))
    site = Identity.generate(SpiffeId(FEDERATION, Role.SITE, "uno"))
    schema = AdapterSchema(tuple(LoraModule(f"blocks.{i}.to_q", 1024, 1024, 16) for i in range(16)))
    flat = np.full(schema.numel("both"), 1e-3, np.float32)
    operator = Identity.generate(SpiffeId(FEDERATION, Role.OPERATOR, "operator"))
    settings = RunSettings(quorum=1, lora=LoraSettings(method="both"))
    order = sign_order(RunOrder("bench", operator.id, settings, "0" * 64, schema, ("uno",), 0), operator)
    roster = Roster.first(server.peer, 0).with_member(operator.peer, b"", 0)
    return Desk(server, site, roster, order, seal_body(pack(flat, schema, "both", "fp16")))


def _in_turns(root: Path, desk: Desk, socket: Path, samples: int) -> dict[str, list[float]]:
    envelope = root / "task"
    ways: dict[str, str] = {
        "empty": EMPTY,
        "import": OURS + NO_MODEL,
        "ours": OURS + HAND_OVER,
        "empty_within": WITHIN + EMPTY,
        "ours_within": WITHIN + OURS + HAND_OVER,
    }
    run: Callable[[str], float] = lambda code: _seconds(root, code, str(envelope), str(socket))  # noqa: E731
    took: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(samples + 1):
        for way, code in ways.items():
            envelope.write_bytes(desk.task())
            seconds = run(code)
            if turn:  # the first turn writes byte code and fills the disk cache
                took[way].append(seconds)
    return took


def _seconds(root: Path, code: str, *words: str) -> float:
    environment = {**os.environ, "PYTHONPATH": str(root), "FLWR_HOME": str(root), "FLWR_TELEMETRY_ENABLED": "0"}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *words], env=environment, capture_output=True, text=True, check=False
    )
    took = time.perf_counter() - began
    if done.returncode:
        raise ProcessError("a sample ended with an error", got=done.stderr[-400:])
    return took


def _print(took: dict[str, list[float]]) -> None:
    words = {
        "empty": ("an empty ClientApp", "empty"),
        "import": ("ours, imported only", "empty"),
        "ours": ("ours, 1 MB handed over and answered", "empty"),
        "empty_within": ("within Flower's process: an empty ClientApp", "empty_within"),
        "ours_within": ("within Flower's process: ours, handed over and answered", "empty_within"),
    }
    table(
        f"a fresh process from its start to its end, median of {len(took['empty'])}",
        ("what it does", "s", "fastest, s", "over the empty one"),
        [
            (text, f"{median(took[w]):.3f}", f"{min(took[w]):.3f}", f"{median(took[w]) / median(took[against]):.2f}")
            for w, (text, against) in words.items()
        ],
    )


if __name__ == "__main__":
    main()
