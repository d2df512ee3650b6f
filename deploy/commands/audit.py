"""``bottega audit``: read, verify and take away the record of a federation, and attack what it trains."""

from __future__ import annotations

import typer

from deploy.commands.audit_attack import attack_app

audit_app = typer.Typer(help="Read and verify the record of every round; attack what was trained.", no_args_is_help=True)
audit_app.add_typer(attack_app, name="attack")
