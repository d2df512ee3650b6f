"""A whole federation in memory: a real server's house, real site agents, real envelopes; only Flower's wire is ours.

Each site has a :class:`Way`: honest, or one kind of hostile. What a site does wrong inside (its tensors, its numbers)
its bench does, and its own agent seals it; what is done to an envelope is done on the way.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from client.agent import SiteAgent
from client.final_look import ObjectionError
from client.ledger_book import LedgerBook
from client.policy import RuleError
from client.settings import SiteSettings
from client.settling import settle
from client.work import Answer, Bench, Job, opened_adapters
from common.adapter_schema import Adapter, AdapterSchema, LoraModule
from common.adapters import pack
from common.courier_records import from_envelope, to_envelope
from common.errors import BottegaError
from common.paths import ServerHome, SiteHome
from common.proto import bottega_pb2 as pb
from common.settings import AggregationSettings, LoraSettings, RunSettings
from security.entries import Checked, moment
from security.envelope import Kind, peek_header, seal_body, seal_letter
from security.identity import Identity, Peer
from security.key_folder import open_key_folder
from security.names import Role, SpiffeId
from security.roster import Roster
from security.run_order import RunOrder, sign_order
from server.founding import add_site, found
from server.house import open_house
from server.operating import load_operator
from server.rounds import SealedRounds
from server.run import Run
from server.run_desk import begun
from server.settings import ServerSettings
from server.start import starting_state
from server.state import RunState, RunStates
from server.store import Store, Verdict
from server.supernodes import flower_key

RUN = "r1"
FEDERATION = "rounds.test"
SCHEMA = AdapterSchema((LoraModule("mid.attn.to_q", 24, 20, 2), LoraModule("mid.attn.to_k", 16, 20, 2)))
SETTINGS = RunSettings(
    privacy=False,
    rounds=1,
    quorum=2,
    encoding="fp32",
    deadline_s=20.0,
    patience=0.0,
    gather_s=1.0,
    lora=LoraSettings(rank=2),
    aggregation=AggregationSettings(norm_bound=10.0),
    detector=False,
)


class Way(StrEnum):
    """How a site behaves. All but the first four are refused."""

    HONEST = "honest"
    TWICE = "the same answer twice"
    LATE = "late"
    SILENT = "silent"
    ERROR = "an error reply"
    NO_ENVELOPE = "records that are no envelope"
    STRANGE_LETTER = "a letter that is no bytes"
    GARBLED_LETTER = "a changed letter"
    GARBLED_BODY = "a changed body"
    TRUNCATED_BODY = "a shortened body"
    TASK_GARBLED = "its task was changed on the way"
    TASK_OF_ANOTHER = "its task was swapped with another site's"
    REPLAYED = "the last round's answer again"
    FOREIGN = "signed with another key"
    POSING = "in the name of another site"
    MISADDRESSED = "sealed to another server"
    STALE = "sealed an hour ago"
    OTHER_TASK = "for another task"
    REFUSES = "a refusal"
    WRONG_RANK = "another rank"
    MISSING_TENSOR = "a tensor missing"
    EXTRA_TENSOR = "a tensor too many"
    OTHER_ENCODING = "another encoding"
    GARBAGE = "random bytes for tensors"
    NAN = "a NaN"
    INFINITE = "an infinity"
    NAN_METRIC = "a metric that is NaN"
    NO_EXAMPLES = "no example claimed"
    HUGE = "a huge norm"
    SPRAWLING = "a metric with a name of two million letters"
    BREAKS_FLOWER = "an object that Flower cannot inflate"
    ANNOUNCES = "an answer is announced and never sent"
    OBJECTS = "an honest update, then an objection to the adapter"


def a_delta(site: str, number: int, b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what an honest site has learned: its own in each round, and dependent on the adapter that it was given."""
    chance = np.random.default_rng(list(hashlib.sha256(f"{site}/{number}".encode()).digest()))
    return (chance.standard_normal(b.size) * 0.05 - 0.1 * b).astype(np.float32)


