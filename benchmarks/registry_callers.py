"""The members of :mod:`benchmarks.registry_load`, at work in processes of their own: each with its own connection."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import grpc

from benchmarks.registry_members import Papers
from common.proto import registry_pb2 as pb
from common.proto import registry_pb2_grpc as rpc
from security.calling import CALL_S
from security.grpc_tls import channel_credentials
from security.roster import MAX_ROSTER_BYTES

if TYPE_CHECKING:
    Stub = rpc.RegistryAsyncStub
else:  # a name in the type stubs alone
    Stub = rpc.RegistryStub

_OPTIONS = (
    ("grpc.max_receive_message_length", 2 * MAX_ROSTER_BYTES),
    ("grpc.use_local_subchannel_pool", 1),  # or all members of a process might share one connection
)


Caller = tuple[Papers, "Stub | None"]
"""A member, with the connection that stays open; None when each call is to have its own."""


@dataclass
class Seen:
    """What one process of members saw.

    Attributes:
        calls: When each was to be made (monotonic seconds, the same clock in every process), and how long from then
            until the answer came, in seconds.
        fetched: When each roster that was fetched had come.
        refused: How often each thing other than an answer came.
    """

    calls: list[tuple[float, float]] = field(default_factory=list)
    fetched: list[float] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)

    def refuse(self, why: grpc.RpcError) -> None:
        """Count a call that was not answered."""
        code = why.code().name
        self.refused[code] = self.refused.get(code, 0) + 1


@dataclass(frozen=True)
class Server:
    """Where the registry is.

    Attributes:
        port: On 127.0.0.1.
        authority: The certificate that is believed, PEM.
        version: Of the roster.
    """

    port: int
    authority: bytes
    version: int


def call_without_pause(
    kind: str, server: Server, callers: Sequence[Sequence[Papers]], seconds: float, parent: Connection
) -> None:
    """Have each caller make one call after the other, and send the parent a :class:`Seen`.

    A caller goes round its members, each with a connection of its own: the registry lets no member call often.

    Args:
        kind: ``current`` asks for a newer roster where there is none, ``fetch`` for the roster, ``renew`` for a
            certificate, and ``connect`` does as ``current`` on a new connection each time.
        server: Where.
        callers: The members of each.
        seconds: How long.
        parent: Told when all are connected; says when to begin.
    """
    parent.send(asyncio.run(_all_call(kind, server, callers, seconds, parent)))


def poll(server: Server, members: Sequence[Papers], every_s: float, parent: Connection) -> None:
    """Have each member keep a connection and ask every so often, until the parent says something.

    They ask a fifth sooner or later by chance, as agents do. The parent is told when they begin, and sent a
    :class:`Seen` at the end.
    """
    parent.send(None)
    parent.send(asyncio.run(_all_poll(server, members, every_s, parent)))


async def _all_call(
    kind: str, server: Server, callers: Sequence[Sequence[Papers]], seconds: float, parent: Connection
) -> Seen:
    seen = Seen()
    async with AsyncExitStack() as open_now:
        rounds: list[list[Caller]] = []
        for members in callers:
            rounds.append([])
            for member in members:
                stub = None if kind == "connect" else await open_now.enter_async_context(_registry(server, member))
                if stub is not None:
                    await _asked("current", stub, member, server.version)  # the handshake is not what is measured
                rounds[-1].append((member, stub))
        await asyncio.to_thread(_in_step, parent)
        until = time.monotonic() + seconds
        await asyncio.gather(*(_call_again(kind, server, round_, until, seen) for round_ in rounds))
    return seen


def _in_step(parent: Connection) -> None:
    parent.send(None)
    parent.recv()


async def _call_again(kind: str, server: Server, members: Sequence[Caller], until: float, seen: Seen) -> None:
    for member, stub in cycle(members):
        if (began := time.monotonic()) >= until:
            return
        if stub is not None:
            await _counted(kind, stub, member, server.version, began, seen)
            continue
        async with _registry(server, member) as fresh:
            await _counted(kind, fresh, member, server.version, began, seen)


async def _all_poll(server: Server, members: Sequence[Papers], every_s: float, parent: Connection) -> Seen:
    seen = Seen()
    polling = [asyncio.create_task(_poll(server, member, every_s, seen)) for member in members]
    await asyncio.to_thread(parent.recv)
    for task in polling:
        task.cancel()
    ended = await asyncio.gather(*polling, return_exceptions=True)
    for broken in (one for one in ended if isinstance(one, Exception)):  # being cancelled is no Exception
        raise broken
    return seen


async def _poll(server: Server, member: Papers, every_s: float, seen: Seen) -> None:
    version, due = server.version, time.monotonic() + random.uniform(0, every_s)  # noqa: S311 (keeps them apart)
    async with _registry(server, member) as stub:
        while True:
            await asyncio.sleep(due - time.monotonic())
            if await _counted("current", stub, member, version, due, seen):
                version += 1  # the one that was published meanwhile
                seen.fetched.append(time.monotonic())
            due += every_s * random.uniform(0.8, 1.2)  # noqa: S311 (likewise)


async def _counted(kind: str, stub: Stub, member: Papers, version: int, due: float, seen: Seen) -> bool:
    """Make one call and write down how it went. Return whether a roster came that was not asked for."""
    try:
        size = await _asked(kind, stub, member, version)
    except grpc.RpcError as why:
        seen.refuse(why)
        return False
    seen.calls.append((due, time.monotonic() - due))
    return kind == "current" and size > 0


async def _asked(kind: str, stub: Stub, member: Papers, version: int) -> int:
    if kind == "renew":
        renewal = pb.RenewCall(csr=member.csr, signature=member.signature)
        return len((await stub.Renew(renewal, timeout=CALL_S)).certificate)
    known = 0 if kind == "fetch" else version
    return len((await stub.GetRoster(pb.GetRosterCall(known_version=known), timeout=CALL_S)).roster)


@asynccontextmanager
async def _registry(server: Server, member: Papers) -> AsyncIterator[Stub]:
    credentials = channel_credentials(server.authority, member.key, member.certificate)
    async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", credentials, _OPTIONS) as channel:
        yield rpc.RegistryStub(channel)
