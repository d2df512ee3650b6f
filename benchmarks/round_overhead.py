"""A round without training work against stock Flower: ``python -m benchmarks.round_overhead [--quick] [--json]``.

Both sides are real processes on loopback: one server, two nodes, nothing trained. They take turns, each started
afresh and stopped before the other begins.

* *ours*: ``bottega server start`` and two sites, each a SuperNode and a site agent on its socket. The agent opens the
  task, reads the adapter and answers at once with an update of the right size: sealing, admission, spooling,
  aggregation and writing the adapter are all in the round.
* *stock*: ``flower-superlink``, two ``flower-supernode`` and ``flwr run``, all ``--insecure``, with FedAvg, float32,
  and clients that add one number to what they got. Sent as one array, and as one array a tensor; the bars take the
  faster.

A round is the time from the close of the one before to its own close, as the server itself notes it; the first runs
from its opening. Ratios are of medians over all rounds of all turns.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np

from benchmarks.aggregation import attention_schema
from benchmarks.reporting import Bar, finish, table
from client.agent import AgentService, SiteAgent
from client.agent_socket import serve
from client.ledger_book import LedgerBook
from client.settings import SiteSettings
from client.settling import join, known_roster
from client.supernode import supernode
from client.work import Answer, Bench, Job
from common.adapter_schema import AdapterSchema, LoraModule
from common.adapters import pack, unpack
from common.errors import ProcessError
from common.paths import ServerHome, SiteHome
from common.processes import ChildProcess, Supervisor, flower_environment
from common.programs import program
from common.proto import bottega_pb2 as pb
from common.settings import LoraSettings, RunSettings, TrainingSettings, read_toml
from deploy.federation import Premises, prepare, start_server, wait_for_sites
from deploy.studios import StudioFolder
from security.identity import Identity
from security.key_folder import open_key_folder
from security.names import Role, SpiffeId
from security.run_order import RunOrder, sign_order
from server.bundle import submit_run
from server.house import open_house
from server.operating import load_operator
from server.ports import read_ports
from server.store import Store

NODES = ("uno", "due")
BASE_DIGEST = "0" * 64
UPDATE_VALUE = 1e-3
PATIENCE_S = 900.0
SETTLE_S = 3.0
METHODS: tuple[Literal["both", "ffa"], ...] = ("both", "ffa")
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Size:
    """How much travels: the schema of an adapter, and the bar that its ratio must clear."""

    name: str
    schema: AdapterSchema
    bar: float


def main() -> None:
    """Take turns, print the table and the bars. With ``site HOME``, be one of the sites."""
    if sys.argv[1:2] == ["site"]:
        run_idle_site(SiteHome(Path(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help="12 MB only, one turn of 2 rounds")
    parser.add_argument("--turns", type=int, default=2)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes below are stopped then too
    sizes = [Size("12mb", attention_schema(rank=15), 1.0), Size("100mb", wide_attention_schema(rank=17), 0.6)]
    rounds, turns = (2, 1) if args.quick else (3, args.turns)
    took = _taken(sizes[:1] if args.quick else sizes, rounds, turns)
    sizes = sizes[:1] if args.quick else sizes
    if not args.json:
        for size in sizes:
            _print(size, took)
    figures = {f"{k}_s": median(v) for k, v in took.items()}
    figures |= {
        f"round_over_stock_many_{s.name}": figures[f"both_{s.name}_s"] / figures[f"stock_many_{s.name}_s"]
        for s in sizes
    }
    finish([_bar(size, took) for size in sizes], figures, quiet=args.json)


def wide_attention_schema(rank: int) -> AdapterSchema:
    """Return the schema of LoRA on the attention projections of Stable Diffusion XL's U-Net."""
    modules = []
    for block, width in enumerate([640] * 10 + [1280] * 60):
        for attention, context in (("attn1", width), ("attn2", 2048)):
            for target, inputs in (("to_q", width), ("to_k", context), ("to_v", context), ("to_out.0", width)):
                modules.append(LoraModule(f"blocks.{block}.{attention}.{target}", width, inputs, rank))
    return AdapterSchema(tuple(modules))