class Easel(Bench):
    """A bench without a model: it opens the adapter it was sent and packs a change of it."""

    def __init__(self, site: str, way: Way) -> None:
        self._site, self.way = site, way
        self.metrics: dict[str, float] = {}
        self.plain: list[bytes] = []
        """Every plaintext that this bench saw or made."""
        self.tasks = 0

    def check(self, order: RunOrder) -> None:
        """Allow every run: what a site refuses, its way says."""

    def answer(
        self,
        job: Job,
        open_body: Callable[[], memoryview],
    ) -> Answer:
        """Do what the site's way is."""
        self.tasks += 1
        schema = job.order.schema
        if self.way is Way.REFUSES:
            raise RuleError("so many steps a round", rule="most_steps", got=12, expected="at most 3")
        body = open_body()
        self.plain.append(bytes(body))
        if job.work == pb.WORK_EVALUATE and self.way is Way.OBJECTS:
            raise ObjectionError("the adapter repeats drawings of this studio")
        if job.work == pb.WORK_EVALUATE:
            return Answer(pb.Update(examples=8, metrics={"held_out_loss": 0.25}), b"")
        adapter, candidates = opened_adapters(schema, body, job.candidates)
        delta = self.learned(job.number, adapter)
        tensors = _tensors(self.way, delta, schema, job.order.settings)
        self.plain.append(tensors)
        examples = 0 if self.way is Way.NO_EXAMPLES else 10 + len(self._site)
        told = pb.Update(
            examples=examples,
            metrics=_metrics(self.way) | self.metrics,
            seconds=0.5,
            ballot=self.ballot(adapter, candidates),
        )
        return Answer(told, tensors)

    def learned(self, number: int, adapter: Adapter) -> NDArray[np.float32]:
        """Return what the site has learned in a round."""
        return a_delta(self._site, number, adapter.b)

    def ballot(self, adapter: Adapter, candidates: Sequence[Adapter]) -> list[float]:  # noqa: ARG002 (of others)
        """Return what the site says of the candidates: nothing."""
        return []


def _tensors(way: Way, delta: NDArray[np.float32], schema: AdapterSchema, terms: RunSettings) -> bytes:
    other = {
        Way.WRONG_RANK: schema.with_rank(3),
        Way.MISSING_TENSOR: AdapterSchema(schema.modules[:1]),
        Way.EXTRA_TENSOR: AdapterSchema((*schema.modules, LoraModule("mid.attn.to_v", 4, 20, 2))),
    }.get(way)
    if other is not None:
        return pack(np.full(other.numel("B"), 0.1, np.float32), other, "B", terms.encoding)
    if way is Way.GARBAGE:
        return bytes(range(256)) * 7
    packed = bytearray(
        pack(delta * (1000 if way is Way.HUGE else 1), schema, "B", "bf16" if way is Way.OTHER_ENCODING else "fp32")
    )
    if way in {Way.NAN, Way.INFINITE}:
        packed[-4:] = np.float32(np.nan if way is Way.NAN else np.inf).tobytes()
    return bytes(packed)


def _metrics(way: Way) -> dict[str, float]:
    if way is Way.SPRAWLING:
        return {"m" * 2_000_000: 1.0}
    return {"held_out_loss": float("nan") if way is Way.NAN_METRIC else 0.3, "training_loss": 0.4}


@dataclass
class Site:
    """One site: its home, keys, agent, and how it behaves."""

    name: str
    home: SiteHome
    identity: Identity
    server: Peer
    roster: Callable[[], Roster]
    node: int
    way: Way = Way.HONEST
    delay_s: float = 0.0
    """How long after the task its answer arrives."""
    easel: Easel = field(init=False)
    agent: SiteAgent = field(init=False)
    last: RecordDict | None = None

    def __post_init__(self) -> None:
        self.easel = Easel(self.name, self.way)
        self.restart()

    def restart(self) -> None:
        """Start the agent anew on the same home."""
        book = LedgerBook(self.home.witness, self.identity, lambda: self.server.verify)
        self.agent = SiteAgent(self.identity, self.roster, self.easel, self.home.nonces, book)

    def behave(self, way: Way, delay_s: float = 0.0) -> None:
        """Change how the site behaves."""
        self.way = self.easel.way = way
        self.delay_s = delay_s

    def replies(self, message: Message, swapped: RecordDict) -> list[RecordDict | Error]:
        """Return what comes back for a task.

        Args:
            message: The task.
            swapped: The content of another site's task of the same round.
        """
        way = self.way
        if way is Way.SILENT:
            return []
        if way is Way.ERROR:
            return [Error(2, "the courier broke\nhere")]
        if way is Way.NO_ENVELOPE:
            return [RecordDict({"weights": ArrayRecord([np.ones(3)])})]
        letter, body = to_envelope(swapped if way is Way.TASK_OF_ANOTHER else message.content)
        if way in _FORGED:
            return [self._forged(letter)]
        if way is Way.TASK_GARBLED:
            body = _flipped(body)
        try:
            answer, sealed = self.agent.answer(letter, body)
        except BottegaError as why:
            return [Error(2, str(why))]
        return self._sent(answer, bytes(sealed))

    def _sent(self, letter: bytes, body: bytes) -> list[RecordDict | Error]:
        honest, last = from_envelope(letter, body), self.last
        self.last = honest
        if self.way is Way.REPLAYED and last is not None:
            return [last]
        if self.way is Way.GARBLED_LETTER:
            return [from_envelope(_flipped(letter), body)]
        if self.way is Way.GARBLED_BODY:
            return [from_envelope(letter, _flipped(body))]
        if self.way is Way.TRUNCATED_BODY:
            return [from_envelope(letter, body[:-1])]
        if self.way is Way.STRANGE_LETTER:
            array = Array(dtype="uint8", shape=(3,), stype="bottega.sealed", data=b"abc")
            record = ArrayRecord({"sealed": array})
            return [RecordDict({"body": record, "letter": ConfigRecord({"letter": "no bytes"})})]
        return [honest, honest] if self.way is Way.TWICE else [honest]

    def _forged(self, task: bytes) -> RecordDict:
        """Answer without the agent, with one thing that is not as it should be."""
        header, stranger = peek_header(task), Identity.generate(self.identity.id)
        sender, recipient = self.identity, self.server
        if self.way is Way.FOREIGN:
            sender = replace(sender, signing=stranger.signing)
        elif self.way is Way.POSING:
            sender = replace(sender, id=SpiffeId(FEDERATION, Role.SITE, "anna"))
        elif self.way is Way.MISADDRESSED:
            recipient = Identity.generate(SpiffeId(FEDERATION, Role.SERVER, "elsewhere")).peer
        tensors = pack(np.full(SCHEMA.numel("B"), 0.125, np.float32), SCHEMA, "B", "fp32")
        self.easel.plain.append(tensors)
        body = seal_body(tensors)
        letter = seal_letter(
            kind=Kind.UPDATE, run=header.run, round_number=header.round_number,
            in_reply_to=b"x" * 16 if self.way is Way.OTHER_TASK else header.nonce,
            manifest=pb.Update(examples=10).SerializeToString(), body=body, sender=sender, recipient=recipient,
            now_ms=int(time.time() * 1000) - (3_600_000 if self.way is Way.STALE else 0),
        )  # fmt: skip
        return from_envelope(letter, body.ciphertext)


