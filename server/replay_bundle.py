"""Replays elsewhere: what it takes to do rounds again, disclosed in a bundle, and read from one.

Letters are sealed to the server, whose key stays where it is. What the server hands over is what it found in each
letter: manifest, key of the body, and the site's signature over both and the header. So whoever replays a round checks
the site's own signature, and need not take the server's word for what a site sent. Whoever has such a bundle can read
every site's updates of these rounds: it is for an auditor whom the sites would show them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from common.errors import IdentityError, LedgerError
from security.audit.bundle import Bundle
from security.envelope import Opener, sealed_part, unsealed
from security.keys import SealingKey, SealingPublicKey
from security.names import SpiffeId
from security.roster import Roster
from security.run_order import RunOrder, read_order
from server.replay_home import HomeReplays, keys_by_roster
from server.spool import Spool
from server.state import RunState
from server.transcript import Transcript

Parts = Iterator[tuple[str, Iterable[bytes]]]


def disclosed(source: HomeReplays, run: str) -> Parts:
    """Yield the parts of a bundle that let the rounds of a run be done again elsewhere.

    Args:
        source: The server's home.
        run: The run's id.

    Raises:
        LedgerError: No round of the run was kept.
        BottegaError: What was kept cannot be read.
    """
    rounds = source.rounds
    if not rounds:
        raise LedgerError(
            "no round of this run was kept for a replay", got=run, expected="rounds of the last `replay_days`",
            advice="Export without it: verdicts and digests stand in the ledger all the same.",
        )  # fmt: skip
    yield _part(run, "order.signed"), [source.signed]
    if source.rehearsal is not None:
        yield _part(run, "rehearsal"), [source.rehearsal]
    for number in sorted({number for one in rounds for number in _needed(source.transcript(one))} - {0}):
        yield _part(run, f"{number:04d}", "state"), [source.state(number).to_bytes()]
    for number in rounds:
        yield from _round(source, run, number)


def _needed(transcript: Transcript) -> Iterable[int]:
    """Return the rounds whose ends a replay of this one begins with."""
    number = transcript.round
    return {number - 1, max(0, number - 2), *(one.round for one in transcript.past)}


def _round(source: HomeReplays, run: str, number: int) -> Parts:
    place = f"{number:04d}"
    transcript = source.transcript(number)
    yield _part(run, place, "transcript.json"), [transcript.to_bytes()]
    if (memory := source.memory(number)) is not None:
        yield _part(run, place, "memory"), [memory]
    if (corrected := source.corrected(number)) is not None:
        yield _part(run, place, "corrected"), [corrected.to_bytes()]
    spool = source.answers(number)
    for one in transcript.came:
        if one.kept:
            letter, body = spool.take(one.site)
            yield _part(run, place, f"{one.site}.letter"), [letter]
            yield _part(run, place, f"{one.site}.body"), [bytes(body)]
            try:
                yield _part(run, place, f"{one.site}.content"), [unsealed(letter, source.opener)]
            except IdentityError:
                continue  # it does not open here either, and was refused for that


def _part(run: str, *rest: str) -> str:
    return "/".join(("updates", run, *rest))


@dataclass(frozen=True)
class Disclosure:
    """What a server found in letters to it: it stands in the server's place, without its key.

    Attributes:
        id: The server's name.
        contents: By SHA-256 of what was sealed, what was in it.
    """

    id: SpiffeId
    contents: dict[bytes, bytes]

    @property
    def sealing(self) -> Disclosure:
        """Itself."""
        return self

    def unseal(self, sealed: bytes, info: bytes, /) -> bytes:  # noqa: ARG002 (the signature inside binds the header)
        """Return what was in a letter.

        Raises:
            IdentityError: It was not disclosed.
        """
        try:
            return self.contents[hashlib.sha256(sealed).digest()]
        except KeyError:
            raise IdentityError("what was in this letter was not disclosed", advice="Nothing of it is used.") from None


class BundleReplays:
    """What a bundle has of one run (:class:`~server.replaying.ReplaySource`).

    Args:
        bundle: Open; it stays in use.
        run: The run's id.
        roster: The federation's, as its server signed it last.
        folder: Where answers are unpacked, one round at a time.

    Raises:
        LedgerError: The bundle has nothing of this run.
    """

    def __init__(self, bundle: Bundle, run: str, roster: Roster, folder: Path) -> None:
        self._bundle, self._run, self._folder = bundle, run, folder
        self._names = frozenset(bundle.names("updates"))
        if _part(run, "order.signed") not in self._names:
            raise LedgerError(
                "this bundle does not say what was sent in this run", got=run,
                advice="Have it exported with `--replay RUN`, on the server.",
            )  # fmt: skip
        self.signed = bundle.read(_part(run, "order.signed"))
        self._roster, self._disclosure = roster, Disclosure(roster.server.id, {})

    @cached_property
    def order(self) -> RunOrder:
        """The run's order."""
        return read_order(self.signed)

    @property
    def opener(self) -> Opener:
        """What the server disclosed."""
        return self._disclosure

    @cached_property
    def sealing(self) -> SealingPublicKey:
        """A key that nobody has: nothing is sealed here."""
        return SealingKey.generate().public

    @property
    def rehearsal(self) -> bytes | None:
        """What the detector began with."""
        return self._read("rehearsal")

    def keys_of(self, site: str) -> set[str]:
        """Return the Ed25519 keys, hex, that a site ever had by the roster."""
        return keys_by_roster(self._roster, site)

    @property
    def rounds(self) -> list[int]:
        """The rounds that can be replayed."""
        return sorted(
            int(name.split("/")[2])
            for name in self._names
            if name.startswith(f"updates/{self._run}/") and name.endswith("/transcript.json")
        )

    def transcript(self, number: int) -> Transcript:
        """Return a round's transcript."""
        content = self._read(f"{number:04d}", "transcript.json")
        if content is None:
            there = ", ".join(map(str, self.rounds))
            raise LedgerError("this round is not in the bundle", got=f"round {number}", expected=f"one of {there}")
        return Transcript.from_bytes(content)

    def answers(self, number: int) -> Spool:
        """Unpack the answers of a round and return them."""
        spool = Spool(self._folder / f"{number:04d}")
        for one in self.transcript(number).came:
            if one.kept and not (spool.folder / f"{one.site}.sealed").exists():
                self._unpack(spool, number, one.site)
        return spool

    def memory(self, number: int) -> bytes | None:
        """Return what the detector knew before a round."""
        return self._read(f"{number:04d}", "memory")

    def corrected(self, number: int) -> RunState | None:
        """Return what a round's updates were added to, where updates of the round before were taken out again."""
        content = self._read(f"{number:04d}", "corrected")
        return None if content is None else RunState.from_bytes(content, self.order.schema)

    def state(self, number: int) -> RunState:
        """Return what a round ended with."""
        content = self._read(f"{number:04d}", "state")
        if content is None:
            raise LedgerError("the bundle does not say what a round ended with", got=f"round {number}")
        return RunState.from_bytes(content, self.order.schema)

    def _unpack(self, spool: Spool, number: int, site: str) -> None:
        place = f"{number:04d}"
        letter, body = self._read(place, f"{site}.letter"), self._read(place, f"{site}.body")
        if letter is None or body is None:
            raise LedgerError("an answer is missing from the bundle", got=f"round {number}, {site}")
        spool.keep(site, letter, body)
        if (content := self._read(place, f"{site}.content")) is not None:
            self._disclosure.contents[hashlib.sha256(sealed_part(letter)).digest()] = content

    def _read(self, *rest: str) -> bytes | None:
        name = _part(self._run, *rest)
        return self._bundle.read(name) if name in self._names else None
