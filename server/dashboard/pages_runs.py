"""The pages of runs: all of them, one, one of its rounds, and pictures that were drawn after it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from starlette.responses import FileResponse

from security.audit.words import settings_of
from security.entries import seconds_of
from server.dashboard import charts
from server.dashboard.reading import Paged, UnknownError
from server.dashboard.reading_runs import ROUNDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from common.settings import RunSettings
    from security.chronicle import RoundStory, RunStory
    from server.dashboard.desk import Desk

Page = Annotated[int, Query(ge=1, le=10**6)]
"""Of a list, from 1."""

Number = Annotated[int, Path(ge=1, le=2**31)]
"""Of a round."""

_LOSSES = ("held_out_loss", "training_loss")  # what sites of a run without privacy tell, the better of them first


def add(app: FastAPI, desk: Desk) -> None:
    """Add the pages to an application."""

    @app.get("/runs")
    def runs(request: Request, page: Page = 1) -> Response:
        rows, paged = desk.runs.page(page - 1)
        told = []
        for row in rows:
            settings = settings_of(row.started.settings)
            told.append({"row": row, "rounds": settings.rounds if settings else 0, "epsilon": _epsilon(settings)})
        return desk.page(request, "runs.html", runs=told, paged=paged, pages=lambda number: f"/runs?page={number}")

    @app.get("/runs/{run}")
    def run(request: Request, run: str, page: Page = 1, window: Annotated[int, Query(ge=0, le=10**8)] = 0) -> Response:
        return desk.page(request, "run.html", **_run(desk, run, page - 1, window - 1))

    @app.get("/runs/{run}/rounds/{number}")
    def one_round(request: Request, run: str, number: Number, page: Page = 1) -> Response:
        row = desk.runs.row(run)
        names, paged = desk.runs.sites(run, page - 1)
        told = desk.runs.story(run, (number, number), names).rounds.get(number)
        if told is None:
            raise UnknownError("the ledger tells of no such round")
        took = max(0.0, seconds_of(told.closed.at) - seconds_of(told.opened.at)) if told.closed else 0.0
        return desk.page(
            request, "round.html", row=row, told=told, names=names, paged=paged, took=took,
            pages=lambda page: f"/runs/{run}/rounds/{number}?page={page}",
            picture=bool(desk.file.beside and desk.file.beside.picture(run, number)),
        )  # fmt: skip

    @app.get("/runs/{run}/samples/{number}.png")
    def picture(run: str, number: Number) -> Response:
        file = desk.file.beside.picture(run, number) if desk.file.beside else None
        if file is None:
            raise UnknownError("there is no such picture")
        return FileResponse(file, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


def _run(desk: Desk, run: str, page: int, window: int) -> dict[str, Any]:
    """Return what the page of a run shows: a window of its rounds, and of its sites."""
    row = desk.runs.row(run)
    names, site_pages = desk.runs.sites(run, page)
    begin, end, round_pages = _window(row.rounds, window)
    story = desk.runs.story(run, (begin, end), names)
    settings = settings_of(row.started.settings)
    numbers = sorted(story.rounds)
    losses, ps = _losses(story, names), _p_values(story, names)
    epsilon, spent = _epsilon(settings), desk.runs.epsilons(run, names)
    most = max([epsilon, *spent.values()], default=0.0)
    threshold = settings.detector.false_rejections if settings and settings.detector else 0.01
    return {
        "row": row, "story": story, "settings": settings, "names": names, "numbers": numbers,
        "started_at": story.started_at, "epsilon": epsilon, "site_epsilon": _site_epsilon(story),
        "site_pages": site_pages, "round_pages": round_pages,
        "by_site": lambda number: f"/runs/{run}?page={number}&window={window + 1}",
        "by_round": lambda number: f"/runs/{run}?page={page + 1}&window={number}",
        "losses": losses, "loss_plot": charts.curves(losses, numbers),
        "ps": ps, "p_plot": charts.p_values(ps, numbers, threshold), "threshold": threshold,
        "bars": [
            {"site": site, "epsilon": told, "share": charts.share(told, most)} for site, told in sorted(spent.items())
        ],
        "pictures": desk.file.beside.pictures(run) if desk.file.beside else [],
        "told_settings": json.dumps(row.started.settings, indent=2, ensure_ascii=False),
    }  # fmt: skip


def _window(rounds: int, window: int) -> tuple[int, int, Paged]:
    """Return the first and the last round of a window, the last window when it is negative; and which one it is."""
    paged = Paged.of(window if window >= 0 else 10**8, rounds, ROUNDS)
    return paged.number * ROUNDS + 1, (paged.number + 1) * ROUNDS, paged


def _epsilon(settings: RunSettings | None) -> float:
    """Return what a run may cost a drawing; 0 where it is not private, or not to be read."""
    return settings.privacy.epsilon if settings and settings.privacy else 0.0


def _site_epsilon(story: RunStory) -> float | None:
    told = [one.closed.site_epsilon for _, one in sorted(story.rounds.items()) if one.closed]
    return next((value for value in reversed(told) if value is not None), None)


def _losses(story: RunStory, names: Sequence[str]) -> dict[str, dict[int, float]]:
    """Return the loss by site and round, of the best kind that anybody tells."""
    for kind in _LOSSES:
        found: dict[str, dict[int, float]] = {}
        for site, one, update in _updates(story, names):
            if update.metrics and kind in update.metrics:
                found.setdefault(site, {})[one.number] = update.metrics[kind]
        if found:
            return found
    return {}


def _p_values(story: RunStory, names: Sequence[str]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for site, one, update in _updates(story, names):
        if update.p_value is not None:
            found.setdefault(site, {})[one.number] = update.p_value
    return found


def _updates(story: RunStory, names: Sequence[str]) -> Iterable[tuple[str, RoundStory, Any]]:
    for site in names:
        for _, one in sorted(story.rounds.items()):
            if site in one.updates:
                yield site, one, one.updates[site]
