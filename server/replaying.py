"""Doing a round again, and holding what comes of it to what the ledger says of it.

A replay runs the very code that closed the round, on the answers as they came: admission, the detector, what sites
said, aggregation. It writes into a store of its own and into no ledger. What it comes to is compared entry by entry,
number by number and, for the adapter, bit by bit.

What cannot be done again is said and passed over: an answer that never came, or was too long to be kept; the noise that
protects sites as a whole, which nobody keeps.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from common.adapter_schema import Adapter
from common.errors import LedgerError
from common.export import adapter_weights
from security.admission import ANSWER_LIFE_MS, AdmittedUpdate, Terms
from security.chronicle import RoundStory, RunStory
from security.entries import Entry, RoundClosed, TakenBack, Update
from security.envelope import Opener
from security.identity import Peer
from security.keys import VerifyKey
from security.names import Role, SpiffeId
from security.replay import NonceBook
from security.run_order import RunOrder
from server.aggregation import Round
from server.closing import Answers, Closer, Closing
from server.cross_validation import Evidence
from server.examination import Closed, Examination
from server.hearing import Hearing, Told
from server.judging import Judging, Sitting
from server.round_entries import closing_entries, measured_entries
from server.run import Asked
from server.spool import Spool
from server.start import fresh_state
from server.state import RunState
from server.store import Store
from server.transcript import Transcript
from server.verdicts import record_closing

if TYPE_CHECKING:
    from security.judgement import Judgement
    from security.keys import SealingPublicKey


class ReplaySource(Protocol):
    """What a replay works on: a server's home, or what was exported of one."""

    @property
    def order(self) -> RunOrder:
        """The run's order, as its operator signed it."""

    @property
    def signed(self) -> bytes:
        """Its exact bytes."""

    @property
    def opener(self) -> Opener:
        """Opens the letters."""

    @property
    def sealing(self) -> SealingPublicKey:
        """Any key: a replay seals nothing, but a peer has one."""

    @property
    def rehearsal(self) -> bytes | None:
        """What the detector began with."""

    @property
    def rounds(self) -> Collection[int]:
        """The rounds that can be replayed."""

    def keys_of(self, site: str) -> Collection[str]:
        """Return the Ed25519 keys, hex, that a site ever had by the roster."""

    def transcript(self, number: int) -> Transcript:
        """Return a round's transcript, or raise LedgerError."""

    def answers(self, number: int) -> Spool:
        """Return a round's answers."""

    def memory(self, number: int) -> bytes | None:
        """Return what the detector knew before a round."""

    def corrected(self, number: int) -> RunState | None:
        """Return what a round's updates were added to, where updates of the round before were taken out again."""

    def state(self, number: int) -> RunState:
        """Return what a round ended with."""


@dataclass(frozen=True)
class Difference:
    """One thing that a replay came to and the ledger does not say.

    Attributes:
        what: Of which entry, such as ``verdict on rossi``.
        ledger: What is in the ledger.
        replay: What the replay came to.
    """

    what: str
    ledger: str
    replay: str


@dataclass(frozen=True)
class Replayed:
    """What came of a replay.

    Attributes:
        number: The round.
        compared: How many entries were.
        adapter: SHA-256 (hex) of the adapter it ended with, as a file; None of a last look.
        differences: Empty where everything is the same.
        passed_over: What could not be done again, in words.
    """

    number: int
    compared: int
    adapter: str | None
    differences: tuple[Difference, ...]
    passed_over: tuple[str, ...]


