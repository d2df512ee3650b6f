"""``bottega audit``: read, verify and take away the record of a federation, and attack what it trains."""

from __future__ import annotations

import typer

from deploy.commands.audit_attack import attack_app
from deploy.commands.audit_keep import export, import_, report, sync, verify
from deploy.commands.audit_read import privacy, rounds, show_round, site, watch
from deploy.commands.audit_replay import replay
from deploy.commands.audit_serve import serve

audit_app = typer.Typer(help="Read and verify the record of every round; attack what came of it.", no_args_is_help=True)
audit_app.command()(rounds)
audit_app.command("show")(show_round)
audit_app.command()(verify)
audit_app.command()(replay)
audit_app.command()(site)
audit_app.command()(privacy)
audit_app.command()(watch)
audit_app.command()(serve)
audit_app.command()(sync)
audit_app.command()(export)
audit_app.command("import")(import_)
audit_app.command()(report)
audit_app.add_typer(attack_app, name="attack")
