"""``bottega server backup | restore | restored``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from common.errors import HomeError, SettingsError
from common.paths import ServerHome

Home = Annotated[Path, typer.Option(help="The server's home folder.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="A file (0600) that holds the backup's passphrase; asked for when left out.")
]


def add_backup(app: typer.Typer) -> None:
    """Add the commands to ``bottega server``."""
    for command in (backup, restore, restored):
        app.command()(command)


def backup(
    file: Annotated[Path, typer.Argument(help="A new file.")],
    home: Home = Path("server"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Write all that the federation cannot be without into one encrypted file, and read it back to be sure.

    The server may run meanwhile. In it are the private keys, certificates, settings, roster and store; not the
    adapters of rounds, which lie encrypted in runs/ and may be copied as they are.
    """
    from server.backup import write_backup

    passphrase = _passphrase(passphrase_file, twice=True)
    written = write_backup(ServerHome(home.absolute()), file.absolute(), passphrase)
    typer.echo(f"{len(written.files)} files, {file.stat().st_size} bytes, read back and the same: {file}")
    typer.echo(f"\nNext, should this server be lost: bottega server restore {file} --home NEW", err=True)


def restore(
    file: Annotated[Path, typer.Argument(help="What `bottega server backup` wrote.")],
    home: Home = Path("server"),
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a server's home of a backup: the same authority, keys, members and record, in a new or empty folder.

    What was decided after the backup, members know: each holds the roster that the server signed last. So start the
    restored server and wait until they have called; they bring it back. Until you then say `restored`, nobody is let
    in or revoked and no run starts, because a roster that forgot a revocation is no ground to stand on.
    """
    from server.backup import restore as put_back

    version = put_back(file.absolute(), _passphrase(passphrase_file, twice=False), ServerHome(home.absolute()))
    typer.echo(f"the federation is back in {home}, with version {version} of its roster")
    typer.echo(
        f"\nNext: bottega server start --home {home}; when members have called: bottega server restored --home {home}",
        err=True,
    )


def restored(home: Home = Path("server")) -> None:
    """Say that members have brought back what they know since a restore: the roster is the latest. Done twice, nothing.

    Say it too early, and who knows a later roster will refuse all that comes after, for good.
    """
    from server.house import open_house

    house = open_house(ServerHome(home.absolute()))
    try:
        house.home.restored.unlink(missing_ok=True)
    except OSError as problem:
        raise HomeError("the home cannot be written", got=problem.strerror) from None
    typer.echo(f"the roster stands at version {house.roster.version}; members and runs may change again")
    typer.echo(f"\nNext: bottega server status --home {home}", err=True)


def _passphrase(file: Path | None, *, twice: bool) -> str:
    from security.passphrase import read_passphrase

    if file is not None:
        return read_passphrase(file)
    if not sys.stdin.isatty():
        raise SettingsError(
            "nobody is here to ask for the backup's passphrase", expected="--passphrase-file FILE",
            advice="Name a file (0600) that holds it.",
        )  # fmt: skip
    return str(typer.prompt("The backup's passphrase", hide_input=True, confirmation_prompt=twice))
