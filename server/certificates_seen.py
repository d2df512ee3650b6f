"""The certificates that members show when they call: how long each still holds, as far as the server has seen."""

from __future__ import annotations

import datetime as dt
import threading

import grpc

from common.errors import IdentityError
from security.authority import certified_id
from security.names import SpiffeId
from server.gate import shown_certificate


class SeenCertificates:
    """Remembers, since the server's start, until when the certificate holds that each member called with last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[SpiffeId, dt.datetime] = {}

    def see(self, context: grpc.ServicerContext) -> None:
        """Look at the certificate of a call that was let in; at the door callers show none."""
        try:
            certificate = shown_certificate(context)
            who = certified_id(certificate)
        except IdentityError:
            return
        with self._lock:
            self._until[who] = certificate.not_valid_after_utc

    def until(self) -> dict[SpiffeId, dt.datetime]:
        """Return by member when the certificate ends that they called with last."""
        with self._lock:
            return dict(self._until)
