"""``bottega audit rounds | show | site | privacy | watch``: what the record says."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.commands.audit_options import (
    BundleFile,
    Home,
    Json,
    Key,
    Offline,
    Run,
    hint,
    opened,
    place_of,
    print_json,
)
from deploy.commands.audit_show import show_one_round, show_one_site, show_privacy, show_rounds

if TYPE_CHECKING:
    from security.audit.record import Record

LOOK_S = 2.0
"""How often `watch` looks."""

Site = Annotated[str | None, typer.Option(help="Only rounds that this site was asked in.")]


def rounds(
    run: Annotated[
        str | None, typer.Argument(help="A run's id, or how it begins, or `last`; all runs without.")
    ] = None,
    home: Home = None,
    bundle: BundleFile = None,
    key: Key = None,
    run_: Annotated[str | None, typer.Option("--run", help="The same as RUN.")] = None,
    site: Site = None,
    verdict: Annotated[
        str | None,
        typer.Option(
            help="Only rounds in which a site (--site, if given) is: admitted, clipped, rejected, refused, "
            "'taken back' or silent."
        ),
    ] = None,
    since: Annotated[str | None, typer.Option(help="Only rounds opened from this day or time (RFC 3339) on.")] = None,
    offline: Offline = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json_: Json = False,
) -> None:
    """List the rounds of all runs, or of one: what came of each, who was averaged and who was not.

    Everything is read from the ledger's entries. `bottega audit verify` says whether they hold.
    """
    from common.errors import SettingsError
    from security.audit import rounds as told

    if verdict is not None and verdict not in told.VERDICTS:
        raise SettingsError("--verdict does not fit", got=repr(verdict[:20]), expected=", ".join(told.VERDICTS))
    at = told.since(since) if since else None
    place = place_of(home, bundle, key, offline=offline)
    with opened(place) as record:
        chronicle = record.chronicle()
        named = run or run_
        wanted = told.Wanted(told.find_run(chronicle, named).run if named else None, site, verdict, at)
        found = list(told.rows(chronicle, wanted))
    if json_:
        print_json(found)
    elif csv:
        typer.echo(told.to_csv(found), nl=False)
    elif not found:
        typer.echo("no such round in the record" if chronicle.runs else "the record has no run yet")
    else:
        show_rounds(found)
        hint(place, f"bottega audit show {found[-1]['run']} {found[-1]['round']}")


def show_round(
    run: Run,
    round_: Annotated[int, typer.Argument(metavar="ROUND", min=1, help="The round's number.")],
    home: Home = None,
    bundle: BundleFile = None,
    key: Key = None,
    offline: Offline = False,
    json_: Json = False,
) -> None:
    """Show one round: who was asked, every verdict with its reason, privacy, digests, and the entries that say so."""
    from security.audit.people import round_facts
    from security.audit.rounds import find_round, find_run

    place = place_of(home, bundle, key, offline=offline)
    with opened(place) as record:
        told = find_run(record.chronicle(), run)
        facts = round_facts(told, find_round(told, round_))
    if json_:
        print_json(facts)
        return
    show_one_round(facts)
    hint(place, "bottega audit verify")


def site(
    name: Annotated[str, typer.Argument(help="The site's name.")],
    home: Home = None,
    bundle: BundleFile = None,
    key: Key = None,
    offline: Offline = False,
    json_: Json = False,
) -> None:
    """Show everything that the record says of one site: membership, keys, every round, every verdict, privacy."""
    from security.audit.people import find_site, site_facts

    place = place_of(home, bundle, key, offline=offline)
    with opened(place) as record:
        chronicle = record.chronicle()
        facts = site_facts(chronicle, find_site(chronicle, name))
    if json_:
        print_json(facts)
        return
    show_one_site(facts)
    hint(place, f"bottega audit rounds --site {name}")


def privacy(
    run: Annotated[
        str | None, typer.Argument(help="A run's id, or how it begins, or `last`; all runs without.")
    ] = None,
    home: Home = None,
    bundle: BundleFile = None,
    key: Key = None,
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    offline: Offline = False,
    json_: Json = False,
) -> None:
    """Show what each run cost each site in privacy, as the sites told it, beside what the run's settings allow.

    Epsilon is what the run had cost one unit (a drawing, or an artist) at the site by its last round there. The numbers
    are signed by the sites; `bottega audit attack privacy` puts the training that they come from to the test.
    """
    from security.audit.people import privacy_rows
    from security.audit.rounds import find_run

    place = place_of(home, bundle, key, offline=offline)
    with opened(place) as record:
        chronicle = record.chronicle()
        found = list(privacy_rows(chronicle, find_run(chronicle, run).run if run else None, site))
    if json_:
        print_json(found)
    elif not found:
        typer.echo("the record has no such run or site")
    else:
        show_privacy(found)


def watch(
    home: Home = None,
    offline: Annotated[bool, typer.Option("--offline", hidden=True)] = False,
    last: Annotated[int, typer.Option(min=0, help="How many entries that are there already are shown first.")] = 10,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object an entry.")] = False,
) -> None:
    """Follow the record: an entry a line as it is written, verified before it is shown. Ctrl-C ends it."""
    place = place_of(home, None, None, offline=offline)
    with suppress(KeyboardInterrupt), opened(place) as record:
        seen = max(0, record.reader.size() - last)
        while True:
            seen = _show_entries(record, seen, json_=json_)
            time.sleep(LOOK_S)
            _refresh(record)


def _refresh(record: Record) -> None:
    """Look whether there is more; a server that is away for a while ends nothing."""
    from common.errors import ProcessError

    try:
        record.refresh()
    except ProcessError as why:
        typer.echo(f"{why.what}; trying again", err=True)


def _show_entries(record: Record, seen: int, *, json_: bool) -> int:
    from security.audit.tell import in_words

    size = record.reader.size()
    for line in record.lines(seen, size):
        if json_:
            typer.echo(json.dumps({"entry": line.index, **line.entry.model_dump(mode="json")}))
        else:
            typer.echo(f"{line.index:>6}  {line.entry.at}  {in_words(line.entry)}")
    return max(seen, size)
