"""A site at work: its agent in this process and Flower's SuperNode beside it, or one of the two alone."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from client.agent_socket import serve
from client.apart import alone, hand_over, handed_over
from client.approvals import Approvals
from client.confinement import check_confinement, confinement_status
from client.keeper import Keeper
from client.office import Office
from client.rotation import finish_rotation
from client.settling import known_roster
from client.supernode import supernode
from client.supernode_settings import SiteBasics, SuperNodeSettings, read_basics
from common.errors import AgentError, HomeError
from common.logs import take_over
from common.metrics_port import MetricsPort
from common.notify import ServiceManager
from common.paths import SiteHome, SuperNodeHome
from common.processes import ChildProcess
from common.proto import bottega_pb2 as pb
from common.settings import read_toml
from common.tracing import end_traces, name_service
from security.key_folder import open_key_folder
from security.member import MemberKeys
from security.names import Role, SpiffeId

if TYPE_CHECKING:
    from client.metrics import SiteMetrics
    from client.settings import SiteSettings
    from client.workplace import Workplace

log = logging.getLogger("bottega.site")

LOOK_S = 0.2

_APART = "by a user of its own: the SuperNode runs apart, and `bottega site status` of its own home says more"


def run_site(home: SiteHome, on_ready: Callable[[pb.Status], None], *, apart: bool = False) -> None:
    """Serve a site until SIGTERM or SIGINT.

    Args:
        home: The site's.
        on_ready: Called once when the agent answers; whether the server does is not waited for.
        apart: Leave the SuperNode to :func:`run_supernode`, and hand over what it has to know.

    Raises:
        HomeError: There is no site in this folder, or its roster is of another federation.
        IdentityError: A key is missing or damaged, or the site has not joined.
        DrawingsError: There is nothing to train on.
        BaseModelError: The base cannot be loaded.
        NotAMemberError: The server says that the site no longer belongs to the federation.
        AgentError: A part died, another one serves this home, or the SuperNode cannot be confined as the site requires.
        ProcessError: The port for metrics that the site wants is taken.
    """
    take_over()
    manager = ServiceManager()
    if not home.settings.is_file():
        raise HomeError("there is no site in this folder", got=str(home.root), expected=f"{home.settings.name} in it")
    basics = read_basics(home.settings)
    stop = threading.Event()
    with ExitStack() as parts:
        parts.enter_context(alone(home.lock, "agent"))
        keys = _keys(home, basics)
        office = None
        if apart:
            hand_over(home, basics)
        else:
            check_confinement(home, basics)
            office = parts.enter_context(Office(partial(supernode, home, basics, waits=True)))
        # These imports and what comes after take long. The SuperNode comes up meanwhile, and waits for the socket.
        from client.agent import AgentService, SiteAgent  # noqa: PLC0415
        from client.ledger_book import book_of  # noqa: PLC0415
        from client.metrics import SiteMetrics  # noqa: PLC0415
        from client.settings import SiteSettings  # noqa: PLC0415
        from client.workplace import set_up  # noqa: PLC0415

        take_over()
        settings = read_toml(SiteSettings, home.settings)
        metrics = SiteMetrics(home, settings)
        _open_metrics(metrics, settings, parts)
        name_service("bottega-site", site=settings.name)
        parts.callback(end_traces)
        place = set_up(home, settings)
        _end_at_signals(stop)
        book = book_of(home, keys, lambda: known_roster(home).server.peer.verify, settings.registry or "")
        keeper = Keeper(home, keys, settings.registry, book, stop.set) if settings.registry else None
        agent = SiteAgent(
            keys.identity,
            partial(known_roster, home),
            place.bench,
            home.nonces,
            book,
            refresh=keeper.look if keeper else None,
            approvals=Approvals(home.approvals) if settings.rules.ask else None,
        )
        status = partial(_status, home, settings, place, keeper, apart=apart)
        server = serve(metrics.counted(AgentService(agent, status)), home.socket)
        parts.callback(home.socket.unlink, missing_ok=True)
        parts.callback(lambda: server.stop(grace=1).wait())
        train, held_out = len(place.drawings.train), len(place.drawings.held_out)
        log.info("site %s: %d drawings to train on, %d held out", settings.name, train, held_out)
        if keeper is not None:
            parts.enter_context(keeper)
        metrics.tell(status)
        manager.ready(f"{train} drawings to train on")
        on_ready(status())
        while not stop.wait(LOOK_S):
            _look(keeper, office)
            manager.alive()
        manager.stopping()
    if keeper is not None and keeper.ended is not None:
        raise keeper.ended


def run_supernode(home: SuperNodeHome) -> None:
    """Serve as a site's SuperNode, apart from its agent, until SIGTERM or SIGINT. The agent may come and go meanwhile.

    Raises:
        AgentError: Another one serves this home, what the agent hands over may not be read, or the SuperNode cannot be
            confined as the site requires.
        SettingsError: What the agent hands over cannot be read.
    """
    take_over()
    manager, stop = ServiceManager(), threading.Event()
    _end_at_signals(stop)
    with ExitStack() as parts:
        parts.enter_context(alone(home.lock, "SuperNode"))
        manager.ready("the SuperNode runs apart")
        if handed_over(home) is None:
            log.info("waiting for the agent to hand over its key and address, in %s", home.share)
        while handed_over(home) is None and not stop.wait(LOOK_S):
            manager.alive()
        if not stop.is_set():
            check_confinement(home, read_toml(SuperNodeSettings, home.settings))
            office = parts.enter_context(Office(partial(_told_supernode, home), partial(handed_over, home)))
        while not stop.wait(LOOK_S):
            office.look()
            manager.alive()
        manager.stopping()


def _open_metrics(metrics: SiteMetrics, settings: SiteSettings, parts: ExitStack) -> None:
    if settings.metrics_port is not None:
        port = parts.enter_context(
            MetricsPort(metrics.registry, settings.metrics_host, settings.metrics_port, "site.toml")
        ).port
        host = f"[{settings.metrics_host}]" if ":" in settings.metrics_host else settings.metrics_host
        log.info("metrics: http://%s:%d/metrics", host, port)


def _told_supernode(home: SuperNodeHome) -> ChildProcess:
    return supernode(home, read_toml(SuperNodeSettings, home.settings), waits=True)


def _keys(home: SiteHome, settings: SiteBasics) -> MemberKeys:
    site = SpiffeId(settings.federation, Role.SITE, settings.name)
    finish_rotation(home, site)
    keys = MemberKeys.load(open_key_folder(home), site)
    roster = known_roster(home)
    if roster.federation != settings.federation:
        raise HomeError("the roster is of another federation", got=roster.federation, expected=settings.federation)
    return keys


def _end_at_signals(stop: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def _look(keeper: Keeper | None, office: Office | None) -> None:
    if keeper is not None and not keeper.is_alive and keeper.ended is None:
        raise AgentError("the keeper ended", advice="The lines above say why; start the site again.")
    if office is not None:
        office.look()


def _status(
    home: SiteHome, settings: SiteSettings, place: Workplace, keeper: Keeper | None, *, apart: bool
) -> pb.Status:
    return pb.Status(
        site=settings.name,
        base_digest=place.base.digest,
        drawings=len(place.drawings.train),
        held_out=len(place.drawings.held_out),
        doing=place.bench.doing,
        standing=keeper.standing if keeper else None,
        confinement=_APART if apart else confinement_status(home),
    )
