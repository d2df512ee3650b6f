"""What all commands of ``bottega audit`` share: where the record is, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from deploy.records import Place
    from security.audit.record import Record

Home = Annotated[
    Path | None,
    typer.Option(
        help="The home of a server, an operator or an auditor, or one that a bundle was imported into.",
        show_default="server",
    ),
]
BundleFile = Annotated[Path | None, typer.Option("--bundle", help="Read this bundle; no home is needed.")]
Key = Annotated[
    str | None,
    typer.Option(help="The server's key (NAME+ID+KEY), as somebody told you by another way than the bundle."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Read a copy as it is; ask no server.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Run = Annotated[str, typer.Argument(help="A run's id, or how it begins, or `last`.")]

STANDING = {
    "admitted": "green", "clipped": "yellow", "rejected": "red", "refused": "red", "taken back": "red",
    "silent": "bright_black",
}  # fmt: skip


def place_of(home: Path | None, bundle: Path | None, key: str | None, *, offline: bool) -> Place:
    """Return where the record is."""
    from deploy.records import Place

    return Place(home, bundle, key, offline)


@contextmanager
def opened(place: Place, *, sign: bool = False) -> Iterator[Record]:
    """Open the record; on a terminal it is told how many entries have come."""
    from deploy.records import open_record

    with ExitStack() as stack:
        with Console(stderr=True, highlight=False).status("reading the record …") as status:

            def tell(there: int, whole: int) -> None:
                status.update(f"{there:,} of {whole:,} entries verified")

            record = stack.enter_context(open_record(place, tell, sign=sign))
        yield record


def hint(place: Place, what: str) -> None:
    """Print the next step on standard error."""
    typer.echo(f"\nNext: {what}{said(place)}", err=True)


def said(place: Place) -> str:
    """Return the options that name the same place again."""
    words = [("--bundle", place.bundle), ("--home", place.home), ("--key", place.key)]
    return "".join(f" {name} {value}" for name, value in words if value is not None)


def print_json(value: object) -> None:
    """Print JSON."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """Return a plain table; columns of numbers go to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def show(what: Table | str) -> None:
    """Print a table, or marked-up text."""
    Console(highlight=False).print(what)


def marked(standing: str) -> str:
    """Return how a site stands, in its colour."""
    return f"[{STANDING.get(standing, 'default')}]{escape(standing)}[/]"


def number(value: float | None, places: str = ".3g") -> str:
    """Return a number for a table; nothing where there is none."""
    return "" if value is None else format(value, places)
