"""The order of a run: what an operator asks of which sites, signed by that operator.

A server carries the order to the sites inside its tasks and can change nothing of it: base, adapter, training and who
takes part are what the operator signed. A site believes an order when its own roster names the operator as active.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.adapter_schema import AdapterSchema
from common.errors import BottegaError, IdentityError
from common.proto import run_order_pb2 as pb
from common.settings import RunSettings, parse_json
from security.header import is_run, parse
from security.identity import Identity
from security.names import Role, SpiffeId, shown
from security.records import joined
from security.roster import Roster

MAX_ORDER_BYTES = 2**19
"""The longest order: 512 KiB, room for a schema of some five thousand layers."""

_VERSION = 1
_DOMAIN = b"bottega/v1/run-order\x00"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class OrderError(BottegaError):
    """A run was not ordered by an operator, or not of this site."""

    advice = "Nothing was trained. Have the run started by an active operator (`bottega run start`)."


@dataclass(frozen=True)
class RunOrder:
    """What is asked in one run.

    Args:
        run: The run's id.
        operator: Who starts it.
        settings: All of its settings.
        base_digest: SHA-256 over the base model's weights, hex.
        schema: The adapter's layers and ranks.
        sites: The names of the sites that are asked, in alphabetical order.
        created_at_ms: Unix time, milliseconds.

    Raises:
        OrderError: A part is not as described.
    """

    run: str
    operator: SpiffeId
    settings: RunSettings
    base_digest: str
    schema: AdapterSchema
    sites: tuple[str, ...]
    created_at_ms: int

    def __post_init__(self) -> None:
        if not is_run(self.run):
            raise OrderError("the order names no run", got=shown(self.run), expected="a run's id")
        if self.operator.role is not Role.OPERATOR:
            raise OrderError("a run is ordered by an operator", got=self.operator.role, expected=Role.OPERATOR)
        if not _DIGEST.fullmatch(self.base_digest):
            raise OrderError("the order names no base", got=shown(self.base_digest), expected="a SHA-256 in hex")
        if not self.sites or list(self.sites) != sorted(set(self.sites)):
            raise OrderError("the order's sites are none, repeated or out of order", got=len(self.sites))
        for name in self.sites:
            SpiffeId(self.operator.federation, Role.SITE, name)
        if self.settings.quorum > len(self.sites):
            raise OrderError(
                "the order asks fewer sites than its quorum", got=f"{len(self.sites)} sites",
                expected=f"at least {self.settings.quorum}",
                advice="Ask more sites, or lower `quorum` in the run's settings.",
            )  # fmt: skip
        if self.settings.site_privacy and self.settings.site_privacy.delta >= 1 / len(self.sites):
            # To publish one site's update whole, chosen by lot, would keep such a promise.
            raise OrderError(
                "the delta of `site_privacy` protects nobody among so few sites", got=self.settings.site_privacy.delta,
                expected=f"less than 1 / {len(self.sites)}",
                advice="Lower `site_privacy.delta` in the run's settings.",
            )  # fmt: skip

    def check_asks(self, site: SpiffeId, run: str, round_number: int) -> None:
        """Pass if this order asks a site for a round of a run.

        Raises:
            OrderError: It is of another federation or run, does not name the site, or has no such round.
        """
        if self.operator.federation != site.federation or site.name not in self.sites:
            raise OrderError("the run's order does not ask this site", got=self.run, expected=site.name)
        if self.run != run:
            raise OrderError("the order is of another run", got=self.run, expected=run)
        # One round more than those that train: in it the sites only measure.
        if round_number > self.settings.rounds + 1:
            raise OrderError("the order has fewer rounds", got=round_number, expected=f"to {self.settings.rounds + 1}")


def sign_order(order: RunOrder, operator: Identity) -> bytes:
    """Sign an order.

    Args:
        order: What is asked.
        operator: Who asks.

    Returns:
        A serialised ``SignedRunOrder``: what is kept and handed on, byte for byte.

    Raises:
        OrderError: The order names another operator, or is too long.
    """
    if order.operator != operator.id:
        raise OrderError("an order is signed by the operator that it names", got=operator.id, expected=order.operator)
    content = pb.RunOrder(
        version=_VERSION,
        run=order.run,
        operator=str(order.operator),
        settings=order.settings.model_dump_json(),
        base_digest=order.base_digest,
        schema=order.schema.to_json(),
        sites=order.sites,
        created_at_ms=order.created_at_ms,
    ).SerializeToString(deterministic=True)
    signed = pb.SignedRunOrder(order=content, signature=operator.signing.sign(joined(_DOMAIN, content)))
    data = signed.SerializeToString(deterministic=True)
    if len(data) > MAX_ORDER_BYTES:
        raise OrderError("the order is too long", got=f"{len(data)} bytes", expected=f"at most {MAX_ORDER_BYTES}")
    return data


def open_order(data: bytes, roster: Roster) -> RunOrder:
    """Read a signed order, or refuse it.

    Args:
        data: A serialised ``SignedRunOrder``, from anywhere.
        roster: Who belongs to the federation, as the reader knows it.

    Returns:
        The order, which an operator signed who is active now.

    Raises:
        OrderError: It is no order, breaks a rule, or is not signed by such an operator.
        BottegaError: Its settings or its schema do not fit.
    """
    outer, wire = _parsed(data)
    try:
        operator = SpiffeId.parse(wire.operator)
        peer = roster[operator]
    except IdentityError as why:
        raise OrderError(f"the order's operator cannot be believed: {why.what}", got=why.got) from None
    # Before anything else of it is read: what nobody vouches for is not worth understanding.
    if not peer.verify.verifies(outer.signature, joined(_DOMAIN, outer.order)):
        raise OrderError("the order is not signed by the operator that it names", got=operator)
    return _read(wire)


def read_order(data: bytes) -> RunOrder:
    """Read an order that was believed when it was kept, to show it; whether it still holds is not looked at.

    Raises:
        OrderError: It is no order, or breaks a rule.
        BottegaError: Its settings or its schema do not fit.
    """
    return _read(_parsed(data)[1])


def _parsed(data: bytes) -> tuple[pb.SignedRunOrder, pb.RunOrder]:
    if len(data) > MAX_ORDER_BYTES:
        raise OrderError("the order is too long", got=f"{len(data)} bytes", expected=f"at most {MAX_ORDER_BYTES}")
    outer = parse(pb.SignedRunOrder, data, "order", error=OrderError)
    wire = parse(pb.RunOrder, outer.order, "order", error=OrderError)
    if wire.version != _VERSION:
        raise OrderError("the order is of another version", got=wire.version, expected=_VERSION)
    return outer, wire


def _read(wire: pb.RunOrder) -> RunOrder:
    return RunOrder(
        run=wire.run,
        operator=SpiffeId.parse(wire.operator),
        settings=parse_json(RunSettings, wire.settings, "the order's settings"),
        base_digest=wire.base_digest,
        schema=AdapterSchema.from_json(wire.schema),
        sites=tuple(wire.sites),
        created_at_ms=wire.created_at_ms,
    )