def replay(source: ReplaySource, number: int, run: RunStory) -> Replayed:
    """Do a round again and compare.

    Args:
        source: Has the round.
        number: The round.
        run: What the ledger says of its run.

    Raises:
        LedgerError: There was no such round, it was not kept or did not close, or what was kept does not fit together.
    """
    story = run.rounds.get(number)
    if story is None:
        raise LedgerError(
            "there is no such round", got=f"round {number}", expected=f"1 to {max(run.rounds, default=0)}",
            advice="See `bottega audit rounds`.",
        )  # fmt: skip
    if story.closed is None:
        raise LedgerError("a round that did not close cannot be replayed", got=f"round {number}", advice="Wait for it.")
    with ExitStack() as open_, _quiet(), tempfile.TemporaryDirectory(prefix="bottega-replay-") as folder:
        store = open_.enter_context(Store(Path(folder) / "replay.db"))
        again = _Again(source, number, store, Path(folder))
        entries, digest = again.entries()
    passed = list(again.passed_over(story))
    skipped = {site for site, _ in passed}
    differences = [d for entry in entries for d in _compared(entry, story, skipped, noised=again.noised)]
    differences += _taken_back(entries, number, run.rounds.get(number - 1))
    differences += again.beginnings(run.started.order, story)
    told = [words for _, words in passed]
    if again.noised:
        told.append("the noise that protects sites is not kept, so the adapter cannot be made again")
    return Replayed(number, len(entries), digest, tuple(differences), tuple(told))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the round loop logs of verdicts out of the log: they were told when they were given."""
    told = logging.getLogger("bottega.rounds")
    before, told.disabled = told.disabled, True
    try:
        yield
    finally:
        told.disabled = before


class _Again:
    """One round, done again."""

    def __init__(self, source: ReplaySource, number: int, store: Store, folder: Path) -> None:
        self._source, self._number, self._store, self._folder = source, number, store, folder
        self._transcript = source.transcript(number)
        self._settings = source.order.settings
        self._run = source.order.run
        store.start_run(self._run, source.signed)
        store.open_round(self._run, number, "train" if self._transcript.trains else "evaluate", 0)

    @property
    def noised(self) -> bool:
        """Whether the adapter cannot be made again."""
        return bool(self._settings.site_privacy)

    def entries(self) -> tuple[list[Entry], str | None]:
        """Return the entries that the round comes to, and the digest of its adapter."""
        hearing = self._heard()
        answers = hearing.answers()
        if not self._transcript.trains:
            return measured_entries(self._store, self._run, self._number, hearing.told, self._settings), None
        closing = self._closed(hearing, answers)
        return self._told(hearing.told, closing)

    def beginnings(self, order: str, story: RoundStory) -> Iterator[Difference]:
        """Yield how what the replay began with differs from what the ledger says that the round began with."""
        digest = hashlib.sha256(self._source.signed).hexdigest()
        if digest != order:
            yield Difference("order of the run", order, digest)
        sent = hashlib.sha256(adapter_weights(self._state(self._number - 1).adapter)).hexdigest()
        if sent != story.opened.adapter:
            yield Difference("adapter that sites were sent", story.opened.adapter, sent)
        if asked := set(story.opened.asked) ^ self._transcript.asked.keys():
            yield Difference("who was asked", f"{len(story.opened.asked)} sites", f"not the same: {sorted(asked)}")
        for site, one in self._transcript.asked.items():
            if one.verify not in self._source.keys_of(site):
                yield Difference(f"key of {site}", "another, by the roster", _short(one.verify))

    def passed_over(self, story: RoundStory) -> Iterator[tuple[str, str]]:
        """Yield each site whose verdict cannot be made again, and why."""
        kept = {one.site for one in self._transcript.came if one.kept}
        for site in sorted(story.updates):
            if site not in kept and site in {one.site for one in self._transcript.came}:
                yield site, f"what {site} sent was not kept: {story.updates[site].check_name}"

    def _told(self, told: dict[str, Told], closing: Closing) -> tuple[list[Entry], str]:
        record_closing(self._store, self._run, self._number, closing)
        digest = hashlib.sha256(adapter_weights(closing.end.adapter)).hexdigest()
        return closing_entries(self._store, self._run, self._number, self._settings, told, closing, digest), digest

    def _heard(self) -> Hearing:
        transcript = self._transcript
        gone = {SpiffeId(self._source.opener.id.federation, Role.SITE, site) for site in transcript.revoked}
        hearing = Hearing(
            self._run, self._number, self._store, lambda _: True,
            {place: Asked(self._terms(site), place) for place, site in enumerate(sorted(transcript.asked))},
            Spool(self._folder / "answers"), NonceBook(ANSWER_LIFE_MS), self._sitting(), keeps_refused=True,
        )  # fmt: skip
        kept = self._source.answers(self._number)
        by_site = {asked.site: asked for asked in hearing.asked.values()}
        for one in transcript.came:
            if one.kept:
                hearing.take(by_site[one.site], *kept.take(one.site), one.at_ms)
        hearing.end()
        hearing.is_member = lambda who: who not in gone
        return hearing

    def _terms(self, site: str, number: int | None = None) -> Terms:
        transcript = self._transcript if number is None else self._source.transcript(number)
        order, settings, asked = self._source.order, self._settings, transcript.asked[site]
        federation = self._source.opener.id.federation
        key = VerifyKey(bytes.fromhex(asked.verify))
        return Terms(
            server=self._source.opener,
            site=Peer(SpiffeId(federation, Role.SITE, site), key, self._source.sealing),
            run=order.run,
            round_number=transcript.round,
            task_nonce=bytes.fromhex(asked.nonce),
            schema=order.schema,
            part=settings.lora.trained if transcript.trains else None,
            encoding=settings.encoding,
            norm_bound=settings.aggregation.norm_bound,
            privacy=settings.privacy if transcript.trains else False,
            closes_at_ms=transcript.closes_at_ms,
            ballot=transcript.ballot,
        )

    def _sitting(self) -> Sitting | None:
        transcript = self._transcript
        if transcript.seed is None:
            return None
        adapters = [self._adapter(one.round, corrected=one.corrected) for one in transcript.past]
        return Sitting.open(self._number, adapters, self._settings.lora.trained, transcript.seed)

    def _adapter(self, number: int, *, corrected: bool) -> Adapter:
        if corrected:
            return self._start_of(number).adapter
        return self._state(number).adapter

    def _state(self, number: int) -> RunState:
        if number == 0:
            return fresh_state(self._source.order.schema, self._settings)
        return self._source.state(number)

    def _start_of(self, number: int) -> RunState:
        """Return what a round's updates were added to."""
        return self._source.corrected(number) or self._state(number - 1)

    def _closed(self, hearing: Hearing, answers: Answers) -> Closing:
        closer = Closer(self._settings, None, self._examination())
        judge = (lambda sites: self._judged(hearing, sites)) if hearing.sitting else None
        return closer.close(self._number, self._state(self._number - 1), answers, judge, self._folder)

    def _judged(self, hearing: Hearing, sites: Collection[str]) -> Judgement:
        detector, sitting = self._settings.detector, hearing.sitting
        if not detector or sitting is None:
            raise LedgerError("a run without a detector is not judged")
        memory = self._source.memory(self._number)
        return Judging(detector, self._source.rehearsal, memory).judge(sitting, sites)

    def _examination(self) -> Examination | None:
        cross = self._settings.cross_validation
        if cross is None:
            return None
        evidence = Evidence.of_heard(
            [(frozenset(one.group), one.effect, one.deviation) for one in found] for found in self._transcript.evidence
        )
        closed = self._before if self._transcript.groups else None
        return Examination.recalled(cross, evidence, closed, self._transcript.groups)

    @cached_property
    def _before(self) -> Closed:
        """The round before, as it may be taken back."""
        number = self._number - 1
        earlier, settings = self._source.transcript(number), self._settings
        terms = {site: self._terms(site, number) for site in earlier.shares}
        answers = Answers(self._source.answers(number), terms, {})

        def updates(sites: Collection[str]) -> Iterator[AdmittedUpdate]:
            return answers.updates(sites, earlier.shares)

        this = Round(number, settings.lora.method, settings.aggregation, None, len(earlier.averaged), self._folder)
        return Closed(this, self._start_of(number), self._state(number), frozenset(earlier.averaged), updates)


