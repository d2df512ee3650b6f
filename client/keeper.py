"""The keeper: a site's standing with its federation, looked after for as long as the site runs.

Every so often it fetches the newest roster and, when two thirds of the certificate's life are over, renews it. What
fails is tried again, each time after a longer pause: a server that is away for a week is found again when it is back.
Only one thing ends a site: the server's word that it no longer belongs to the federation.
"""

from __future__ import annotations

import datetime as dt
import logging
import random
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from client.ledger_book import LedgerBook
from common.errors import BottegaError
from common.paths import SiteHome
from common.proto import bottega_pb2 as pb
from security.authority import load_certificate, renewal_is_due
from security.calling import NotAMemberError, registry
from security.member import MemberKeys
from security.membership import refresh_roster, renew

log = logging.getLogger("bottega.keeper")

LOOK_S = 60.0
"""Pause between looks that went well."""

LONGEST_PAUSE_S = 300.0


class Keeper:
    """Looks after one site's standing in a thread of its own. A context manager.

    Args:
        home: The site's.
        keys: Its own.
        address: Host and port of the registry.
        ledger: What the site keeps of the ledger.
        on_end: Called once when the server says that the site is no longer a member.
    """

    def __init__(
        self, home: SiteHome, keys: MemberKeys, address: str, ledger: LedgerBook, on_end: Callable[[], None]
    ) -> None:
        self._home, self._keys, self._address, self._ledger, self._on_end = home, keys, address, ledger, on_end
        self._stop, self._looking = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._standing = pb.Standing()
        self.ended: NotAMemberError | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the keeper is at work."""
        return self._thread.is_alive()

    @property
    def standing(self) -> pb.Standing:
        """How the site stood at the last look."""
        return self._standing

    def look(self) -> bool:
        """Fetch the roster, renew the certificate if it is time, witness the ledger. Return whether that went well."""
        with self._looking:
            try:
                with registry(self._home, self._keys, self._address) as stub:
                    roster = refresh_roster(self._home, stub)
                    if renewal_is_due(load_certificate(self._home.certificate), dt.datetime.now(dt.UTC)):
                        until = renew(self._home, self._keys, stub).not_valid_after_utc
                        log.info("the certificate was renewed, until %s", until)
                    self._standing = self._told(roster_version=roster.version, last_contact_ms=_now_ms())
                    self._ledger.look(stub)
                self._standing = self._told(trouble="")
            except NotAMemberError as why:
                self.ended = why
                self._standing = self._told(trouble=str(why))
            except BottegaError as why:
                if str(why) != self._standing.trouble:  # once, not at every look
                    log.warning("the last look went wrong: %s", why)
                self._standing = self._told(trouble=str(why))
        return not self._standing.trouble

    def _keep(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            # Apart by chance, so that sites that lost their server together do not all come back at once.
            pause = _apart(LOOK_S if self.look() else min(LONGEST_PAUSE_S, max(1.0, 2 * pause)))
            if self.ended is not None:
                log.error("%s", self.ended)
                self._on_end()
                return

    def _told(self, **news: int | str) -> pb.Standing:
        standing = pb.Standing()
        standing.CopyFrom(self._standing)
        for name, value in news.items():
            setattr(standing, name, value)
        standing.certificate_until_ms = certificate_until_ms(self._home)
        return standing


def certificate_until_ms(home: SiteHome) -> int:
    """Return when the site's certificate ends, Unix time in milliseconds; 0 when there is none."""
    try:
        return int(load_certificate(home.certificate).not_valid_after_utc.timestamp() * 1000)
    except BottegaError:
        return 0


def _apart(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 (keeps sites apart; keeps no secret)


def _now_ms() -> int:
    return int(time.time() * 1000)
