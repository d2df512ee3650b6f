"""The gate of the fleet API: whose call reaches Flower, decided before a byte of the call's body is read.

Flower 1.41 reads and parses a body of any size before it looks at who sent it, lets a node send messages in another
node's name, and even instructions to other nodes in the SuperLink's own. None of it comes through this gate. What a
message says is none of the gate's business: it is a sealed envelope, and admission judges it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterable

from fastapi import FastAPI, HTTPException, Request
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from google.protobuf.message import DecodeError
from starlette.types import Message, Receive, Scope, Send

from security.envelope import MAX_BODY_BYTES, MAX_LETTER_BYTES
from server.limits import RateLimit

log = logging.getLogger("bottega.fleet")

FLEET = "/v1/fleet/"

MOST_BYTES = MAX_LETTER_BYTES + 2**20
"""The longest body of one call: a letter, or a piece (5 MiB) of a sealed body, and what Flower writes around it."""

MOST_AT_ONCE = 8
"""Calls of one node whose body is on its way; a SuperNode makes four at the most. Each may hold :data:`MOST_BYTES`."""

MOST_OBJECTS = MAX_BODY_BYTES // FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE + 16
"""Objects of one reply: the pieces of the longest sealed body, and the records around them. Flower has no limit."""

_PUSH_MESSAGES, _ACTIVATE_NODE = FLEET + "push-messages", FLEET + "activate-node"
_UNKNOWN = "its key is not registered"

# Flower's own words, which its SuperNode knows.
_NOT_AUTHENTIC = {"detail": "Invalid SuperNode authentication"}
_ACTIVATION = ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED
_NOT_ACTIVATED = FlowerError(_ACTIVATION, _UNKNOWN).to_json(API_ERROR_MAP[_ACTIVATION].public_message)

_HEARD_BYTES = 2**16
_HEARD_S = 2.0


class _Refused(Exception):  # noqa: N818 (an answer, not a fault of ours)
    """A call that does not come through. Without words it is answered with its status alone."""

    def __init__(self, status: int, why: str, words: object = None, *, read: bool = False) -> None:
        super().__init__(why)
        self.status, self.words, self.read = status, words, read


class _HungUp(Exception):  # noqa: N818
    """The caller went away in the middle of its call."""


class FleetGate:
    """An ASGI application: the fleet API for registered SuperNodes, and nothing else for anybody.

    A call is answered with 404 when it is for another path, 401 (412 to a SuperNode that wants to begin) when its
    headers are not signed by a registered key within the last five minutes, 413 when it is longer than
    :data:`MOST_BYTES`, 503 when the same node sends :data:`MOST_AT_ONCE` others, 403 when it sends a message that
    is not a reply by the caller itself, and 413 when that is of more than :data:`MOST_OBJECTS` objects. Then its
    connection is closed.

    Args:
        app: Flower's.
        known: Told the address of each caller that has shown a registered key.
    """

    def __init__(self, app: FastAPI, known: Callable[[tuple[str, int]], None]) -> None:
        self._app, self._known = app, known
        self._lines = RateLimit(per_second=1, burst=20)
        self._coming: Counter[int] = Counter()  # calls of each node whose body is still on its way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        try:
            body = await self._judged(scope, receive)
        except _Refused as why:
            if self._lines.allows(host := scope["client"][0]):
                log.warning("a fleet call by %s was refused: %s", host, why)
            if not why.read:
                await _heard_out(receive)
            await _answer(send, why)
        except _HungUp:
            pass
        else:
            await self._app(scope, _again(body, receive), send)

    async def _judged(self, scope: Scope, receive: Receive) -> bytes:
        """Return the body of a call that comes through."""
        # A path that climbs is refused as it stands: nothing behind this gate may come to read it otherwise.
        if not scope["path"].startswith(FLEET) or ".." in scope["path"]:
            raise _Refused(404, "there is nothing but the fleet API here")
        # In threads that are not Flower's own, so that strangers never keep it waiting.
        number = await asyncio.to_thread(self._caller, scope)
        self._known(scope["client"])
        if self._coming[number] >= MOST_AT_ONCE:
            raise _Refused(503, "the same node sends many other calls", {"detail": "Too many calls at once"})
        self._coming[number] += 1
        try:
            body = await _body(Request(scope).headers.get("content-length", ""), receive)
        finally:
            self._coming[number] -= 1
            self._coming += Counter()  # forgets those of whom none is left
        if scope["path"] == _PUSH_MESSAGES:
            _check_reply(body, number)
        return body

    def _caller(self, scope: Scope) -> int:
        """Return Flower's number for the node whose key signed the headers."""
        try:
            key = b64decode(Request(scope).headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER, ""), validate=True)
        except ValueError:
            raise _Refused(401, "its public key cannot be read", _NOT_AUTHENTIC) from None
        number: int | None = self._app.state.linkstate_factory.state().get_node_id_by_public_key(key)
        if number is None and scope["path"] == _ACTIVATE_NODE:
            raise _Refused(412, _UNKNOWN, _NOT_ACTIVATED)  # as Flower answers: the SuperNode tells its owner then
        if number is None:
            raise _Refused(401, _UNKNOWN, _NOT_AUTHENTIC)
        # Flower's own check of the headers, with a request to check whose key is the header's.
        state = {"protobuf_request": ActivateNodeRequest(public_key=key)}
        try:
            authenticate_node(Request({**scope, "state": state}))
        except HTTPException:
            raise _Refused(
                401, "its headers are not signed by the key that they show, or not now", _NOT_AUTHENTIC
            ) from None
        return number


