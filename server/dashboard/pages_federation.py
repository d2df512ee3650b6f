"""The first page, and a page for each member."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request, Response

from security.audit.words import settings_of
from security.entries import Founded, RosterSigned
from security.ledger_names import cosigner_of
from security.names import SpiffeId

if TYPE_CHECKING:
    from server.dashboard.desk import Desk

Page = Annotated[int, Query(ge=1, le=10**6)]
"""Of a list, from 1."""

_LATELY = 8


def add(app: FastAPI, desk: Desk) -> None:
    """Add the pages to an application."""

    @app.get("/")
    def federation(request: Request, page: Page = 1) -> Response:
        members, paged = desk.members.page(page - 1)
        tally = desk.members.tally()
        runs, run_pages = desk.runs.page(0, 1)
        beginning = desk.reading.show([0])
        founded = beginning[0].entry if beginning and isinstance(beginning[0].entry, Founded) else None
        return desk.page(
            request, "federation.html", founded=founded, members=members, paged=paged, pages=_link("/"),
            sites=tally.get(("site", "active"), 0), revoked=tally.get(("site", "revoked"), 0),
            run_count=run_pages.count if runs else 0, roster_version=_roster(desk),
            current=_current(desk), lately=desk.reading.latest(most=_LATELY), online=desk.online(),
            certificates=desk.file.beside.certificates() if desk.file.beside else {},
        )  # fmt: skip

    @app.get("/members/{role}/{name}")
    def member(request: Request, role: str, name: str, page: Page = 1) -> Response:
        row, history = desk.members.one(role, name)
        parts, paged = desk.members.parts(name, page - 1) if row.role == "site" else ([], None)
        return desk.page(
            request, "member.html", row=row, history=history, parts=parts, paged=paged, online=desk.online(),
            pages=_link(f"/members/{role}/{name}"), witnessed=_witnessed(desk, row.member),
        )  # fmt: skip


def _link(path: str) -> Any:  # noqa: ANN401 (called by templates)
    return lambda number: f"{path}?page={number}"


def _roster(desk: Desk) -> int:
    found = desk.reading.latest(kind="roster-signed", most=1)
    return found[0].entry.version if found and isinstance(found[0].entry, RosterSigned) else 0


def _witnessed(desk: Desk, member: str) -> int:
    check = desk.follower.standing.check
    return check.witnesses.get(cosigner_of(SpiffeId.parse(member)), 0) if check else 0


def _current(desk: Desk) -> dict[str, Any] | None:
    """Return how far the run is that goes on now; None where none does."""
    runs, _ = desk.runs.page(0, 1)
    if not runs or runs[0].ended is not None:
        return None
    row, number = runs[0], runs[0].rounds
    settings = settings_of(row.started.settings)
    asked, answers = 0, 0
    if number:
        told = desk.runs.story(row.run, (number, number), []).rounds.get(number)
        asked = len(told.opened.asked) if told else 0
        answers = desk.runs.answers(row.run, number)
    return {
        "row": row,
        "number": number,
        "rounds": settings.rounds if settings else number,
        "asked": asked,
        "answers": answers,
    }
