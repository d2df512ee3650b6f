"""A run: everything about it that does not change between rounds."""

from __future__ import annotations

from dataclasses import dataclass

from common.adapter_schema import AdapterSchema
from common.settings import RunSettings
from security.admission import Terms
from security.identity import Peer
from security.run_order import RunOrder
from server.house import House
from server.judging import JudgingFiles
from server.replay_files import ReplayFiles
from server.state import RunStates
from server.store import Store


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        order: What an operator asks.
        signed: The exact bytes of the signed order: sites are shown them in every task.
    """

    order: RunOrder
    signed: bytes
    house: House
    store: Store

    @property
    def id(self) -> str:
        """The run's id."""
        return self.order.run

    @property
    def settings(self) -> RunSettings:
        """What the operator asked for."""
        return self.order.settings

    @property
    def schema(self) -> AdapterSchema:
        """The adapter's layers and ranks."""
        return self.order.schema

    @property
    def states(self) -> RunStates:
        """What its rounds left."""
        return RunStates(self.house.home, self.id, self.house.keys.vault)

    @property
    def judging_files(self) -> JudgingFiles:
        """What its detector knows."""
        return JudgingFiles(self.house.home.run(self.id), self.id, self.house.keys.vault)

    @property
    def replay_files(self) -> ReplayFiles:
        """What is kept of its rounds so that they can be replayed."""
        return ReplayFiles(self.house.home, self.id, self.house.keys.vault, self.house.settings.replay_days)

    @property
    def sites(self) -> dict[bytes, Peer]:
        """The sites that the order asks and that are active now, by the public key of their SuperNode."""
        return {key: site for key, site in self.house.sites.items() if site.id.name in self.order.sites}


@dataclass(frozen=True)
class Asked:
    """One site that was sent a task."""

    terms: Terms
    node: int

    @property
    def site(self) -> str:
        """Its name."""
        return self.terms.site.id.name
