"""Planning a run: what is to be asked of which sites, worked out for an operator to sign."""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections.abc import Sequence

from common.errors import RunError
from common.models import attach_lora, load_base
from common.paths import ServerHome
from common.settings import RobustSettings, RunSettings
from security.names import Role, SpiffeId
from security.roster import Roster
from security.run_order import RunOrder, sign_order
from server.house import open_house
from server.operating import load_operator
from server.ports import read_ports
from server.rehearsals import rehearsal_for
from server.run_desk import RunDesk

DEFENDED_FROM = 8
"""Sites from which on a run is averaged by a trimmed mean unless its operator says otherwise."""


def plan_run(settings: RunSettings, operator: SpiffeId, roster: Roster, sites: Sequence[str] | None = None) -> RunOrder:
    """Make the order of a new run, for its operator to sign.

    The base is loaded here, once, for its digest and the adapter's schema. Neither the server nor the round loop
    needs weights: what the operator loaded is what sites are held to.

    Args:
        settings: Of the run.
        operator: Who will sign it.
        roster: Who belongs to the federation.
        sites: Names of the sites to ask; all active ones when left out.

    Raises:
        RunError: A site is not an active one, or there is none.
        OrderError: There are fewer sites than the quorum.
        BaseModelError: The base cannot be loaded or carries no such adapter.
    """
    active = {peer.id.name for peer in roster if peer.id.role is Role.SITE}
    asked = active if sites is None else set(sites)
    if unknown := sorted(asked - active):
        raise RunError(
            "these are no active sites", got=", ".join(unknown), expected="names from `bottega server sites`",
            advice="Correct `--sites`.",
        )  # fmt: skip
    if not asked:
        raise RunError("no site has joined yet", advice="Invite one with `bottega server invite NAME`.")
    run = f"{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    settings = defended(settings, len(asked))
    base = load_base(settings.base)
    digest = base.digest
    schema = attach_lora(base.unet, settings.lora)
    return RunOrder(run, operator, settings, digest, schema, tuple(sorted(asked)), int(time.time() * 1000))


def defended(settings: RunSettings, sites: int) -> RunSettings:
    """Return settings with a trimmed mean behind the detector, where there are sites enough and nothing else was asked.

    A quarter of the sites may then be hostile in ways that no detector sees. Without an attack it cost nothing either:
    with unlike sites, and under the noise of private ones, it ended nearer to where the honest alone end than the
    weighted mean did (docs/benchmarks.md). An operator who writes `robust = false`, or asks for a smaller quorum than
    the rule needs, gets the mean.

    Args:
        settings: As the operator wrote them.
        sites: How many are asked.
    """
    aggregation = settings.aggregation
    takes_none = not settings.detector or settings.lora.method == "both" or settings.site_privacy
    if sites < DEFENDED_FROM or takes_none or "robust" in aggregation.model_fields_set:
        return settings
    rule = RobustSettings(rule="trimmed_mean", hostile=sites // 4, mixing=False)
    if "quorum" in settings.model_fields_set and settings.quorum < rule.fewest:
        return settings
    changed = {
        "aggregation": aggregation.model_copy(update={"robust": rule}),
        "quorum": max(settings.quorum, rule.fewest),
    }
    return settings.model_copy(update=changed)


def start_run(home: ServerHome, settings: RunSettings, sites: Sequence[str] | None = None) -> str:
    """Order a run as the operator who lives in the server's home, and submit it; return its id.

    Its detector begins with the rehearsal that came with bottega, if there is one of such a run.

    Raises:
        BottegaError: As :func:`plan_run` and :meth:`~server.run_desk.RunDesk.start`.
    """
    read_ports(home)  # before the base is loaded: without a server there is nobody to submit it to
    operator = load_operator(home.operator).identity
    order = plan_run(settings, operator.id, open_house(home).roster, sites)
    return RunDesk(home).start(sign_order(order, operator), operator.id, rehearsal_for(order)).run