Took = dict[str, list[float]]
"""Seconds of each round by ``<way>_<size>``."""


def _taken(sizes: Sequence[Size], rounds: int, turns: int) -> Took:
    """Let the two sides take turns; who goes first changes, so that neither always meets the warmer machine."""
    took: Took = {}
    sides: list[Callable[[Path, Sequence[Size], int, Took], None]] = [_ours, _stock]
    for turn in range(turns):
        for side in sides if turn % 2 == 0 else reversed(sides):
            with tempfile.TemporaryDirectory(prefix="bottega-round-") as name:
                side(Path(name), sizes, rounds, took)
    return took


# ---- ours -----------------------------------------------------------------------------------------------------------


class EchoBench(Bench):
    """A work bench that does everything but work: it reads the adapter and answers with an update of the right size."""

    def __init__(self) -> None:
        self.doing = "waiting"

    def check(self, order: RunOrder) -> None:
        """Allow every run."""

    def answer(self, job: Job, open_body: Callable[[], memoryview]) -> Answer:
        """Answer at once."""
        terms, schema = job.order.settings, job.order.schema
        unpack(open_body(), schema, "both")
        if job.work == pb.WORK_EVALUATE:
            return Answer(pb.Update(examples=1), b"")
        part = terms.lora.trained
        delta = np.full(schema.numel(part), UPDATE_VALUE, np.float32)
        return Answer(pb.Update(examples=1), pack(delta, schema, part, terms.encoding, job.number))


def run_idle_site(home: SiteHome) -> None:
    """Serve a site that never trains until SIGTERM: agent and SuperNode as ``bottega site start`` has them."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = read_toml(SiteSettings, home.settings)
    identity = Identity.load(open_key_folder(home), SpiffeId(settings.federation, Role.SITE, settings.name))
    book = LedgerBook(home.witness, identity, lambda: known_roster(home).server.peer.verify)
    agent = SiteAgent(identity, partial(known_roster, home), EchoBench(), home.nonces, book)
    listening = serve(AgentService(agent, lambda: pb.Status(site=settings.name)), home.socket)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with Supervisor([supernode(home, settings)]) as s:
        s.watch(stop)
    listening.stop(grace=1).wait()


def _ours(root: Path, sizes: Sequence[Size], rounds: int, took: Took) -> None:
    premises = prepare(root / "federation")
    studios = [StudioFolder(name, root) for name in NODES]
    with Supervisor() as supervisor:
        start_server(premises, supervisor, studios, RunSettings())
        for name in NODES:
            _start_idle_site(premises, supervisor, name)
        wait_for_sites(premises, supervisor, studios)
        for size in sizes:
            for method in METHODS:
                settings = _run_settings(method, rounds)
                _settle(supervisor)
                seconds = _our_rounds(premises.server, supervisor, f"{method}-{size.name}", settings, size.schema)
                took.setdefault(f"{method}_{size.name}", []).extend(seconds)


def _run_settings(method: Literal["both", "ffa"], rounds: int) -> RunSettings:
    return RunSettings(
        privacy=False,
        rounds=rounds,
        quorum=len(NODES),
        lora=LoraSettings(method=method),
        training=TrainingSettings(steps=1),
    )


def _start_idle_site(premises: Premises, supervisor: Supervisor, name: str) -> None:
    home = premises.site(name)
    server, roster = open_house(premises.server).identity.peer, premises.server.roster.read_bytes()
    join(home, server, roster, premises.server.authority_certificate.read_bytes())
    address = f"127.0.0.1:{read_ports(premises.server)['fleet']}"
    home.settings.write_text(home.settings.read_text("utf-8").replace("127.0.0.1:0", address), "utf-8")
    command = [sys.executable, "-P", "-m", "benchmarks.round_overhead", "site", str(home.root)]
    found = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    supervisor.start(ChildProcess(name, command, home.root / "site.log", found))


def _our_rounds(
    home: ServerHome, supervisor: Supervisor, run: str, settings: RunSettings, schema: AdapterSchema
) -> list[float]:
    operator = load_operator(home.operator).identity
    order = RunOrder(run, operator.id, settings, BASE_DIGEST, schema, tuple(sorted(NODES)), 0)
    with Store(home.database) as store:
        store.start_run(run, sign_order(order, operator))
        submit_run(f"127.0.0.1:{read_ports(home)['control']}", {"run": run})
        _wait(supervisor, f"run {run}", lambda: store.run(run).status != "running")
        if store.run(run).status != "finished":
            raise ProcessError(f"run {run} did not finish", got=store.run(run).error)
        rows = [row for row in store.rounds(run) if row.work == "train"]
        if any(row.outcome != "aggregated" for row in rows):
            raise ProcessError("a round was not aggregated", got=str(store.verdicts(run, 1)))
        marks = [rows[0].opened_at, *(row.closed_at or 0.0 for row in rows)]
    return _between(marks)


# ---- stock Flower ---------------------------------------------------------------------------------------------------

PROJECT = """
[project]
name = "stockround"
version = "1.0.0"
description = "FedAvg of arrays that nobody trains"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "stockround.server_app:app"
clientapp = "stockround.client_app:app"

