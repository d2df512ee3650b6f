"""What the server keeps of members and runs, as the registry tells it: rows of tables as records for the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from common.proto import registry_pb2 as pb
from security.names import Role, SpiffeId
from security.run_order import read_order
from server.applicants import Applicant
from server.round_entries import reason_of
from server.store import RoundRow, RunRow, Store, Verdict

_OF_THE_RUN = frozenset(
    {"site_epsilon", "site_multiplier", "epsilon", "delta", "multiplier", "clip", "rate", "steps", "multiplicity"}
)
"""Numbers that stand with a verdict and follow from the run's settings and from what was spent."""


def member_row(federation: str, applicant: Applicant, suspended: str = "") -> pb.MemberRow:
    """Return one who asked to join, with why new runs do not ask them."""
    return pb.MemberRow(
        spiffe_id=str(SpiffeId(federation, applicant.role, applicant.name)),
        status=applicant.status,
        fingerprint=applicant.fingerprint,
        asked_at_ms=applicant.asked_at_ms,
        decided_at_ms=applicant.decided_at_ms or 0,
        reason=applicant.reason,
        suspended=suspended,
    )


def member_rows(federation: str, applicants: Iterable[Applicant], suspended: Mapping[str, str]) -> list[pb.MemberRow]:
    """Return all who asked to join, and of each site that is suspended why."""
    return [
        member_row(federation, one, suspended.get(one.name, "") if one.role is Role.SITE else "") for one in applicants
    ]


def run_row(store: Store, row: RunRow) -> pb.RunRow:
    """Return one run."""
    order = read_order(row.order)
    return pb.RunRow(
        run=row.run,
        status=row.status,
        error=row.error,
        operator=order.operator.name,
        rounds=order.settings.rounds,
        closed=store.last_closed(row.run),
        started_at_ms=_ms(row.started_at),
        ended_at_ms=_ms(row.ended_at),
        sites=order.sites,
    )


def shown_run(store: Store, run: str) -> pb.ShowRunAnswer:
    """Return one run with its rounds and verdicts.

    Raises:
        RunError: There is no such run.
    """
    kept = store.run(run)
    exact = not read_order(kept.order).settings.site_privacy
    rounds = [_round_row(store, run, one, exact=exact) for one in store.rounds(run)]
    return pb.ShowRunAnswer(run=run_row(store, kept), rounds=rounds)


def _round_row(store: Store, run: str, row: RoundRow, *, exact: bool) -> pb.RoundRow:
    metrics = store.metrics(run, row.round)
    return pb.RoundRow(
        round=row.round,
        work=row.work,
        outcome=row.outcome,
        asked=row.asked,
        opened_at_ms=_ms(row.opened_at),
        closed_at_ms=_ms(row.closed_at),
        adapter_digest=row.adapter_digest or "",
        detector=_heard(store.unsure(run, row.round)),
        verdicts=[_verdict_row(v, metrics.get(v.site, {}), exact=exact) for v in store.verdicts(run, row.round)],
    )


def _heard(unsure: str | None) -> str:
    return "" if unsure is None else unsure or "judged"


def _verdict_row(verdict: Verdict, metrics: dict[str, float], *, exact: bool) -> pb.VerdictRow:
    """Return a verdict; where sites are protected as a whole, without what is exact about a site's work."""
    if not exact:
        told = {name: value for name, value in metrics.items() if name in _OF_THE_RUN}
        reason = reason_of(verdict, exact=False) or ""
        return pb.VerdictRow(
            site=verdict.site, admitted=verdict.admitted, number=verdict.number, check=verdict.check, reason=reason,
            metrics=told,
        )  # fmt: skip
    return pb.VerdictRow(
        site=verdict.site,
        admitted=verdict.admitted,
        number=verdict.number,
        check=verdict.check,
        reason=verdict.reason,
        examples=verdict.examples,
        norm=verdict.norm or 0.0,
        metrics=metrics,
    )


def _ms(seconds: float | None) -> int:
    return 0 if seconds is None else int(seconds * 1000)
