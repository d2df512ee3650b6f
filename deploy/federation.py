"""A throw-away federation on one machine: founded, settled and started as separate processes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from client.agent_socket import is_alive
from client.budget_settings import BudgetSettings
from client.policy import HouseRules
from client.settings import SiteSettings
from client.settling import join, settle
from common.errors import HomeError
from common.paths import ServerHome, SiteHome
from common.processes import ChildProcess, Supervisor
from common.settings import RunSettings
from deploy.studios import StudioFolder
from server.founding import add_site, found
from server.house import open_house
from server.ports import read_ports
from server.settings import ServerSettings

MARKER = "demo.json"
"""Says that a folder is a demo's and may be thrown away."""

FEDERATION = "demo.bottega"
START_S = 180.0


@dataclass(frozen=True)
class Premises:
    """The folders of a throw-away federation."""

    root: Path

    @property
    def server(self) -> ServerHome:
        """The server's home."""
        return ServerHome(self.root / "server")

    def site(self, name: str) -> SiteHome:
        """Return a site's home."""
        return SiteHome(self.root / "sites" / name)

    @property
    def drawings(self) -> Path:
        """Procedural drawings, one folder a site."""
        return self.root / "drawings"


def prepare(root: Path) -> Premises:
    """Make the folder of a demo, throwing away what an earlier demo left in it.

    Raises:
        HomeError: The folder holds something else, or a demo that still runs.
    """
    marker = root / MARKER
    if root.exists() and any(root.iterdir()):
        if not marker.is_file():
            raise HomeError(
                "the folder is not empty and is not a demo's", got=str(root), expected="an empty folder, or none"
            )
        _refuse_running(marker)
        for name in ("server", "sites", "drawings", "adapter", "report.html", "pictures.png"):
            _remove(root / name)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    marker.write_text(json.dumps({"pid": os.getpid()}), encoding="utf-8")
    return Premises(root)


def tear_down(premises: Premises) -> None:
    """Throw the federation's keys and homes away; report and adapter stay."""
    for name in ("server", "sites", "drawings"):
        _remove(premises.root / name)


def start_server(premises: Premises, supervisor: Supervisor, sites: Sequence[StudioFolder], run: RunSettings) -> None:
    """Found the federation, settle every site, and start the server, which then knows its ports.

    The sites allow what the run asks: all of them are one person's.

    Raises:
        ProcessError: The server did not start.
    """
    server = premises.server
    found(
        server,
        ServerSettings(
            federation=FEDERATION,
            host="127.0.0.1",
            fleet_port=0,
            registry_port=0,
            door_port=0,
            control_port=0,
            metrics_port=0,
        ),
        ["127.0.0.1", "localhost"],
    )
    for studio in sites:
        home = premises.site(studio.name)
        add_site(server, settle(home, _site_settings(studio, run, len(sites))))
    supervisor.start(
        _bottega("server", "server", "start", "--home", str(server.root), log=premises.root / "server" / "server.log")
    )
    supervisor.wait("the server", server.ports.exists, START_S)


def start_sites(
    premises: Premises,
    supervisor: Supervisor,
    sites: Sequence[StudioFolder],
    attacks: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Tell every site where the server is, and start it; those that have an attack, as hostile ones."""
    server, roster = open_house(premises.server).identity.peer, premises.server.roster.read_bytes()
    authority = premises.server.authority_certificate.read_bytes()
    port = read_ports(premises.server)["fleet"]
    for studio in sites:
        home = premises.site(studio.name)
        join(home, server, roster, authority)
        text = home.settings.read_text(encoding="utf-8")
        home.settings.write_text(text.replace(_UNKNOWN, f"127.0.0.1:{port}"), encoding="utf-8")
        place, log = ("--home", str(home.root)), home.root / "site.log"
        if attack := attacks.get(studio.name):
            supervisor.start(_ours(studio.name, "deploy.vandal", attack, *place, log=log))
        else:
            supervisor.start(_bottega(studio.name, "site", "start", *place, log=log))


def wait_for_sites(premises: Premises, supervisor: Supervisor, sites: Sequence[StudioFolder]) -> None:
    """Wait until every site's agent answers.

    Raises:
        ProcessError: One died, or did not answer in time.
    """
    for studio in sites:
        socket = premises.site(studio.name).socket
        supervisor.wait(f"site {studio.name}", partial(is_alive, socket), START_S)


_UNKNOWN = "127.0.0.1:0"


def _site_settings(studio: StudioFolder, run: RunSettings, sites: int) -> SiteSettings:
    threads = max(
        1, (os.cpu_count() or 1) // sites
    )  # two threads beside another busy process cost far more than they bring
    budget = BudgetSettings()
    if run.privacy:  # and a little over, for telling how many drawings there are
        budget = BudgetSettings(epsilon=max(budget.epsilon, run.privacy.epsilon + 1), delta=run.privacy.delta)
    return SiteSettings(
        federation=FEDERATION, name=studio.name, server=_UNKNOWN, data=str(studio.folder), base=run.base,
        threads=threads, privacy=budget, rules=HouseRules(without_privacy=not run.privacy),
    )  # fmt: skip


def _bottega(name: str, *words: str, log: Path) -> ChildProcess:
    return _ours(name, "deploy.cli", *words, log=log)


def _ours(name: str, module: str, *words: str, log: Path) -> ChildProcess:
    # -P: a folder called `common` where the demo happens to be run must not be imported in place of ours.
    return ChildProcess(name, [sys.executable, "-P", "-m", module, *words], log)


def _refuse_running(marker: Path) -> None:
    try:
        pid = int(json.loads(marker.read_text(encoding="utf-8"))["pid"])
        os.kill(pid, 0)
    except (OSError, ValueError, KeyError, TypeError):
        return  # its process is gone: a leftover
    if pid != os.getpid():
        raise HomeError(
            "a demo is still running in this folder",
            got=f"process {pid}",
            expected="none",
            advice="Stop it, or name another --home.",
        )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
