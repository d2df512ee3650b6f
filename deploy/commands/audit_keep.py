"""``bottega audit verify | sync | export | import | report``: whether the record holds, and taking it away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from common.errors import HomeError
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
    said,
    show,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deploy.records import Place
    from security.audit.finding import Finding
    from security.audit.record import Record


class Adapters(StrEnum):
    """Which adapters go with a bundle."""

    NONE = "none"
    RELEASED = "released"
    ALL = "all"


def verify(
    home: Home = None,
    bundle: BundleFile = None,
    key: Key = None,
    seen: Annotated[
        list[Path] | None,
        typer.Option(help="A checkpoint that somebody else was shown (a signed note); may be given again."),
    ] = None,
    offline: Offline = False,
    json_: Json = False,
) -> None:
    """Verify the whole record. Exits with 0 when it holds; else with 1, and says what is wrong and from which entry on.

    Every hash is made again from the entries; every checkpoint and every co-signature is held to its key; every entry
    must read, and make sense beside those before it; adapters that lie beside it must be those that rounds ended with.

    With other tools: the tree is RFC 6962 (SHA-256), checkpoints are C2SP signed notes (tlog-checkpoint, Ed25519) with
    cosignature/v1 lines, entries are canonical JSON (RFC 8785). A bundle (`bottega audit export`) holds them as files,
    the keys in the form that Go's sumdb/note takes, and a README that says how.
    """
    from common.errors import LedgerError
    from deploy.records import seen_elsewhere
    from security.audit.verification import verify_record
    from security.files import read_public

    place = place_of(home, bundle, key, offline=offline)
    shown = [read_public(file, error=LedgerError) for file in seen or []]
    with opened(place) as record:
        told = verify_record(record, [*shown, *([] if bundle else seen_elsewhere(place))])
        facts = {"federation": record.trust.federation, "where": record.where, **told.facts(), **_keys(record)}
    if json_:
        print_json(facts)
    else:
        _show_verification(facts, told.faults, told.remarks)
        hint(
            place,
            "bottega audit rounds" if told.holds else "keep everything as it is, then bottega audit verify --json",
        )
    raise typer.Exit(0 if told.holds else 1)


def sync(
    home: Annotated[Path, typer.Option(help="The home of an operator or an auditor.")] = Path("member"),
    begin_anew: Annotated[
        bool, typer.Option("--begin-anew", help="Set the copy aside and believe what the server shows now.")
    ] = False,
    json_: Json = False,
) -> None:
    """Bring this member's copy of the record up to date over the registry. Every other command does so as well.

    What comes is verified before it is kept. A server whose ledger does not hold what was seen of it before is refused,
    and both checkpoints are kept in the home, in `evidence`.
    """
    from common.errors import HomeError
    from common.paths import MemberHome
    from deploy.records import LEDGER
    from deploy.records import begin_anew as set_aside
    from deploy.records import sync as bring
    from security.audit.mirror import Mirror

    place = MemberHome(home.absolute())
    if not place.settings.is_file():
        raise HomeError("no operator or auditor lives in this folder", got=str(place.root))
    aside = set_aside(place) if begin_anew else None
    with Mirror(place.root / LEDGER) as mirror:
        synced = bring(place, mirror)
    if json_:
        print_json({"fresh": synced.fresh, "entries": synced.size, "set_aside": str(aside) if aside else None})
        return
    if aside:
        typer.echo(f"the copy from before is {aside}")
    typer.echo(f"{synced.fresh} new entries, {synced.size} in all, each under the server's signature")
    typer.echo(f"\nNext: bottega audit verify --home {home}", err=True)


def export(
    file: Annotated[Path, typer.Argument(help="The bundle; it must not exist.")],
    home: Home = None,
    adapters: Annotated[
        Adapters, typer.Option(help="Which adapters go with it. `all` hands over those that nobody released, too.")
    ] = Adapters.NONE,
    replay: Annotated[
        str | None, typer.Option(help="RUN: what it takes to do its rounds again, every site's updates among it.")
    ] = None,
    offline: Offline = False,
    json_: Json = False,
) -> None:
    """Write the record, and what it takes to verify it without any server, into one file (a zip).

    It holds entries, checkpoints with co-signatures, the public keys of server and members, and a README. Nothing in it
    is secret, unless adapters that nobody released are asked for, or what a replay takes.
    """
    from security.audit.exporting import export as write
    from server.journal import SOFTWARE

    place = place_of(home, None, None, offline=offline)
    with opened(place, sign=True) as record:
        wanted = _wanted(record, adapters)
        with _sent(place, record, replay) as updates:
            manifest = write(record, file.absolute(), SOFTWARE, wanted, updates)
    digest = _sha256(file)
    if json_:
        parts = [part.model_dump() for part in manifest.parts]
        print_json({"file": str(file), "sha256": digest, "entries": manifest.entries, "parts": parts})
        return
    typer.echo(f"{file}: {manifest.entries} entries, {len(wanted)} adapters, {file.stat().st_size:,} bytes")
    typer.echo(f"sha256 {digest}")
    if adapters is Adapters.ALL:
        typer.echo("it holds adapters that nobody released: whoever has it has what the drawings taught them", err=True)
    if replay is not None:
        typer.echo("it holds every site's updates of this run: it is for an auditor whom the sites trust", err=True)
    typer.echo(
        f"\nNext, anywhere: bottega audit verify --bundle {file} --key '{record.trust.server_keys[0]}'", err=True
    )


def import_(
    file: Annotated[Path, typer.Argument(help="The bundle.")],
    home: Annotated[Path | None, typer.Option(help="Keep it in this folder; without, it is only looked at.")] = None,
    key: Key = None,
    json_: Json = False,
) -> None:
    """Read a bundle, verify it, and keep it in a home that audit commands can work from.

    A home that knows the federation already (a member's, or one that an earlier bundle was imported into) believes the
    server that it knows, and refuses a bundle that contradicts what it holds.
    """
    from common.paths import MemberHome
    from deploy.records import keep_bundle
    from security.audit.bundle import Bundle

    if home is None:
        place = place_of(None, file, key, offline=True)
        with Bundle(file) as bundle:
            bundle.check()
        with opened(place) as record:
            facts: dict[str, Any] = {"entries": record.reader.size(), "adapters": len(record.adapters), **_keys(record)}
    else:
        place = place_of(home, None, None, offline=True)
        synced = keep_bundle(file, MemberHome(home.absolute()), key)
        with opened(place) as record:
            facts = {"entries": synced.size, "fresh": synced.fresh, "adapters": len(record.adapters), **_keys(record)}
    if json_:
        print_json({"file": str(file), "home": str(home) if home else None, **facts})
        return
    kept = f"kept in {home}" if home else "looked at and not kept"
    typer.echo(f"{file}: {facts['entries']} entries of {record.trust.federation}, verified, {kept}")
    _say_whom(facts)
    hint(place, "bottega audit verify")


def report(
    run: Run,
    out: Annotated[Path, typer.Option(help="The folder to write into; made if it does not exist.")] = Path("report"),
    home: Home = None,
    bundle: BundleFile = None,
    key: Key = None,
    offline: Offline = False,
    json_: Json = False,
) -> None:
    """Write an evidence pack about one run: report.html and report.pdf, made from the record alone.

    What was trained, by whom, on which terms; what it cost each site in privacy; who was left out and why; checkpoints,
    co-signatures and how to verify them; and which facts of the record speak to GDPR and ISO/IEC 42001. It certifies
    nothing.
    """
    from deploy.evidence import evidence_of, write_pack

    place = place_of(home, bundle, key, offline=offline)
    with opened(place) as record:
        facts = evidence_of(record, run)
        files = write_pack(facts, out.absolute())
    if json_:
        print_json(
            {"run": facts["run"], "holds": facts["verification"]["holds"], "files": [str(file) for file in files]}
        )
        return
    for file in files:
        typer.echo(str(file))
    if not facts["verification"]["holds"]:
        typer.echo("the record does not hold, and the report says so on its first page", err=True)
    typer.echo(f"\nNext: bottega audit export BUNDLE{said(place)}, and hand both on", err=True)


@contextmanager
def _sent(place: Place, record: Record, run: str | None) -> Iterator[Iterable[tuple[str, Iterable[bytes]]]]:
    """Return the parts that a replay takes; none where none is asked for."""
    from common.paths import ServerHome
    from security.audit.rounds import find_run
    from server.house import open_house
    from server.replay_bundle import disclosed
    from server.replay_home import HomeReplays
    from server.store import Store

    if run is None:
        yield ()
        return
    home = ServerHome(place.folder)
    if not home.settings.is_file():
        raise HomeError("what sites sent is in the server's home alone", got=str(place.folder))
    told = find_run(record.chronicle(), run).run
    with Store(home.database) as store:
        yield disclosed(HomeReplays(open_house(home), store, told), told)


def _wanted(record: Record, which: Adapters) -> list[tuple[str, int]]:
    if which is Adapters.NONE:
        return []
    if which is Adapters.ALL:
        return sorted(record.adapters)
    runs = record.chronicle().runs.values()
    released = {(told.run, one.round) for told in runs for one in told.releases}
    return sorted(released & record.adapters.keys())


def _keys(record: Record) -> dict[str, Any]:
    authority = record.trust.authority
    return {
        "key": str(record.trust.server_keys[0]),
        "pinned": record.trust.pinned,
        "authority": authority.words if authority else None,
    }


def _say_whom(facts: dict[str, Any]) -> None:
    how = "as this home or --key has it" if facts["pinned"] else "by the bundle's own word; compare it"
    typer.echo(f"server's key  {facts['key']}\n              {how}")
    if facts["authority"]:
        typer.echo(f"authority     {facts['authority']}")


def _show_verification(facts: dict[str, Any], faults: list[Finding], remarks: list[Finding]) -> None:
    show(f"the record of [bold]{escape(facts['federation'])}[/], in {escape(facts['where'])}")
    _say_whom(facts)
    if not facts["entries"]:
        show("\nthe ledger holds no entry: nothing is recorded, so there is nothing to verify")
    else:
        show(f"\n{facts['entries']} entries, root {facts['root']}")
        show(f"{facts['checkpoints']} checkpoints, the last that holds over {facts['covered_by_a_checkpoint']} entries")
        seen = [f"{site} ({size})" if size else f"{site} (none)" for site, size in facts["cosigned_by"].items()]
        show(f"co-signed, up to how many entries: {', '.join(seen) or 'there is no site'}")
        show(f"{facts['adapters']} adapters beside it are those that their rounds ended with" if facts["adapters"] else
             "no adapters lie beside it")  # fmt: skip
    _list("remarks", remarks, "yellow")
    _list("faults", faults, "red")
    if faults:
        show(f"\n[bold red]the record does not hold[/], from entry {facts['holds_to']} on")
    elif facts["entries"]:
        show("\n[bold green]the record holds[/]")


def _list(title: str, found: Iterable[Finding], colour: str) -> None:
    for place, one in enumerate(found):
        if not place:
            show(f"\n[{colour}]{title}[/]")
        where = f"entry {one.entry}" if one.entry is not None else "all of it"
        show(f"  {where:<12} {escape(one.words)} ({one.what})")


def _sha256(file: Path) -> str:
    import hashlib

    with file.open("rb") as opened_file:
        return hashlib.file_digest(opened_file, "sha256").hexdigest()