[tool.flwr.app.config]
numbers = "1"
rounds = 1
marks = ""
"""

SERVER_APP = """
import json, time
from pathlib import Path
import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()

@app.main()
def main(grid: Grid, context: Context) -> None:
    numbers = json.loads(Path(str(context.run_config["numbers"])).read_text())
    chance = np.random.default_rng(0)
    start = {str(i): Array(chance.standard_normal(n, np.float32)) for i, n in enumerate(numbers)}
    marks = []
    # Called before the first round and after each: it only looks at the clock.
    result = FedAvg(
        fraction_evaluate=0.0, train_metrics_aggr_fn=lambda records, _: MetricRecord({"replies": len(records)})
    ).start(
        grid=grid,
        initial_arrays=ArrayRecord(start),
        num_rounds=int(context.run_config["rounds"]),
        evaluate_fn=lambda *_: marks.append(time.time()),
    )
    # A failed reply would make a round that looks fast.
    if [m["replies"] for m in result.train_metrics_clientapp.values()] != [2] * int(context.run_config["rounds"]):
        marks = []
    target = Path(str(context.run_config["marks"]))
    target.with_suffix(".new").write_text(json.dumps(marks))
    target.with_suffix(".new").rename(target)
"""

CLIENT_APP = """
import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message: Message, context: Context) -> Message:
    # Another change at each node: Flower sends no object twice, so what comes back unchanged would not travel at all.
    change = np.float32(1e-6 * (1 + context.node_id % 1000))
    arrays = ArrayRecord([a.numpy() + change for a in message.content["arrays"].values()])
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
"""


def _stock(root: Path, sizes: Sequence[Size], rounds: int, took: Took) -> None:
    app, homes = _stock_app(root), [root / f"home-{name}" for name in ("server", *NODES)]
    for home in homes:
        home.mkdir()
    port = free_port()
    (homes[0] / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "127.0.0.1:{port}"\ninsecure = true\n', "utf-8"
    )
    link = [
        program("flower-superlink"), "--insecure", "--port", str(port), "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    with Supervisor([ChildProcess("superlink", link, root / "superlink.log", _environment(homes[0]))]) as supervisor:
        _wait(supervisor, "the SuperLink", lambda: _answers(port))
        for name, home in zip(NODES, homes[1:], strict=True):
            node = [
                program("flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{port}",
                "--port", str(free_port()),
            ]  # fmt: skip
            supervisor.start(ChildProcess(name, node, root / f"{name}.log", _environment(home)))
        for size in sizes:
            specs = size.schema.specs("both")
            # One object a tensor takes stock Flower minutes a round at 100 MB: one round of it has to do.
            layouts = {"stock_one": ([size.schema.numel("both")], rounds), "stock_many": ([s.numel for s in specs], 1)}
            for way, (numbers, count) in layouts.items():
                name = f"{way}_{size.name}"
                _settle(supervisor)
                took.setdefault(name, []).extend(_stock_rounds(root, app, homes[0], supervisor, name, numbers, count))


def _stock_app(root: Path) -> Path:
    app = root / "app"
    (app / "stockround").mkdir(parents=True)
    (app / "pyproject.toml").write_text(PROJECT, "utf-8")
    for name, text in (("__init__", ""), ("server_app", SERVER_APP), ("client_app", CLIENT_APP)):
        (app / "stockround" / f"{name}.py").write_text(textwrap.dedent(text), "utf-8")
    return app


def _stock_rounds(
    root: Path, app: Path, home: Path, supervisor: Supervisor, name: str, numbers: list[int], rounds: int
) -> list[float]:
    asked, marks = root / f"{name}.json", root / f"{name}.marks"
    asked.write_text(json.dumps(numbers), "utf-8")
    config = f'numbers="{asked}" rounds={rounds} marks="{marks}"'
    done = subprocess.run(
        [program("flwr"), "run", str(app), "bench", "--run-config", config],
        env={**os.environ, **_environment(home)}, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ProcessError("`flwr run` did not start the run", got=(done.stderr or done.stdout)[-400:])
    _wait(supervisor, f"stock run {name}", marks.exists)
    if not (seen := json.loads(marks.read_text("utf-8"))):
        raise ProcessError("a round of stock Flower did not have both replies", got=name)
    return _between(seen)


def _environment(home: Path) -> dict[str, str]:
    """Return what keeps stock Flower in its folder and quiet, and no more: its own pace is left as it ships."""
    kept = ("PATH", "FLWR_HOME", "FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "PYTHONSAFEPATH")
    return {name: value for name, value in flower_environment(home).items() if name in kept}


# ---- both -----------------------------------------------------------------------------------------------------------


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _between(marks: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(marks)]


def _settle(supervisor: Supervisor) -> None:
    """Let nodes sign in, and the processes of the run before end: neither is part of a round."""
    time.sleep(SETTLE_S)
    supervisor.check()


def _wait(supervisor: Supervisor, what: str, ready: Callable[[], bool]) -> None:
    patience = time.monotonic() + PATIENCE_S
    while not ready():
        supervisor.check()
        if time.monotonic() > patience:
            raise ProcessError(f"{what} did not come to its end in {PATIENCE_S:.0f} s")
        time.sleep(0.1)


def _bar(size: Size, took: Took) -> Bar:
    stock = min(median(took[f"{way}_{size.name}"]) for way in ("stock_one", "stock_many"))
    return Bar(f"round_over_stock_{size.name}", median(took[f"both_{size.name}"]) / stock, size.bar)


def _print(size: Size, took: Took) -> None:
    schema = size.schema
    both, half, tensors = schema.numel("both") * 4 / 1e6, schema.numel("B") * 4 / 1e6, len(schema.specs("both"))
    ways = {
        "both": ("ours, A and B", "fp16, sealed", both),
        "ffa": ("ours, B (default)", "fp16, sealed", half),
        "stock_one": ("stock, 1 array", "fp32", both),
        "stock_many": (f"stock, {tensors} arrays", "fp32", both),
    }
    ours = median(took[f"both_{size.name}"])
    table(
        f"a round without training, two nodes, {both:.0f} MB of float32 out to each, load {os.getloadavg()[0]:.1f}",
        ("way", "wire", "MB back", "rounds", "s", "slowest", "ours over it"),
        [
            (words, wire, f"{back:.0f}", str(len(s)), f"{median(s):.2f}", f"{max(s):.2f}", f"{ours / median(s):.2f}")
            for way, (words, wire, back) in ways.items()
            for s in [took[f"{way}_{size.name}"]]
        ],
    )


if __name__ == "__main__":
    main()
