"""``bottega audit serve``: the record as pages for a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.commands.audit_options import BundleFile, Home, Key, Offline, place_of


def serve(
    home: Home = None,
    bundle: BundleFile = None,
    key: Key = None,
    offline: Offline = False,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Off this machine, operators and auditors show their certificates."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 lets the system choose.")] = 8460,
    open_: Annotated[bool, typer.Option("--open", help="Open the pages in a browser.")] = False,
) -> None:
    """Show the record in a browser: members, runs, every round, the ledger, and verify it there. Ctrl-C ends it.

    It reads, and changes nothing. On this machine the link that is printed lets one browser in, once. Beside a server,
    --host lets others read it by HTTPS (TLS 1.3): operators and auditors who are active, by their certificates
    (`bottega member browser-key` makes a file of one that browsers take).
    """
    from rich.console import Console

    from common.metrics_port import is_loopback
    from deploy.dashboard import serve as carry_out

    told: list[str] = []

    def tell(address: str) -> None:
        if told:
            typer.echo(f"a browser is in; the next one may use {address}", err=True)
        else:
            typer.echo(address)
            typer.echo(
                "\nNext: open it in a browser; "
                + ("each link is good once; " if is_loopback(host) else "")
                + "Ctrl-C ends it",
                err=True,
            )
            if open_:
                typer.launch(address)
        told.append(address)

    place = place_of(home, bundle, key, offline=offline)
    with Console(stderr=True, highlight=False).status("reading the record …") as status:

        def progress(there: int, whole: int) -> None:
            status.update(f"{there:,} of {whole:,} entries verified")

        def ready(address: str) -> None:
            status.stop()
            tell(address)

        carry_out(place, host, port, ready, progress)
