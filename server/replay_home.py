"""Replaying rounds from the home of their server."""

from __future__ import annotations

from functools import cached_property

from security.envelope import Opener
from security.keys import SealingPublicKey
from security.names import Role, SpiffeId
from security.roster import Roster
from security.run_order import RunOrder, read_order
from server.house import House
from server.judging import JudgingFiles
from server.replay_files import ReplayFiles
from server.spool import Spool
from server.state import RunState, RunStates
from server.store import Store
from server.transcript import Transcript


def keys_by_roster(roster: Roster, site: str) -> set[str]:
    """Return the Ed25519 keys, hex, that a site ever had; none of one that the roster does not know."""
    who = SpiffeId(roster.federation, Role.SITE, site)
    known = any(member.id == who for member in roster.members)
    return {keys.verify.raw.hex() for keys in roster.generations(who)} if known else set()


class HomeReplays:
    """What a server's home has of one run (:class:`~server.replaying.ReplaySource`).

    Args:
        house: The server's.
        store: Of the house.
        run: The run's id.

    Raises:
        RunError: There is no such run.
    """

    def __init__(self, house: House, store: Store, run: str) -> None:
        self._house, self._run = house, run
        self.signed = store.run(run).order
        self._files = ReplayFiles(house.home, run, house.keys.vault, house.settings.replay_days)

    @cached_property
    def order(self) -> RunOrder:
        """The run's order."""
        return read_order(self.signed)

    @property
    def opener(self) -> Opener:
        """The server itself."""
        return self._house.identity

    @property
    def sealing(self) -> SealingPublicKey:
        """The server's own."""
        return self._house.identity.peer.sealing

    @property
    def rehearsal(self) -> bytes | None:
        """What the detector began with."""
        return JudgingFiles(self._house.home.run(self._run), self._run, self._house.keys.vault).rehearsal

    def keys_of(self, site: str) -> set[str]:
        """Return the Ed25519 keys, hex, that a site ever had by the roster."""
        roster = self._house.roster
        return keys_by_roster(roster, site)

    @property
    def rounds(self) -> list[int]:
        """The rounds that can be replayed."""
        return self._files.rounds()

    def transcript(self, number: int) -> Transcript:
        """Return a round's transcript."""
        return self._files.transcript(number)

    def answers(self, number: int) -> Spool:
        """Return a round's answers."""
        return self._files.answers(number)

    def memory(self, number: int) -> bytes | None:
        """Return what the detector knew before a round."""
        return self._files.memory(number)

    def corrected(self, number: int) -> RunState | None:
        """Return what a round's updates were added to, where updates of the round before were taken out again."""
        return self._files.corrected(number, self.order.schema)

    def state(self, number: int) -> RunState:
        """Return what a round ended with."""
        return RunStates(self._house.home, self._run, self._house.keys.vault).load(number, self.order.schema)
