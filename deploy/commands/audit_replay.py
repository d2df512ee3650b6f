"""``bottega audit replay``: rounds that are done again, and held to what the ledger says of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from common.errors import LedgerError
from deploy.commands.audit_options import BundleFile, Home, Json, Key, Run, hint, opened, place_of, print_json, show

if TYPE_CHECKING:
    from deploy.records import Place
    from security.audit.record import Record
    from server.replaying import Replayed, ReplaySource


def replay(
    run: Run = "last",
    round_: Annotated[
        int | None, typer.Argument(metavar="ROUND", min=1, help="The round's number; every round that was kept.")
    ] = None,
    home: Home = None,
    bundle: BundleFile = None,
    key: Key = None,
    json_: Json = False,
) -> None:
    """Do rounds again: open what sites sent, admit, judge and average it, and compare with the ledger, bit for bit.

    On the server's home for as long as it keeps what came (`replay_days` in server.toml), or anywhere on a bundle that
    was exported with `--replay RUN`. Exits with 1 where anything differs. Nothing is written.
    """
    from security.audit.rounds import find_run
    from server.replaying import replay as again

    place = place_of(home, bundle, key, offline=True)
    with opened(place) as record, _source(place, record, find_run(record.chronicle(), run).run) as source:
        told = find_run(record.chronicle(), run)
        numbers = _kept(source) if round_ is None else [round_]
        found = []
        for number in numbers:
            found.append(again(source, number, told))
            if not json_:
                _tell(found[-1])
    wrong = [one for one in found if one.differences]
    if json_:
        print_json({"run": told.run, "same": not wrong, "rounds": [asdict(one) for one in found]})
    else:
        summary = "all of them the same, bit for bit" if not wrong else f"{len(wrong)} of them DIFFERENT"
        show(f"{len(found)} rounds of {told.run} done again: [{'red' if wrong else 'green'}]{summary}[/]")
        hint(place, "bottega audit verify")
    raise typer.Exit(int(bool(wrong)))


def _tell(one: Replayed) -> None:
    state = "[red]DIFFERENT[/]" if one.differences else "[green]the same[/]"
    adapter = f", adapter {one.adapter[:16]}…" if one.adapter else ""
    show(f"round {one.number}: {one.compared} entries {state}{adapter}")
    for words in one.passed_over:
        show(f"  passed over: {escape(words)}")
    for difference in one.differences:
        show(f"  {escape(difference.what)}: the ledger says {escape(difference.ledger)}, "
             f"the replay {escape(difference.replay)}")  # fmt: skip


def _kept(source: ReplaySource) -> list[int]:
    rounds = list(source.rounds)
    if not rounds:
        raise LedgerError(
            "no round of this run was kept for a replay", expected="rounds of the last `replay_days` of server.toml",
            advice="Verdicts and digests stand in the ledger all the same: `bottega audit show`.",
        )  # fmt: skip
    return rounds


@contextmanager
def _source(place: Place, record: Record, run: str) -> Iterator[ReplaySource]:
    """Open what was kept of a run, where the record is."""
    from common.paths import ServerHome
    from deploy.records import KEPT_BUNDLE
    from security.audit.bundle import Bundle
    from server.house import open_house
    from server.replay_bundle import BundleReplays
    from server.replay_home import HomeReplays
    from server.store import Store

    kept = place.bundle or place.folder / KEPT_BUNDLE
    with ExitStack() as stack:
        if place.bundle is None and ServerHome(place.folder).settings.is_file():
            home = ServerHome(place.folder)
            yield HomeReplays(open_house(home), stack.enter_context(Store(home.database)), run)
            return
        if not kept.is_file():
            raise LedgerError(
                "what sites sent is not here", expected="a server's home, or a bundle exported with `--replay`",
                advice="On the server: bottega audit export FILE --replay RUN",
            )  # fmt: skip
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bottega-replay-")))
        yield BundleReplays(stack.enter_context(Bundle(kept)), run, record.trust.roster, folder)
