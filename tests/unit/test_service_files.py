"""What systemd and compose are told to run is what there is."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import typer
import yaml

from deploy.cli import _add_groups, app

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


def takes(words: list[str]) -> None:
    """Let the command line read the words of a command, as far as running it."""
    if not app.registered_groups:
        _add_groups()
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
    command.make_context("bottega", words)


def unit(file: Path) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(file)
    return parsed


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.stem)
def test_a_unit_runs_a_command_that_there_is_and_is_told_when_it_is_ready(file: Path) -> None:
    service = unit(file)["Service"]
    path, *words = service["ExecStart"].split()
    assert path.endswith("/bottega")
    takes(words)
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert words[-1].startswith(f"/var/lib/{service['StateDirectory']}/")


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.stem)
def test_systemd_finds_nothing_wrong_with_a_unit(file: Path, tmp_path: Path) -> None:
    if not (analyse := shutil.which("systemd-analyze")):
        pytest.skip("no systemd here")
    copy = tmp_path / file.name
    copy.write_text(re.sub(r"(?<=ExecStart=)\S+", "/bin/true", file.read_text()))
    done = subprocess.run([analyse, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_compose_runs_commands_that_there_are_as_users_and_on_volumes_that_are_not_shared() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    services = compose["services"]
    for service in services.values():
        takes(service["command"])
        takes(service["healthcheck"]["test"][2:])
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
    assert len({service["user"] for service in services.values()}) == len(services)
    named = [volume.split(":")[0] for service in services.values() for volume in service["volumes"]]
    assert len(named) == len(set(named))
    build = services["server"]["build"]
    assert (ROOT / "deploy" / build["context"] / build["dockerfile"]).is_file()
