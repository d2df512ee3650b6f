"""The `bottega` command."""

from __future__ import annotations

import os
import sys
import warnings

import typer
from rich.console import Console

from common.errors import BottegaError
from common.logs import set_up_logs
from deploy.commands import adapter, audit, demo, draw, evaluate

app = typer.Typer(
    name="bottega",
    help="Train one drawing model across many studios; no drawing leaves the house it belongs to.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start here: `bottega demo` runs a whole federation on this machine and shows what it learned.",
)
app.command()(demo.demo)
app.command()(draw.draw)
app.command()(evaluate.evaluate)
app.add_typer(adapter.adapter_app, name="adapter")
app.add_typer(audit.audit_app, name="audit")


def main() -> None:
    """Run the command; print an error of ours as a sentence, never as a traceback."""
    _settle_environment()
    _add_groups()
    try:
        app(prog_name="bottega")
    except BottegaError as why:
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {_escaped(str(why))}", soft_wrap=True)
        sys.exit(1)


def _add_groups() -> None:
    from client.cli import data_app, site_app
    from client.cli_member import member_app
    from deploy.commands.check import check_run
    from deploy.commands.draw_rounds import draw_run
    from deploy.commands.export import export_run
    from deploy.commands.rehearse import rehearse_run
    from server.cli import run_app, server_app

    app.add_typer(server_app, name="server")
    app.add_typer(site_app, name="site")
    run_app.command("rehearse")(rehearse_run)
    run_app.command("draw")(draw_run)
    run_app.command("check")(check_run)
    run_app.command("export")(export_run)
    app.add_typer(run_app, name="run")
    app.add_typer(member_app, name="member")
    app.add_typer(data_app, name="data")


def _settle_environment() -> None:
    """Quiet what other libraries say at import, and keep them from calling home."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core writes past every logger
    set_up_logs()


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


if __name__ == "__main__":
    main()
