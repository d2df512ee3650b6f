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

from common.paths import SiteHome, SuperNodeHome
from deploy.cli import _add_groups, app
from security.calling import NotAMemberError

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


def takes(words: list[str]) -> None:
    """Let the command line read the words of a command, as far as running it."""
    if not any(group.name == "server" for group in app.registered_groups):
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
    assert f"{words[-1]}/".startswith(f"/var/lib/{service['StateDirectory']}/")


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.stem)
def test_systemd_finds_nothing_wrong_with_a_unit(file: Path, tmp_path: Path) -> None:
    if not (analyse := shutil.which("systemd-analyze")):
        pytest.skip("no systemd here")
    copy = tmp_path / file.name
    copy.write_text(re.sub(r"(?<=ExecStart=)\S+", "/bin/true", file.read_text()))
    done = subprocess.run([analyse, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def words_of(file: str) -> tuple[configparser.SectionProxy, str]:
    """Return the section of a service, and the home that it is started with."""
    service = unit(ROOT / "deploy" / "systemd" / file)["Service"]
    return service, service["ExecStart"].split()[-1]


def test_the_supernodes_unit_is_another_user_who_sees_of_the_agents_home_the_share_alone() -> None:
    agent, home = words_of("bottega-site.service")
    supernode, apart = words_of("bottega-supernode.service")
    assert "--part agent" in agent["ExecStart"]
    assert "--part supernode" in supernode["ExecStart"]
    assert agent["User"] != supernode["User"]
    assert agent["SupplementaryGroups"] == supernode["Group"]
    assert "SupplementaryGroups" not in supernode
    bound = f"{SiteHome(Path(home)).share}:{SuperNodeHome(Path(apart)).share}"
    assert (supernode["BindReadOnlyPaths"], supernode.get("BindPaths")) == (bound, None)
    assert agent["StateDirectoryMode"] == "0700"


def test_a_site_that_was_revoked_is_not_started_again() -> None:
    agent, _ = words_of("bottega-site.service")
    assert agent["RestartPreventExitStatus"] == str(NotAMemberError.exit_code) == "77"


def test_compose_runs_commands_that_there_are_each_as_another_user() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    services = compose["services"]
    for service in services.values():
        takes(service["command"])
        takes(service["healthcheck"]["test"][2:])
        assert service["command"][-1] == service["healthcheck"]["test"][-1]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
    assert len({service["user"] for service in services.values()}) == len(services)
    build = services["server"]["build"]
    assert (ROOT / "deploy" / build["context"] / build["dockerfile"]).is_file()


def mounts(service: dict[str, list[str]]) -> dict[str, tuple[str, bool]]:
    """Return by what is mounted where, and whether it may be written."""
    found = [re.fullmatch(r"(.+?):(/[^:]+)(:ro)?", volume) for volume in service["volumes"]]
    return {match[1]: (match[2], match[3] is None) for match in found if match}


def test_in_compose_the_supernode_has_neither_drawings_nor_keys_and_shares_one_volume_with_the_agent() -> None:
    services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
    home, apart = (Path(services[name]["command"][-1]) for name in ("site", "supernode"))
    drawings = "${BOTTEGA_DRAWINGS:-./drawings}"
    assert mounts(services["site"]) == {
        "site": (str(home.parent), True),
        "share": (str(SiteHome(home).share), True),
        drawings: ("/drawings", False),
    }
    assert mounts(services["supernode"]) == {
        "supernode": (str(apart.parent), True),
        "share": (str(SuperNodeHome(apart).share), False),
    }
    assert set(mounts(services["server"])) == {"server"}
    assert services["site"]["group_add"] == [services["supernode"]["user"].partition(":")[2]]
