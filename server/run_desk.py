"""The desk of runs: the server keeps what an operator signed, and asks Flower to run the ServerApp for it."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from common.errors import RunError
from common.paths import ServerHome
from common.proto import registry_pb2 as pb
from security.entries import RunStarted
from security.names import Role, SpiffeId, shown
from security.roster import check_reason
from security.run_order import OrderError, RunOrder, open_order
from server.bundle import run_status, stop_run, submit_run
from server.house import open_house
from server.journal import SOFTWARE, now
from server.judging import JudgingFiles
from server.ports import read_ports
from server.rows import run_row, shown_run
from server.store import Store

log = logging.getLogger("bottega.runs")

MOST_INTEGER = 2**53 - 1
"""The largest that every reader of JSON keeps."""

_AT_WORK = {"pending", "starting", "running"}


class RunDesk:
    """Starts, resumes, stops and shows the runs of a server's home."""

    def __init__(self, home: ServerHome) -> None:
        self._home = home

    def start(self, signed: bytes, caller: SpiffeId, rehearsal: bytes = b"") -> pb.RunRow:
        """Keep a signed order and submit its run.

        Args:
            signed: The order.
            caller: Who brings it.
            rehearsal: What its detector begins with (:mod:`security.rehearsal`); empty without.

        Raises:
            OrderError: It is not signed by an active operator, or brought by another.
            RunError: There is a run of that id, or it asks a site that is suspended.
            VaultError: The rehearsal cannot be kept.
            ProcessError: The server does not run, or Flower refuses the run.
        """
        house = open_house(self._home)
        house.check_settled()
        control = self._control()
        order = open_order(signed, house.roster)
        if order.operator != caller:
            raise OrderError("an order is brought by who signed it", got=caller, expected=order.operator)
        self.check_standing(order)
        with Store(self._home.database) as store:
            if any(row.run == order.run for row in store.runs()):
                raise RunError("there is a run of this id", got=order.run, advice="Each run has an id of its own.")
            if rehearsal:
                JudgingFiles(self._home.run(order.run), order.run, house.keys.vault).keep_rehearsal(rehearsal)
            store.start_run(order.run, signed, [begun(order, signed, resumed=False)])
            return _submitted(store, control, order.run)

    def check_standing(self, order: RunOrder) -> None:
        """Pass an order that asks no site that is suspended.

        Raises:
            RunError: It asks one.
        """
        if out := sorted(set(order.sites) & self.suspended().keys()):
            raise RunError(
                "suspended sites are asked", got=", ".join(out), expected="sites in good standing",
                advice="`bottega server sites` says why; leave them out by `--sites`, or: "
                "bottega server reinstate NAME --reason WHY",
            )  # fmt: skip

    def resume(self, run: str) -> pb.RunRow:
        """Submit a stored run again; it goes on after its last closed round.

        Raises:
            RunError: There is no such run, or it has finished or is running.
            OrderError: Its operator is no longer an active one.
            ProcessError: The server does not run, or Flower refuses the run.
        """
        house = open_house(self._home)
        house.check_settled()
        control = self._control()
        with Store(self._home.database) as store:
            row = store.run(run)
            if row.status == "finished":
                raise RunError("the run has finished", got=run, advice="Start a new run with `bottega run start`.")
            if row.flower is not None and run_status(control, int(row.flower)).status in _AT_WORK:
                raise RunError("the run is running", got=run, advice="Follow it with `bottega run watch`.")
            order = open_order(row.order, house.roster)
            store.start_run(run, row.order, [begun(order, row.order, resumed=True)])
            return _submitted(store, control, run)

    def stop(self, run: str) -> pb.RunRow:
        """End a run. Its closed rounds stay, and it can be resumed.

        Raises:
            RunError: There is no such run, or it does not run.
            ProcessError: The server does not run, or Flower refuses.
        """
        house = open_house(self._home)
        house.check_settled()
        control = self._control()
        with Store(self._home.database) as store:
            row = store.run(run)
            if row.status != "running" or row.flower is None:
                raise RunError("the run does not run", got=row.status, expected="running", advice="Nothing was done.")
            stop_run(control, int(row.flower))
            store.stop_run(run, "stopped by an operator")
            return run_row(store, store.run(run))

    def suspended(self) -> dict[str, str]:
        """Return which sites new runs may not ask, and why."""
        with Store(self._home.database) as store:
            return store.suspended()

    def reinstate(self, name: str, reason: str, operator: SpiffeId) -> SpiffeId:
        """Let a suspended site take part in new runs again. One that is not suspended stays as it is.

        Raises:
            RunError: No active site has this name.
            IdentityError: The reason will not do.
        """
        house = open_house(self._home)
        found = [peer.id for peer in house.roster if peer.id.role is Role.SITE and peer.id.name == name]
        if not found:
            raise RunError(
                "there is no active site of this name", got=shown(name), expected="a name of `bottega server sites`",
                advice="Correct the name; who was revoked stays revoked.",
            )  # fmt: skip
        check_reason(reason)
        with Store(self._home.database) as store:
            if name in store.suspended():
                store.reinstate(found[0], reason, operator)
                log.info("reinstated by %s: %s", operator.name, name)
        return found[0]

    def tell_cut_off(self) -> None:
        """At the start of a server: whatever is said to be running was cut off when the last one ended."""
        with Store(self._home.database) as store:
            for row in store.runs():
                if row.status == "running":
                    store.stop_run(row.run, "the server ended while it ran")
                    log.warning("run %s was cut off; go on with it: bottega run start --resume %s", row.run, row.run)

    def all(self) -> list[pb.RunRow]:
        """Return all runs, the latest first."""
        with Store(self._home.database) as store:
            return [run_row(store, row) for row in store.runs()]

    def shown(self, run: str) -> pb.ShowRunAnswer:
        """Return one run with its rounds and verdicts.

        Raises:
            RunError: There is no such run.
        """
        with Store(self._home.database) as store:
            return shown_run(store, run)

    def _control(self) -> str:
        return f"127.0.0.1:{read_ports(self._home)['control']}"


def begun(order: RunOrder, signed: bytes, *, resumed: bool) -> RunStarted:
    """Return the entry of a run that begins, or goes on."""
    return RunStarted(
        at=now(), run=order.run, operator=str(order.operator), order=hashlib.sha256(signed).hexdigest(),
        settings=_told(order.settings.model_dump(mode="json")), base=order.base_digest, sites=list(order.sites),
        software=SOFTWARE, resumed=resumed,
    )  # fmt: skip


def _told(value: Any) -> Any:  # noqa: ANN401 (any JSON)
    """Return a value with whole numbers that not every JSON keeps, such as large seeds, as text (RFC 8785, 3.2.2.3)."""
    if isinstance(value, dict):
        return {name: _told(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_told(one) for one in value]
    return str(value) if isinstance(value, int) and abs(value) > MOST_INTEGER else value


def _submitted(store: Store, control: str, run: str) -> pb.RunRow:
    store.submitted(run, submit_run(control, {"run": run}))
    return run_row(store, store.run(run))
