"""``passphrase``, a command of every home: lock the private keys under a passphrase, under another, or under none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from common.errors import HomeError, SettingsError, VaultError
from common.paths import Home
from security.passphrase import PASSPHRASE_FILE, passphrase, read_passphrase
from security.vault import Vault, change_passphrase


def add_passphrase(app: typer.Typer, folder: str, homes: Callable[[Path], Sequence[Home]]) -> None:
    """Add the command to an app.

    Args:
        app: ``bottega server``, ``bottega site`` or ``bottega member``.
        folder: Where a home is when nobody says otherwise.
        homes: Which homes there are in a folder.
    """

    @app.command("passphrase")
    def set_passphrase(
        home: Annotated[Path, typer.Option(help="The home folder.")] = Path(folder),
        new: Annotated[Path | None, typer.Option(help="A file (0600) that holds the new passphrase.")] = None,
        none: Annotated[bool, typer.Option("--none", help="Lock the keys under no passphrase.")] = False,
    ) -> None:
        """Lock the private keys and all that is encrypted in this home under a passphrase, or under another one.

        The present passphrase, if there is one, is in the file that BOTTEGA_PASSPHRASE_FILE names. Every command and
        every start needs the new one ever after. Who loses it loses the keys.
        """
        if (new is None) is not none:
            raise SettingsError("which passphrase?", expected="--new FILE, or --none", advice="Give one of the two.")
        after = None if new is None else read_passphrase(new)
        for one in homes(home.absolute()):
            _lock(one, after)
        if new is None:
            typer.echo(f"the keys in {home} are under no passphrase: whoever has the folder has the keys")
            return
        typer.echo(f"the keys in {home} are locked under the passphrase")
        typer.echo(f"\nNext: export {PASSPHRASE_FILE}={new.absolute()}", err=True)


def _lock(home: Home, after: str | None) -> None:
    """Lock a home under a passphrase; done already by a call that was cut off, it is passed over."""
    if not home.vault_key.exists():
        raise HomeError("nobody lives in this folder", got=str(home.root), expected=f"{home.vault_key.name} in it")
    try:
        Vault.open(home.vault_key, after)
    except VaultError:
        change_passphrase(home.vault_key, passphrase(), after)