async def _body(announced: str, receive: Receive) -> bytes:
    """Read a body, no longer than may be."""
    body = bytearray()
    too_long = _Refused(413, f"it is longer than {MOST_BYTES} bytes", {"detail": "The call is too long"})
    if announced.isdecimal() and int(announced) > MOST_BYTES:
        raise too_long
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _HungUp
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_BYTES:
            raise too_long
    return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that hands out a body that was read already, and then what else comes."""
    parts = [body]

    async def handed() -> Message:
        return {"type": "http.request", "body": parts.pop(), "more_body": False} if parts else await receive()

    return handed


def _check_reply(body: bytes, number: int) -> None:
    """Let a node send one reply at a time, in its own name and of no more objects than a sealed body has.

    Whoever replied in another's name first would have its reply refused in admission, but stand in the true one's way.
    """
    try:
        request = PushMessagesRequest.FromString(body)
    except DecodeError:
        return  # Flower refuses it
    if not all(m.metadata.src_node_id == number and m.metadata.reply_to_message_id for m in request.messages_list):
        words = {"detail": "A node sends replies of its own"}
        raise _Refused(403, "it sends what is not a reply of its own", words, read=True)
    if len(request.messages_list) > 1 or not _few(request.message_object_trees):
        words = {"detail": "A node sends one reply at a time"}
        raise _Refused(
            413, f"it sends more than one reply, or one of more than {MOST_OBJECTS} objects", words, read=True
        )


def _few(trees: Iterable[ObjectTree]) -> bool:
    """Tell whether trees have no more than :data:`MOST_OBJECTS` nodes together, counting no further than that."""
    waiting: list[ObjectTree] = list(trees)
    counted = 0
    while waiting and counted < MOST_OBJECTS:
        counted += 1
        waiting.extend(waiting.pop().children)
    return not waiting


async def _heard_out(receive: Receive) -> None:
    """Let a short body of a refused call come, and drop it: who is hung up on while sending never sees the answer."""
    heard = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_HEARD_S):
            while heard < _HEARD_BYTES:
                message = await receive()
                heard += len(message.get("body", b""))
                if not message.get("more_body", False):
                    break


async def _answer(send: Send, why: _Refused) -> None:
    body = json.dumps(why.words).encode() if why.words else b""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    # What is left of the call is not read.
    await send({"type": "http.response.start", "status": why.status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
