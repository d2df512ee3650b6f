"""A site at work: its agent in this process, Flower's SuperNode beside it as a courier's office."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from client.agent import AgentService, SiteAgent, serve
from client.approvals import Approvals
from client.cache import kept
from client.confinement import check_confinement, confinement_status
from client.dataset import TrainingSet, encode
from client.drawings import Drawings, load_drawings
from client.keeper import LONGEST_PAUSE_S, Keeper
from client.rotation import finish_rotation
from client.settings import SiteSettings
from client.settling import known_roster
from client.supernode import supernode
from client.work import Bench
from common.errors import AgentError, DrawingsError, HomeError, ProcessError
from common.logs import take_over
from common.models import Base, load_base
from common.notify import ServiceManager
from common.paths import SiteHome
from common.processes import ChildProcess, Supervisor
from common.proto import bottega_pb2 as pb
from common.settings import read_toml
from security.key_folder import open_key_folder
from security.member import MemberKeys
from security.names import Role, SpiffeId

log = logging.getLogger("bottega.site")

SHORTEST_PAUSE_S = 1.0

LOOK_S = 0.2


def run_site(home: SiteHome, on_ready: Callable[[pb.Status], None]) -> None:
    """Serve a site until SIGTERM or SIGINT.

    Args:
        home: The site's.
        on_ready: Called once when the agent answers; whether the server does is not waited for.

    Raises:
        HomeError: There is no site in this folder, or its roster is of another federation.
        IdentityError: A key is missing or damaged, or the site has not joined.
        DrawingsError: There is nothing to train on.
        BaseModelError: The base cannot be loaded.
        NotAMemberError: The server says that the site no longer belongs to the federation.
        AgentError: A part died, or the SuperNode cannot be confined as the site requires.
    """
    take_over()
    manager = ServiceManager()
    if not home.settings.is_file():
        raise HomeError("there is no site in this folder", got=str(home.root), expected=f"{home.settings.name} in it")
    settings = read_toml(SiteSettings, home.settings)
    check_confinement(home, settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    site = SpiffeId(settings.federation, Role.SITE, settings.name)
    finish_rotation(home, site)
    keys = MemberKeys.load(open_key_folder(home), site)
    base = load_base(settings.base).to(_device(settings))
    drawings = load_drawings(Path(settings.data), settings.drawings.model_copy(update={"size": base.pixels}))
    if not drawings.train:
        raise DrawingsError("there is no drawing to train on", got="0 usable drawings", expected="at least 2")
    bench = Bench(settings.name, base, *_encoded(home, base, drawings, settings), settings.rules)
    _check_roster(home, settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    keeper = Keeper(home, keys, settings.registry, stop.set) if settings.registry else None
    agent = SiteAgent(
        keys.identity,
        partial(known_roster, home),
        bench,
        home.nonces,
        refresh=keeper.look if keeper else None,
        approvals=Approvals(home.approvals) if settings.rules.ask else None,
    )
    status = partial(_status, home, settings, base, drawings, bench, keeper)
    with ExitStack() as parts:
        parts.callback(home.socket.unlink, missing_ok=True)
        server = serve(AgentService(agent, status), home.socket)
        parts.callback(lambda: server.stop(grace=1).wait())
        log.info(
            "site %s: %d drawings to train on, %d held out", settings.name, len(drawings.train), len(drawings.held_out)
        )
        if keeper is not None:
            parts.enter_context(keeper)
        manager.ready(f"{len(drawings.train)} drawings to train on")
        on_ready(status())
        _stay_connected(partial(supernode, home, settings), stop, partial(_look, keeper, manager))
        manager.stopping()
    if keeper is not None and keeper.ended is not None:
        raise keeper.ended


def _look(keeper: Keeper | None, manager: ServiceManager) -> None:
    if keeper is not None and not keeper.is_alive and keeper.ended is None:
        raise AgentError("the keeper ended", advice="The lines above say why; start the site again.")
    manager.alive()


def _stay_connected(child: Callable[[], ChildProcess], stop: threading.Event, look: Callable[[], None]) -> None:
    """Keep a SuperNode running, whatever ends it; each time that it ends soon after its start, wait longer.

    Args:
        child: Returns a SuperNode, not started yet.
        stop: Ends it.
        look: Called a few times a second; what it raises ends it too.
    """
    pause = SHORTEST_PAUSE_S
    while not stop.is_set():
        began = time.monotonic()
        try:
            with Supervisor([child()]) as supervisor:
                while not stop.wait(LOOK_S):
                    look()
                    supervisor.check()
        except ProcessError as why:
            if time.monotonic() - began > LONGEST_PAUSE_S:
                pause = SHORTEST_PAUSE_S
            log.warning("the SuperNode is started again in %.0f s: %s", pause, why)
            until = time.monotonic() + pause
            while time.monotonic() < until and not stop.wait(LOOK_S):
                look()
            pause = min(2 * pause, LONGEST_PAUSE_S)


def _encoded(home: SiteHome, base: Base, drawings: Drawings, settings: SiteSettings) -> tuple[TrainingSet, TrainingSet]:
    splits = (
        ("train", drawings.train, partial(encode, base, drawings.train, settings.augment, settings.views)),
        ("held-out", drawings.held_out, partial(encode, base, drawings.held_out)),
    )
    if not settings.keep_latents:
        return splits[0][2](), splits[1][2]()
    training, held_out = (kept(home, name, base, split, settings, make) for name, split, make in splits)
    return training, held_out


def _check_roster(home: SiteHome, settings: SiteSettings) -> None:
    roster = known_roster(home)
    if roster.federation != settings.federation:
        raise HomeError("the roster is of another federation", got=roster.federation, expected=settings.federation)


def _status(
    home: SiteHome, settings: SiteSettings, base: Base, drawings: Drawings, bench: Bench, keeper: Keeper | None
) -> pb.Status:
    return pb.Status(
        site=settings.name,
        base_digest=base.digest,
        drawings=len(drawings.train),
        held_out=len(drawings.held_out),
        doing=bench.doing,
        standing=keeper.standing if keeper else None,
        confinement=confinement_status(home),
    )


def _device(settings: SiteSettings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)
