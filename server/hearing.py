"""The answers to one round's tasks as they come: each is admitted and spooled, or refused, and gets its verdict."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flwr.app import Message

from common.courier_records import to_envelope
from common.errors import BottegaError, RunError
from common.proto import bottega_pb2 as pb
from security.admission import AdmittedUpdate, Check, Refused, Terms, admit
from security.names import SpiffeId
from security.replay import NonceBook
from server.closing import Answers
from server.judging import Sitting
from server.pulling import Unreadable
from server.run import Asked
from server.spool import Spool
from server.store import Store, Verdict
from server.verdicts import refusal

log = logging.getLogger("bottega.rounds")

REVOKED = "the site was revoked after it was asked"

MOST_KEPT = 2**26
"""Of an answer that was refused, bytes: a longer one is not kept for a replay. What was admitted always is."""


@dataclass(frozen=True)
class Arrival:
    """One answer that was brought, as a replay needs it.

    Attributes:
        site: Whose.
        at_ms: When, Unix time in milliseconds.
        kept: Whether the spool has it.
    """

    site: str
    at_ms: int
    kept: bool


@dataclass(frozen=True)
class Told:
    """What the ledger says of an admitted update besides its verdict.

    Attributes:
        signed: SHA-256 (hex) of what the site signed.
        privacy: How its drawings were protected; None when the run is not private.
    """

    signed: str
    privacy: pb.Privacy | None


@dataclass
class Hearing:
    """Hears the answers of one round.

    Attributes:
        run: The run's id.
        number: The round.
        store: Keeps the verdicts.
        is_member: Whether somebody belongs to the federation at this moment.
        asked: Who was sent a task, by node.
        spool: The round's.
        nonces: Remembers answers, over all rounds.
        sitting: Looks at what is admitted; None in a run without a detector, or where sites only look.
        keeps_refused: Whether what is refused goes to the spool too, for a replay.
    """

    run: str
    number: int
    store: Store
    is_member: Callable[[SpiffeId], bool]
    asked: dict[int, Asked]
    spool: Spool
    nonces: NonceBook
    sitting: Sitting | None
    keeps_refused: bool = False
    admitted: dict[str, Terms] = field(default_factory=dict)
    ballots: dict[str, tuple[float, ...]] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    cosignatures: dict[SpiffeId, bytes] = field(default_factory=dict)
    arrivals: list[Arrival] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    _answered: set[str] = field(default_factory=set)

    def hear(self, replies: Iterable[Message | Unreadable]) -> None:
        """Take in each reply as it comes; who has not answered at their end is told to be late."""
        for reply in replies:
            asked = self.asked.get(reply.node if isinstance(reply, Unreadable) else reply.metadata.src_node_id)
            if asked is None:
                continue  # from a node that was asked nothing: Flower does not let one reply, and nothing is owed to it
            now_ms = int(time.time() * 1000)
            try:
                letter, body = self._brought(asked.terms, reply)
            except Refused as why:
                if self._first(asked):
                    self.arrivals.append(Arrival(asked.site, now_ms, kept=False))
                    self._refuse(asked.site, why)
            else:
                self.take(asked, letter, body, now_ms)
        self.end()

    def take(self, asked: Asked, letter: bytes, body: bytes | memoryview, now_ms: int) -> None:
        """Admit an answer, or refuse it.

        Args:
            asked: Whose it is.
            letter: As it came.
            body: As it came.
            now_ms: When it came, Unix time in milliseconds.
        """
        if not self._first(asked):
            return
        site = asked.site
        try:
            update = admit(letter, body, asked.terms, now_ms=now_ms, nonces=self.nonces)
            self._keep(site, letter, body)
        except Refused as why:
            kept = self._kept_refused(site, letter, body)
            self._refuse(site, why, hashlib.sha256(body).hexdigest())
            self.arrivals.append(Arrival(site, now_ms, kept))
            return
        self.arrivals.append(Arrival(site, now_ms, kept=True))
        self._let_in(asked.terms, update)

    def end(self) -> None:
        """Hear no more: whoever has not answered is late."""
        for asked in self.asked.values():
            if asked.site not in self._answered:
                self._refuse(asked.site, Refused(Check.IN_TIME, "no answer came before the round closed"))

    def _first(self, asked: Asked) -> bool:
        """Return whether this is a site's first answer. The store keeps the first verdict: the first answer stands."""
        if asked.site in self._answered:
            self._refuse(asked.site, Refused(Check.FIRST_ANSWER, "the site has answered this task before"))
            return False
        self._answered.add(asked.site)
        return True

    def answers(self) -> Answers:
        """Return what was admitted, of sites that are still members: of who was revoked since, nothing is averaged."""
        for site in [site for site, terms in self.admitted.items() if not self.is_member(terms.site.id)]:
            del self.admitted[site]
            self.revoked.append(site)
            self.store.overrule(self.run, self.number, refusal(site, Refused(Check.MEMBER, REVOKED)))
            log.warning("round %d: %s left out by check %d: %s", self.number, site, Check.MEMBER, REVOKED)
        return Answers(self.spool, self.admitted, self.ballots)

    def _brought(self, terms: Terms, reply: Message | Unreadable) -> tuple[bytes, bytes]:
        if not self.is_member(terms.site.id):
            raise Refused(Check.MEMBER, REVOKED)
        if isinstance(reply, Unreadable):
            raise Refused(Check.DELIVERED, "what came cannot be read", got=reply.why, expected="an envelope")
        if reply.has_error():
            raise Refused(
                Check.DELIVERED, "the courier brought an error", got=_said(reply.error.reason), expected="an envelope"
            )
        try:
            return to_envelope(reply.content)
        except BottegaError as why:
            raise Refused(Check.DELIVERED, why.what, got=why.got, expected=why.expected) from None

    def _keep(self, site: str, letter: bytes, body: bytes | memoryview) -> None:
        try:
            self.spool.keep(site, letter, body)
        except RunError as why:
            raise Refused(Check.SPOOLED, why.what, got=why.got, expected=why.expected) from None

    def _kept_refused(self, site: str, letter: bytes, body: bytes | memoryview) -> bool:
        if not self.keeps_refused or len(letter) + len(body) > MOST_KEPT:
            return False
        try:
            self.spool.keep(site, letter, body)
        except RunError:
            return False
        return True

    def _let_in(self, terms: Terms, update: AdmittedUpdate) -> None:
        site = update.site
        if self.sitting:
            self.sitting.see(update)
        self.admitted[site], self.ballots[site] = terms, update.ballot
        self.told[site] = Told(update.signed, update.privacy)
        verdict = Verdict(site, True, 0, Check.ADMITTED.slug, "", update.examples, update.norm, update.digest)
        self.store.record(self.run, self.number, verdict, {**update.metrics, "seconds": update.seconds})
        if update.privacy is not None:
            self.store.remember_budget(site, update.privacy.budget)
        if update.cosignature:
            self.cosignatures[terms.site.id] = update.cosignature
        log.info("round %d: %s admitted", self.number, site)

    def _refuse(self, site: str, why: Refused, digest: str | None = None) -> None:
        log.warning("round %d: %s refused by check %d (%s): %s", self.number, site, why.check, why.check.slug, why)
        self.store.record(self.run, self.number, refusal(site, why, digest), {})


def _said(text: str | None) -> str:
    return "".join(c if c.isprintable() else " " for c in text or "nothing")[:200]