_FORGED = frozenset({Way.FOREIGN, Way.POSING, Way.MISADDRESSED, Way.STALE, Way.OTHER_TASK})


class Post(Grid):  # type: ignore[misc]
    """Flower's grid, in memory: a pushed task is answered at once, its reply arrives when it is due.

    Args:
        sites: Who is online.
        order: Names of sites in the order in which their replies arrive, one a look; by default as they are due.
        on_pull: Called at each look.
    """

    def __init__(
        self, sites: Iterable[Site], order: Sequence[str] = (), on_pull: Callable[[], None] = lambda: None
    ) -> None:
        # What Flower sets in the process of a ServerApp before it starts.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self._sites = {site.node: site for site in sites}
        self._order, self.on_pull = list(order), on_pull
        self._numbers = itertools.count(1)
        self._due: list[tuple[float, Message]] = []
        self._one_looks = threading.Lock()
        self.carried: list[RecordDict] = []
        """All content that went over the wire, both ways."""
        self.pushes = 0
        self.fails_at: int | None = None
        """The number of the push that fails, as if the SuperLink had gone."""

    def set_run(self, run: object) -> None:
        """Do nothing: a run of ours is known by its own id."""

    @property
    def run(self) -> object:
        """None: a run of ours is known by its own id."""
        return None

    def create_message(self, *_: object, **__: object) -> Message:
        """Refuse: messages are made by their class."""
        raise NotImplementedError

    def send_and_receive(self, *_: object, **__: object) -> Iterable[Message]:
        """Refuse: it would hold all replies in memory."""
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        """Return who is online."""
        return list(self._sites)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return who is online, with the keys that SuperNodes sign with; and one node that nobody knows."""
        known = [
            NodeInfo(node_id=s.node, public_key=flower_key(s.home.supernode_key.with_suffix(".pub").read_bytes()))
            for s in self._sites.values()
        ]
        return [*known, NodeInfo(node_id=999, public_key=b"unknown")]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand each task to its site."""
        self.pushes += 1
        if self.pushes == self.fails_at:
            raise ConnectionError("the SuperLink is gone")
        tasks = list(messages)
        now = time.monotonic()
        for at, task in enumerate(tasks):
            task.metadata.__dict__["_message_id"] = f"{next(self._numbers):06d}"
            site = self._sites[task.metadata.dst_node_id]
            self.carried.append(task.content)
            for reply in site.replies(task, tasks[at - 1].content):
                self._due.append((now + site.delay_s, Message(reply, reply_to=task)))
                if isinstance(reply, RecordDict):
                    self.carried.append(reply)
        return [task.metadata.message_id for task in tasks]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are due."""
        self.on_pull()
        with self._one_looks:
            came = self._taken(set(message_ids))
        ways = {self._sites[message.metadata.src_node_id].way for message in came}
        if Way.BREAKS_FLOWER in ways:
            raise DecodeError("what a site sent cannot be inflated")
        if Way.ANNOUNCES in ways:
            time.sleep(inflatable_utils.pull_objects.__kwdefaults__["max_time"])
            return []
        return came

    def _taken(self, asked: set[str]) -> list[Message]:
        now = time.monotonic()
        ready = [entry for entry in self._due if entry[0] <= now]
        if self._order and ready:
            ready = [min(ready, key=lambda entry: self._order.index(self._sites[entry[1].metadata.src_node_id].name))]
        ready = [entry for entry in ready if entry[1].metadata.reply_to_message_id in asked]
        self._due = [entry for entry in self._due if all(entry is not one for one in ready)]
        return [message for _, message in ready]


class Federation:
    """A founded server and its settled sites, with a store in which one run is open.

    Args:
        root: Where the homes are made.
        names: Of the sites.
        settings: Of the run.
    """

    def __init__(self, root: Path, names: Sequence[str], settings: RunSettings = SETTINGS) -> None:
        self.home, self.settings = ServerHome(root / "server"), settings
        found(self.home, ServerSettings(federation=FEDERATION), ["127.0.0.1"])
        homes = {name: SiteHome(root / name) for name in names}
        for name, home in homes.items():
            told = SiteSettings(federation=FEDERATION, name=name, server="127.0.0.1:8440", data=str(root))
            add_site(self.home, settle(home, told))
        self.house = open_house(self.home)
        self.sites = {
            name: Site(
                name,
                home,
                Identity.load(open_key_folder(home), SpiffeId(FEDERATION, Role.SITE, name)),
                self.house.identity.peer,
                lambda: self.house.roster,
                node=100 + at,
            )
            for at, (name, home) in enumerate(homes.items())
        }
        self.store = Store(self.home.database)
        operator = load_operator(self.home.operator).identity
        self.order = RunOrder(RUN, operator.id, settings, "0" * 64, SCHEMA, tuple(sorted(names)), 0)
        self.signed = sign_order(self.order, operator)
        self.store.start_run(RUN, self.signed, [begun(self.order, self.signed, resumed=False)])

    def post(self, order: Sequence[str] = (), on_pull: Callable[[], None] = lambda: None) -> Post:
        """Return a grid to all sites."""
        return Post(self.sites.values(), order, on_pull)

    def play(self, post: Post | None = None) -> None:
        """Run the run from where it stands to its end."""
        run = Run(self.order, self.signed, self.house, self.store)
        first, state = starting_state(run.states, self.store, self.settings, SCHEMA)
        SealedRounds(run, state, first).start(post or self.post())

    def checked(self, number: int = 1, *, after: float = 0.9, worse: bool = False) -> Checked:
        """Record that the adapter of a round was checked on public drawings, and with what result."""
        entry = self.a_check(number, after=after, worse=worse)
        self.store.checked(entry)
        return entry

    def a_check(self, number: int = 1, *, after: float = 0.9, worse: bool = False) -> Checked:
        """Return the entry of a check of a round's adapter."""
        digest = {row.round: row.adapter_digest for row in self.store.rounds(RUN)}[number]
        return Checked(
            at=moment(time.time()), run=RUN, round=number, adapter=digest or "", by=str(self.house.founder),
            drawings=64, of=hashlib.sha256(b"public").hexdigest(), alike=True, before=1.0, after=after, margin=0.05,
            worse=worse,
        )  # fmt: skip

    def verdicts(self, number: int = 1) -> dict[str, Verdict]:
        """Return the verdicts of a round by site."""
        return {verdict.site: verdict for verdict in self.store.verdicts(RUN, number)}

    def checks(self, number: int = 1) -> dict[str, str]:
        """Return the check that decided on each site in a round."""
        return {name: verdict.check for name, verdict in self.verdicts(number).items()}

    def state(self, number: int = 1) -> RunState:
        """Return what a round left."""
        return RunStates(self.home, RUN, self.house.keys.vault).load(number, SCHEMA)

    def digest(self, number: int = 1) -> str:
        """Return the SHA-256 (hex) of all that the next round starts from: both factors and the optimiser's memory."""
        state = self.state(number)
        return hashlib.sha256(state.adapter.a.tobytes() + state.adapter.b.tobytes() + state.optimiser).hexdigest()

    def outcome(self, number: int = 1) -> str:
        """Return how a round ended."""
        return {row.round: row.outcome for row in self.store.rounds(RUN)}[number]

    def files(self) -> list[Path]:
        """Return every file of the server's home."""
        return [file for file in self.home.root.rglob("*") if file.is_file()]


def _flipped(data: bytes) -> bytes:
    """Return ``data`` with one bit in its middle changed."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
