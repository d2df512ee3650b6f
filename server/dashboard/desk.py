"""What all pages have at hand: the ledger, how it stands, who asks, and the reader's language."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from security.entries import moment
from server.dashboard.following import Follower
from server.dashboard.languages import Language, chosen
from server.dashboard.places import Places
from server.dashboard.reading import Reading
from server.dashboard.reading_members import MembersReading
from server.dashboard.reading_runs import RunsReading
from server.dashboard.telling import tell

if TYPE_CHECKING:
    from types import TracebackType

    from starlette.requests import Request

    from server.dashboard.ledger_file import LedgerFile
    from server.dashboard.visitors import Door, Visitor

LANGUAGE = "bottega-language"
"""The cookie that remembers which language a reader chose."""


class Desk:
    """Serves pages while it is entered as a context.

    Args:
        file: The ledger.
        door: Who is let in.

    Raises:
        LedgerError: The file cannot be opened, or holds no ledger.
        IdentityError: Nobody's signature can be believed.
    """

    def __init__(self, file: LedgerFile, door: Door) -> None:
        self.file, self.door = file, door
        trust = file.trust()
        self.federation, self.pinned = trust.federation, trust.pinned
        places = Places()
        self.follower = Follower(file, places)
        self.reading = Reading(file.open(), places, self.follower.doubt)
        self.runs = RunsReading(self.reading)
        self.members = MembersReading(self.reading, self.runs)
        self._pages = Environment(
            loader=PackageLoader("server.dashboard", "templates"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._pages.globals["moment"] = moment

    def __enter__(self) -> Self:
        self.follower.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.follower.__exit__(kind, error, trace)
        self.reading.close()
        self.reading.places.close()

    def page(self, request: Request, template: str, status: int = 200, **facts: Any) -> HTMLResponse:  # noqa: ANN401
        """Return a page.

        Args:
            request: Who asks, and for what.
            template: Of the page.
            status: HTTP's.
            **facts: What the template shows.
        """
        t = language_of(request)
        visitor: Visitor | None = getattr(request.state, "visitor", None)
        query = f"?{request.url.query}" if request.url.query else ""
        common = {
            "t": t, "tell": partial(tell, t=t), "visitor": visitor, "federation": self.federation,
            "standing": self.follower.standing, "source": self.file.kind, "pinned": self.pinned,
            "path": request.url.path, "here": request.url.path + query, "live": visitor is not None and status == 200,
        }  # fmt: skip
        told = self._pages.get_template(template).render(**common, **facts)
        return HTMLResponse(told, status, {"Vary": "Accept-Language, Cookie", "Content-Language": t.code})

    def online(self) -> frozenset[str] | None:
        """Return the sites that are connected; None where nobody can tell."""
        return self.file.beside.online() if self.file.beside else None


def language_of(request: Request) -> Language:
    """Return the language that a reader wants."""
    return chosen(request.cookies.get(LANGUAGE), request.headers.get("accept-language", ""))


def pretty(data: bytes) -> str:
    """Return an entry's JSON over several lines; what is none as it stands."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.dumps(json.loads(data), indent=2, ensure_ascii=False)
    return data.decode(errors="replace")
