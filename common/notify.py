"""Telling systemd how a service stands: the protocol of sd_notify(3), a datagram to a socket that it names.

Without such a socket nothing is told and nothing fails: the same program runs under systemd, in a container, or in a
terminal.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping

log = logging.getLogger("bottega.notify")


class ServiceManager:
    """Who started this process and waits for word of it.

    Args:
        environment: Where it says how to reach it. Its variables are taken out, so that no child speaks for us.
        clock: Seconds that never go backwards.
    """

    def __init__(
        self, environment: MutableMapping[str, str] = os.environ, clock: Callable[[], float] = time.monotonic
    ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        # A name in the abstract namespace is written with an @ in the place of its zero byte.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        watched = address and usec.isdigit() and pid in {"", str(os.getpid())}
        self._every_s = int(usec) / 1e6 / 3 if watched else None
        self._clock, self._told_at = clock, float("-inf")

    def ready(self, status: str) -> None:
        """Tell that the service is up, and in a few words how."""
        self._send("READY=1", f"STATUS={status}")

    def stopping(self) -> None:
        """Tell that the service is on its way down."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Tell that all is well. Call it often: it is passed on only as often as the watchdog needs."""
        now = self._clock()
        if self._every_s is not None and now - self._told_at >= self._every_s:
            self._told_at = now
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.settimeout(1)
                out.sendto(text.encode(), self._address)
        except OSError as cause:  # a service manager that cannot be told is no reason to stop serving
            log.warning("systemd cannot be told: %s", cause.strerror or type(cause).__name__)
