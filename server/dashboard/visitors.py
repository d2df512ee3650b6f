"""Who may look at the pages: on loopback whoever opened a link that is good once; else members, by certificate.

Nothing that a visitor may do changes anything, so who is let in may read every page, and nobody else reads any.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from common.errors import BottegaError, IdentityError
from security.authority import certified_id, generation_of
from security.names import Role

if TYPE_CHECKING:
    from cryptography import x509
    from starlette.requests import HTTPConnection

    from security.names import SpiffeId
    from security.roster import Roster

LINK_S = 600.0
"""How long a link may wait to be opened."""

READERS = frozenset({Role.AUDITOR, Role.OPERATOR})
"""The roles that may read the pages from elsewhere."""

CERTIFICATE = "certificate"
"""Under which name the state of a connection has the certificate that its handshake verified."""

_SECRET_BYTES = 32


class NotAdmittedError(IdentityError):
    """Somebody may not read the pages."""

    advice = "`bottega audit serve` prints a link that is good once; from elsewhere it takes a member's certificate."


@dataclass(frozen=True)
class Visitor:
    """Who reads.

    Attributes:
        name: SPIFFE id; None where it is whoever holds the link.
    """

    name: str | None = None


class Door(Protocol):
    """Lets visitors in."""

    def admit(self, request: HTTPConnection) -> Visitor:
        """Return who asks.

        Raises:
            NotAdmittedError: They may not.
        """
        ...


class LinkDoor:
    """Lets in whoever opened a link that this process made. Safe to use from several threads.

    Neither links nor sessions are kept anywhere but in memory, and there only their digests.

    Args:
        port: Of the pages; cookies do not tell ports apart, so the cookie's name does.
        used: Is called when a link was used.
        clock: Seconds that only grow.
    """

    def __init__(
        self, port: int, used: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.cookie = f"bottega-{port}"
        self._used, self._clock = used, clock
        self._links: dict[bytes, float] = {}
        self._sessions: set[bytes] = set()
        self._lock = threading.Lock()

    def link(self) -> str:
        """Return the token of a fresh link: good once, for ten minutes."""
        token = secrets.token_urlsafe(_SECRET_BYTES)
        with self._lock:
            self._links = {old: until for old, until in self._links.items() if until > self._clock()}
            self._links[_digest(token)] = self._clock() + LINK_S
        return token

    def open(self, token: str) -> str:
        """Take a link's token, and return what the visitor's cookie is to hold from now on.

        Raises:
            NotAdmittedError: It was used before, ran out, or never was one.
        """
        with self._lock:
            if self._links.pop(_digest(token), 0.0) <= self._clock():
                raise NotAdmittedError("this link is not good (any more)", expected="a fresh one: each is good once")
            session = secrets.token_urlsafe(_SECRET_BYTES)
            self._sessions.add(_digest(session))
        self._used()
        return session

    def admit(self, request: HTTPConnection) -> Visitor:
        """Return who asks."""
        with self._lock:
            if _digest(request.cookies.get(self.cookie, "")) not in self._sessions:
                raise NotAdmittedError("these pages are for whoever opened the link to them")
        return Visitor()


class MemberDoor:
    """Lets in active operators and auditors, by the certificate that the TLS handshake verified.

    It looks at the roster anew at each request, so that a revocation holds on open connections too.

    Args:
        roster: Returns who belongs at this moment.
    """

    def __init__(self, roster: Callable[[], Roster]) -> None:
        self._roster = roster

    def admit(self, request: HTTPConnection) -> Visitor:
        """Return who asks."""
        certificate: x509.Certificate | None = getattr(request.state, CERTIFICATE, None)
        if certificate is None:
            raise NotAdmittedError("no certificate was shown", expected="one of the federation's")
        try:
            who = certified_id(certificate)
            why = self._why_not(who, certificate)
        except NotAdmittedError:
            raise
        except BottegaError as cause:
            raise NotAdmittedError("it cannot be told who asks", got=cause.what) from None
        if why:
            raise NotAdmittedError(why)
        return Visitor(str(who))

    def _why_not(self, who: SpiffeId, certificate: x509.Certificate) -> str:
        # A connection that stays open looks at no certificate anew.
        if dt.datetime.now(dt.UTC) > certificate.not_valid_after_utc:
            return "the certificate has run out"
        if who.role not in READERS:
            return f"a {who.role} may not read these pages"
        roster = self._roster()
        if who not in roster:
            return f"{who.name} is not an active member"
        if len(roster.generations(who)) - 1 != generation_of(certificate):
            return f"{who.name} has gone over to new keys; this certificate is for the old ones"
        return ""


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
