"""Whoever belongs to a federation can check what it released: from their own home, with the server gone."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from deploy.commands.adapter import adapter_app
from security.identity import Identity, Role, SpiffeId
from server.house import open_house
from tests.integration.town import FEDERATION, a_town
from tests.releases import released


def test_a_site_and_an_operator_check_a_release_from_their_homes_alone(tmp_path: Path) -> None:
    with a_town(tmp_path) as town:
        homes = [town.site("rossi"), town.operator("paolo")]
        released(tmp_path / "ours", open_house(town.home).identity)
    released(tmp_path / "theirs", Identity.generate(SpiffeId(FEDERATION, Role.SERVER, "server")))
    town.home.root.rename(tmp_path / "gone")
    for home in homes:
        for folder, holds in (("ours", True), ("theirs", False)):
            words = ["verify", str(tmp_path / folder), "--home", str(home.root), "--json"]
            done = CliRunner().invoke(adapter_app, words)
            told = json.loads(done.stdout)
            assert (done.exit_code, told["holds"], told["vouched"]) == (0 if holds else 1, holds, True)
