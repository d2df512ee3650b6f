"""A site at work: its agent in this process, Flower's SuperNode beside it as a courier's office."""

from __future__ import annotations

import logging
import signal
import threading
from functools import partial
from pathlib import Path

import torch

from client.agent import AgentService, SiteAgent, serve
from client.cache import kept
from client.dataset import TrainingSet, encode
from client.drawings import Drawings, load_drawings
from client.settings import SiteSettings
from client.settling import known_roster
from client.supernode import supernode
from client.work import Bench
from common.errors import DrawingsError, HomeError
from common.models import Base, load_base
from common.paths import SiteHome
from common.processes import Supervisor
from common.proto import bottega_pb2 as pb
from common.settings import read_toml
from security.identity import Identity
from security.names import Role, SpiffeId

log = logging.getLogger("bottega.site")


def run_site(home: SiteHome) -> None:
    """Serve a site until SIGTERM or SIGINT.

    Raises:
        HomeError: There is no site in this folder, or its roster is of another federation.
        IdentityError: A key is missing or damaged, or the site has not joined.
        DrawingsError: There is nothing to train on.
        BaseModelError: The base cannot be loaded.
        ProcessError: The SuperNode died.
    """
    if not home.settings.is_file():
        raise HomeError("there is no site in this folder", got=str(home.root), expected=f"{home.settings.name} in it")
    settings = read_toml(SiteSettings, home.settings)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    identity = Identity.load(home.keys, SpiffeId(settings.federation, Role.SITE, settings.name))
    base = load_base(settings.base).to(_device(settings))
    drawings = load_drawings(Path(settings.data), settings.drawings.model_copy(update={"size": base.pixels}))
    if not drawings.train:
        raise DrawingsError("there is no drawing to train on", got="0 usable drawings", expected="at least 2")
    bench = Bench(settings.name, base, *_encoded(home, base, drawings, settings), settings.rules)
    _check_roster(home, settings)
    agent = SiteAgent(identity, partial(known_roster, home), bench, home.nonces)
    server = serve(AgentService(agent, lambda: _status(settings, base, drawings, bench)), home.socket)
    log.info(
        "site %s: %d drawings to train on, %d held out", settings.name, len(drawings.train), len(drawings.held_out)
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        with Supervisor([supernode(home, settings.server)]) as supervisor:
            supervisor.watch(stop)
    finally:
        server.stop(grace=1).wait()
        home.socket.unlink(missing_ok=True)


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


def _status(settings: SiteSettings, base: Base, drawings: Drawings, bench: Bench) -> pb.Status:
    return pb.Status(
        site=settings.name,
        base_digest=base.digest,
        drawings=len(drawings.train),
        held_out=len(drawings.held_out),
        doing=bench.doing,
    )


def _device(settings: SiteSettings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)
