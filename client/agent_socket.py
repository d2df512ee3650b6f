"""The agent's UNIX socket: who may open it, how long it listens to a call that says nothing, and how to ask its status.

All callers look alike here: whoever may open the socket is the SuperNode, as far as the agent can tell.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from common.errors import AgentError
from common.listening import Listening
from common.paths import MOST_SOCKET_BYTES
from common.proto import bottega_pb2 as pb
from common.proto import bottega_pb2_grpc as rpc

GRPC_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))

if TYPE_CHECKING:  # at run time the class takes no parameters
    Interceptor = grpc.ServerInterceptor[Any, Any]
else:
    Interceptor = grpc.ServerInterceptor

_THREADS = 128  # made when they are needed; half of them may wait for a person, or for a bench
# The one silent longest makes room. Of few, an honest call whose message is on its way would soon be that one.
_MOST_SILENT = 64
_PATIENCE_S = 10.0


def serve(service: rpc.SiteAgentServicer, socket: Path) -> grpc.Server:
    """Listen on ``socket`` (0600, or 0660 in a folder that is for a group) and return the started server.

    Args:
        service: What answers.
        socket: Where; its folder is made (0700) when it is not there.

    Raises:
        AgentError: The path is too long for a socket, the folder cannot be made, or another agent listens there.
    """
    if len(str(socket).encode()) > MOST_SOCKET_BYTES:
        raise AgentError(
            "the home's path is too long for a UNIX socket",
            got=f"{len(str(socket).encode())} bytes",
            expected=f"at most {MOST_SOCKET_BYTES}",
            advice="Move the home to a shorter path.",
        )
    if socket.exists():
        if is_alive(socket):
            raise AgentError("another agent already serves this home", advice="Stop it first, or use its answer.")
        socket.unlink()  # left over from a crash: nobody listens
    group = is_for_a_group(made(socket.parent))
    server = grpc.server(ThreadPoolExecutor(_THREADS), interceptors=[_Attention()], options=GRPC_OPTIONS)
    rpc.add_SiteAgentServicer_to_server(service, server)
    # The socket is born with its mode; a chmod afterwards would leave a moment in between.
    before = os.umask(0o117 if group else 0o177)
    try:
        server.add_insecure_port(f"unix:{socket}")
    except RuntimeError as cause:
        raise AgentError("the agent's socket cannot be opened", got=str(socket)) from cause
    finally:
        os.umask(before)
    if group:
        give_to_the_group(socket)
    server.start()
    return server


def made(share: Path) -> Path:
    """Return the folder that the SuperNode meets the agent in, made (0700) if it is not there.

    Raises:
        AgentError: It cannot be made.
    """
    try:
        share.mkdir(mode=0o700, exist_ok=True)
    except OSError as cause:
        raise AgentError("the agent's folder cannot be made", got=cause.strerror, expected="leave to write") from None
    return share


def is_for_a_group(share: Path) -> bool:
    """Return whether who made the folder let a group in, which is the SuperNode's then: what lies there is for it."""
    return bool(share.stat().st_mode & stat.S_IXGRP)


def give_to_the_group(path: Path) -> None:
    """Give a file of the folder to the group that the folder is for.

    Raises:
        AgentError: This user does not belong to it.
    """
    try:
        os.chown(path, -1, path.parent.stat().st_gid)
    except OSError as cause:
        raise AgentError(
            "the SuperNode's group cannot be given what is for it", got=cause.strerror,
            expected="the agent's user in the group of the folder that they share",
            advice="docs/guides/service.md says how the two users share it.",
        ) from None  # fmt: skip


def is_alive(socket: Path) -> bool:
    """Return whether an agent answers on ``socket``."""
    return get_status(socket) is not None


def get_status(socket: Path) -> pb.Status | None:
    """Return the status of the agent on ``socket``; None when none answers within two seconds."""
    if not os.path.exists(socket):  # noqa: PTH110 (a folder that may not be looked into is no error here)
        return None
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        try:
            status: pb.Status = rpc.SiteAgentStub(channel).GetStatus(pb.StatusRequest(), timeout=2)
        except grpc.RpcError:
            return None
        return status


class _Attention(Interceptor):
    """Waits for the message of each call, for so long and for so many at once, and has it answered then.

    As a stream's handler, because of any other gRPC reads the one message before it asks us, with a thread that waits
    for ever. On the wire the two are the same.
    """

    def __init__(self) -> None:
        self._listening = Listening(_MOST_SILENT, _PATIENCE_S, make_room=True)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 (gRPC's handlers have no types)
        """Put the wait before the call."""
        handler = continuation(details)
        if handler is None:
            return None

        def call(messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:  # noqa: ANN401 (any record)
            with self._listening.to("a caller on the agent's socket", context.cancel):
                message = next(messages, None)
            if message is None:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call brought no message")
            try:
                request = handler.request_deserializer(message)
            except DecodeError:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message cannot be read")
            return handler.unary_unary(request, context)

        return grpc.stream_unary_rpc_method_handler(call, response_serializer=handler.response_serializer)