def _compared(entry: Entry, story: RoundStory, skipped: Collection[str], *, noised: bool) -> Iterator[Difference]:
    """Yield how an entry of the replay differs from the ledger's."""
    if isinstance(entry, Update):
        if entry.site in skipped:
            return
        yield from _fields(f"verdict on {entry.site}", story.updates.get(entry.site), entry, ())
    elif isinstance(entry, RoundClosed):
        left_out = ("adapter", "site_epsilon") if noised else ()
        yield from _fields("end of the round", story.closed, entry, left_out)


def _taken_back(entries: Iterable[Entry], number: int, before: RoundStory | None) -> Iterator[Difference]:
    """Yield how what a round took back differs: the ledger tells of it in the round that the updates were in."""
    ours = {site for entry in entries if isinstance(entry, TakenBack) for site in entry.sites}
    told = before.taken_back.items() if before else ()
    theirs = {site for site, entry in told if entry.found_in == number}
    if ours != theirs:
        yield Difference("updates taken back", ", ".join(sorted(theirs)) or "none", ", ".join(sorted(ours)) or "none")


def _fields(what: str, told: Entry | None, again: Entry, left_out: Collection[str]) -> Iterator[Difference]:
    if told is None:
        yield Difference(what, "no entry", "an entry")
        return
    ours, theirs = again.model_dump(mode="json"), told.model_dump(mode="json")
    for name in sorted(ours.keys() | theirs.keys()):
        if name != "at" and name not in left_out and ours.get(name) != theirs.get(name):
            yield Difference(f"{what}: {name}", _short(theirs.get(name)), _short(ours.get(name)))


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
