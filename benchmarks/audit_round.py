"""What the whole audit adds to one round: entries, flushes, signatures, proofs, receipts, and what sites do with them.

The server's own store, ledger and desk, and the books of real sites, in one process. A round is opened, shown to every
site, and closed, once with everything that the ledger needs and once with the store alone; what is between the two is
what the audit adds. Sites work side by side on machines of their own, so of theirs the slowest counts.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reporting import Bar, table
from client.ledger_book import LedgerBook
from client.settings import SiteSettings
from client.settling import settle
from common.adapter_schema import AdapterSchema, LoraModule
from common.paths import ServerHome, SiteHome
from common.proto import bottega_pb2 as pb
from common.settings import RunSettings
from security.admission import Check
from security.entries import Entry, RoundClosed, RoundOpened, Update
from security.identity import Identity
from security.key_folder import open_key_folder
from security.names import Role, SpiffeId
from security.run_order import RunOrder, sign_order
from server.founding import add_site, found
from server.house import House, open_house
from server.journal import now
from server.ledger_desk import LedgerDesk
from server.operating import load_operator
from server.run_desk import begun
from server.settings import ServerSettings
from server.store import Store, Verdict

RUN = "20260101-000000-aaaa"
FEDERATION = "bench.test"
MOST_MS = 50.0
MOST_SHARE = 0.01
DIGEST = "ab" * 32


@dataclass(frozen=True)
class Added:
    """What the audit adds to a round, seconds, medians over rounds.

    Attributes:
        sites: How many take part.
        server: At the server, for all sites.
        site: At the slowest site.
    """

    sites: int
    server: float
    site: float

    @property
    def total_ms(self) -> float:
        """Both, one after the other, milliseconds."""
        return 1000 * (self.server + self.site)


def measure(folder: Path, counts: Sequence[int], rounds: int) -> list[Added]:
    """Measure rounds with some numbers of sites.

    Args:
        folder: An empty one, on the disk to measure.
        counts: How many sites.
        rounds: How many rounds of each.
    """
    return [_Round(folder / str(count), count).measured(rounds) for count in counts]


def show(added: Sequence[Added], round_s: float) -> None:
    """Print what was measured beside the seconds of a round."""
    rows = [
        (str(one.sites), f"{1000 * one.server:.1f}", f"{1000 * one.site:.1f}", f"{one.total_ms:.1f}",
         f"{one.total_ms / 1000 / round_s:.2%}")
        for one in added
    ]  # fmt: skip
    title = f"What the audit adds to a round (a round without it: {round_s:.1f} s)"
    table(title, ("sites", "server, ms", "a site, ms", "together, ms", "of the round"), rows)


def bars(added: Sequence[Added], round_s: float) -> list[Bar]:
    """Return the bars, on the smallest federation that was measured: the demo's."""
    first = added[0]
    return [
        Bar("audit_ms_a_round", first.total_ms, MOST_MS),
        Bar("audit_share_of_a_round", first.total_ms / 1000 / round_s, MOST_SHARE),
    ]


class _Round:
    """A federation whose rounds can be opened, shown and closed."""

    def __init__(self, root: Path, count: int) -> None:
        home = ServerHome(root / "server")
        found(home, ServerSettings(federation=FEDERATION), ["127.0.0.1"])
        names = [f"site-{place:03d}" for place in range(count)]
        self._books = {name: _joined(home, SiteHome(root / name), name) for name in names}
        house: House = open_house(home)
        self._desk, self._store, self._names = LedgerDesk(house), Store(home.database), names
        schema = AdapterSchema((LoraModule("mid.attn.to_q", 6, 5, 2),))
        operator = load_operator(home.operator).identity
        order = RunOrder(RUN, operator.id, RunSettings(), "0" * 64, schema, tuple(names), 0)
        signed = sign_order(order, operator)
        self._store.start_run(RUN, signed, [begun(order, signed, resumed=False)])

    def measured(self, rounds: int) -> Added:
        """Return the medians over some rounds, of which every second is without a ledger."""
        audited, bare, sites = [], [], []
        for number in range(1, 2 * rounds + 1):
            if number % 2:
                server, site = self._audited(number)
                audited.append(server)
                sites.append(site)
            else:
                bare.append(self._bare(number))
        added = statistics.median(audited) - statistics.median(bare)
        return Added(len(self._names), added, statistics.median(sites))

    def _audited(self, number: int) -> tuple[float, float]:
        began = time.perf_counter()
        opened = RoundOpened(at=now(), run=RUN, round=number, work="train", asked=self._names, adapter=DIGEST)
        self._store.open_round(RUN, number, "train", len(self._names), [opened])
        showing = self._desk.shown(RUN, number - 2)  # the audited round before
        shown = {name: showing.to(_id(name)) for name in self._names}
        server = time.perf_counter() - began
        lines, site = self._at_sites(number, shown)
        self._verdicts(number)
        began = time.perf_counter()
        self._store.close_round(RUN, number, "aggregated", DIGEST, self._entries(number))
        self._desk.cosigned_by(showing.size, lines)
        self._desk.sign()
        return server + time.perf_counter() - began, site

    def _bare(self, number: int) -> float:
        began = time.perf_counter()
        self._store.open_round(RUN, number, "train", len(self._names))
        took = time.perf_counter() - began
        self._verdicts(number)
        began = time.perf_counter()
        self._store.close_round(RUN, number, "aggregated", DIGEST)
        return took + time.perf_counter() - began

    def _at_sites(self, number: int, shown: dict[str, pb.Shown]) -> tuple[dict[SpiffeId, bytes], float]:
        """Have every site look, and remember what it sends; return their lines and the seconds of the slowest."""
        lines, took = {}, []
        for name, book in self._books.items():
            began = time.perf_counter()
            lines[_id(name)] = book.see(shown[name])
            book.sent(RUN, number, _sealed(name, number))
            took.append(time.perf_counter() - began)
        return lines, max(took)

    def _verdicts(self, number: int) -> None:
        for name in self._names:
            verdict = Verdict(name, True, 0, Check.ADMITTED.slug, "", 400, 1.0, _sealed(name, number).hex())
            self._store.record(RUN, number, verdict, {"seconds": 1.0})

    def _entries(self, number: int) -> list[Entry]:
        told: list[Entry] = [
            Update(
                at=now(), run=RUN, round=number, site=name, verdict="admitted", check=0, check_name="admitted",
                sealed=_sealed(name, number).hex(), signed=DIGEST, examples=400, weight=400.0, norm=1.0, p_value=0.5,
            )
            for name in self._names
        ]  # fmt: skip
        closed = RoundClosed(
            at=now(), run=RUN, round=number, outcome="aggregated", rule="mean", averaged=self._names, adapter=DIGEST
        )
        return [*told, closed]


def _joined(server: ServerHome, home: SiteHome, name: str) -> LedgerBook:
    told = SiteSettings(federation=FEDERATION, name=name, server="127.0.0.1:8440", data=str(home.root))
    add_site(server, settle(home, told))
    me = Identity.load(open_key_folder(home), _id(name))
    key = open_house(server).identity.signing.public
    return LedgerBook(home.witness, me, lambda: key)


def _id(name: str) -> SpiffeId:
    return SpiffeId(FEDERATION, Role.SITE, name)


def _sealed(name: str, number: int) -> bytes:
    return hashlib.sha256(f"{name}/{number}".encode()).digest()
