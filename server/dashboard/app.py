"""The dashboard's application: which address leads to which page, and who gets there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from importlib import resources
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, StreamingResponse
from starlette.staticfiles import StaticFiles

from common.errors import BottegaError
from server.dashboard import pages_federation, pages_ledger, pages_runs
from server.dashboard.desk import LANGUAGE, language_of
from server.dashboard.languages import CODES
from server.dashboard.reading import UnknownError
from server.dashboard.shield import Shield
from server.dashboard.visitors import LinkDoor, NotAdmittedError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from server.dashboard.desk import Desk

log = logging.getLogger("bottega.dashboard")

_OPEN = ("/assets/", "/language/", "/login")  # what is shown before anybody is let in
_YEAR_S = 31_536_000
_LOOK_S = 0.2
_ALIVE_S = 15.0


def create_app(desk: Desk, names: Collection[str], *, secure: bool) -> ASGIApp:
    """Return the application.

    Args:
        desk: What its pages show; entered.
        names: The names and addresses that it may be called by.
        secure: Whether it is reached by TLS alone.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/assets", StaticFiles(directory=str(resources.files("server.dashboard").joinpath("assets"))))
    pages_federation.add(app, desk)
    pages_runs.add(app, desk)
    pages_ledger.add(app, desk)
    _add_language(app, secure=secure)
    _add_events(app, desk)
    if isinstance(desk.door, LinkDoor):
        _add_login(app, desk, desk.door)
    _add_errors(app, desk)
    return Shield(_Guard(app, desk), names)


class _Guard:
    """Lets nobody pass whom the door does not let in."""

    def __init__(self, app: FastAPI, desk: Desk) -> None:
        self._app, self._desk = app, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            request.state.visitor = self._desk.door.admit(request)
        except NotAdmittedError as why:
            if not request.url.path.startswith(_OPEN):
                log.warning("not let in: %s", why.what)
                await _closed(self._desk, request, why)(scope, receive, send)
                return
            request.state.visitor = None
        await self._app(scope, receive, send)


def _closed(desk: Desk, request: Request, why: NotAdmittedError) -> Response:
    t = language_of(request)
    status = 401 if isinstance(desk.door, LinkDoor) else 403
    request.state.visitor = None
    return desk.page(
        request, "plain.html", status, heading=t("error.closed"), lead=t("error.closed.words"), words=why.what
    )


def _add_login(app: FastAPI, desk: Desk, door: LinkDoor) -> None:
    @app.get("/login")
    def login(request: Request, token: str = "") -> Response:
        try:
            session = door.open(token)
        except NotAdmittedError as why:
            return _closed(desk, request, why)
        # Not a redirect: a cookie that is for this site alone is not sent along where another site led here.
        request.state.visitor = None
        answer = desk.page(request, "welcome.html")
        answer.set_cookie(door.cookie, session, httponly=True, samesite="strict", path="/")
        return answer


def _add_language(app: FastAPI, *, secure: bool) -> None:
    @app.get("/language/{code}")
    def language(code: str, back: str = "/") -> Response:
        """Remember a language, and go back to a page of ours."""
        if code not in CODES:
            raise UnknownError("these pages are in no such language")
        ours = back if back.startswith("/") and not back.startswith(("//", "/\\")) and back.isprintable() else "/"
        answer = RedirectResponse(ours, 303)
        answer.set_cookie(LANGUAGE, code, max_age=_YEAR_S, httponly=True, samesite="strict", secure=secure, path="/")
        return answer


def _add_events(app: FastAPI, desk: Desk) -> None:
    @app.get("/events")
    async def events() -> Response:
        """Tell of everything new as server-sent events (html.spec.whatwg.org, 9.2)."""
        return StreamingResponse(_told(desk), media_type="text/event-stream")


async def _told(desk: Desk) -> AsyncIterator[str]:
    """Yield the version of the standing whenever it is another one; and a comment now and then, to be heard at all."""
    told, quiet = -1, 0.0
    yield "retry: 2000\n\n"
    while not desk.follower.stopping:
        version = desk.follower.standing.version
        if version != told:
            told, quiet = version, 0.0
            yield f"event: standing\ndata: {version}\n\n"
        elif quiet >= _ALIVE_S:
            quiet = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(_LOOK_S)
        quiet += _LOOK_S


def _add_errors(app: FastAPI, desk: Desk) -> None:
    def unknown(request: Request, _: Exception) -> Response:
        t = language_of(request)
        return desk.page(
            request, "plain.html", 404, heading=t("error.unknown"), lead=t("error.unknown.words"), words=""
        )

    def broken(request: Request, why: Exception) -> Response:
        t = language_of(request)
        words = why.what if isinstance(why, BottegaError) else type(why).__name__
        log.error("a page could not be shown: %s", words)
        if request.url.path.endswith(".json"):
            return JSONResponse({"error": words}, 503)
        return desk.page(
            request, "plain.html", 503, heading=t("error.broken"), lead=t("error.broken.words"), words=words
        )

    missing: tuple[type[Exception], ...] = (UnknownError, RequestValidationError, HTTPException)
    for kind in missing:
        app.add_exception_handler(kind, unknown)
    for other in (BottegaError, Exception):
        app.add_exception_handler(other, broken)
