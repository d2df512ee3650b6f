"""The SuperLink's two listeners: one for loopback, and one for outside where no caller can use up the server.

uvicorn waits without end for a request to begin and for one to be complete, and knows one limit to connections, at
which it turns everybody away. Outside, each step has its time here, and when too many connections are open that have
not shown a registered key, the oldest of them is closed, so that there is always room for the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger("bottega.fleet")

HANDSHAKE_S = 10.0
"""From the connection to the end of the TLS handshake."""

HEADERS_S = 10.0
"""From there, and from each answer, to the end of a request's headers."""

REQUEST_S = 300.0
"""From there to the end of the answer: a piece of 5 MiB may come at 20 kB/s."""

MOST_NEWCOMERS = 256
"""Connections that have not shown a registered key yet; an honest one shows it at once."""

_PAUSE_S = 1.0


class Door(uvicorn.Server):
    """A uvicorn server that leaves signals to us: two of them share the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signal."""
        yield


class Newcomers:
    """Connections whose caller has not shown a registered key, the oldest first.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int = MOST_NEWCOMERS) -> None:
        self._most = most
        self._open: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._told = -60.0

    def enter(self, address: tuple[str, int], connection: asyncio.Task[None]) -> None:
        """Take in a connection, and close the oldest when it is one too many."""
        self._open[address] = connection
        if len(self._open) > self._most:
            self._open.pop(next(iter(self._open))).cancel()
            if time.monotonic() > self._told + 60:
                self._told = time.monotonic()
                log.warning("over %d connections show no registered key: the oldest are closed", self._most)

    def leave(self, address: tuple[str, int]) -> None:
        """Forget a connection: it is known now, or closed."""
        self._open.pop(address, None)


class FleetDoor(Door):
    """The listener for outside.

    Args:
        config: uvicorn's, with TLS.
        newcomers: Where connections are until their caller is known.
        talk: Makes what speaks HTTP on one connection; called as :class:`Talk` is.
    """

    def __init__(self, config: uvicorn.Config, newcomers: Newcomers, talk: Callable[..., Talk] | None = None) -> None:
        super().__init__(config)
        self._newcomers = newcomers
        self._talk = talk or Talk
        self._accepting: list[asyncio.Task[None]] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await self.lifespan.startup()
        self.servers = []
        self._accepting = [asyncio.create_task(self._accept(listener)) for listener in sockets or []]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, and let requests in progress end."""
        for task in self._accepting:
            task.cancel()
        await super().shutdown(sockets)

    async def _accept(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, address = await loop.sock_accept(listener)
                except OSError as cause:  # no file is free, or the caller has hung up already
                    log.warning("a connection could not be accepted: %s", cause.strerror)
                    await asyncio.sleep(_PAUSE_S)
                    continue
                task = asyncio.create_task(self._stay(connection, address[:2]))
                self._connections.add(task)
                task.add_done_callback(self._connections.discard)
                self._newcomers.enter(address[:2], task)
        finally:
            self.should_exit = True  # a door that accepts nobody is closed, and the server has to say so

    async def _stay(self, connection: socket.socket, address: tuple[str, int]) -> None:
        """Hold one connection until it is closed. Cancelled, it closes it."""
        talk = self._talk(self.config, self.server_state, self.lifespan.state)
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: talk, connection, ssl=self.config.ssl, ssl_handshake_timeout=HANDSHAKE_S
            )
            try:
                await talk.over.wait()
            finally:
                transport.abort()
        except OSError:
            pass  # no TLS, an older one, or too slow: there is nobody to tell
        finally:
            self._newcomers.leave(address)


class Talk(H11Protocol):
    """HTTP on one connection, where each step has its time. h11 bounds what it keeps of headers; httptools does not."""

    over: asyncio.Event
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        self.over = asyncio.Event()
        super().connection_made(transport)
        self._allow(HEADERS_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()
        self.over.set()

    def data_received(self, data: bytes) -> None:
        """Take what came; when it ends the headers of a request, the time of the request begins."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._allow(REQUEST_S)

    def on_response_complete(self) -> None:
        """Wait for the next request, or go on with one that came already."""
        before = self.cycle
        super().on_response_complete()
        self._allow(HEADERS_S if self.cycle is before else REQUEST_S)

    def _allow(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.transport.abort)
