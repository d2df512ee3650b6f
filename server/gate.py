"""Who may call what: one interceptor before every call, and its answer is no unless it finds a reason for yes.

The TLS handshake has proved who calls, by a certificate of the federation's authority. What the caller may do is
looked up anew at each call, so a revocation holds from the next call on, on connections that are open too.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from urllib.parse import unquote

import grpc
from cryptography import x509
from google.protobuf.message import DecodeError

from common.errors import BottegaError, IdentityError
from common.listening import Listening
from security.authority import certified_id, generation_of
from security.names import Role, SpiffeId, shown
from server.limits import RateLimit

log = logging.getLogger("bottega.registry")

_TOO_MANY = "too many calls; wait a little, then try again"
_NO_MESSAGE = "no message came that can be taken"

if TYPE_CHECKING:
    Interceptor = grpc.ServerInterceptor[Any, Any]
    AnyHandler = grpc.RpcMethodHandler[Any, Any]
else:  # generic in the type stubs alone
    Interceptor = grpc.ServerInterceptor
    AnyHandler = grpc.RpcMethodHandler


class Refusal(NamedTuple):
    """Why a call is not made."""

    code: grpc.StatusCode
    words: str


class Gate(Interceptor):
    """Stands before every call, and before anything of its message is read.

    Args:
        limit: How often one caller may call.
        listening: How many calls of one caller may wait for their message.
    """

    def __init__(self, limit: RateLimit, listening: Listening) -> None:
        self._limit, self._listening = limit, listening

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], AnyHandler | None],
        details: grpc.HandlerCallDetails,
    ) -> AnyHandler:
        """Put the checks before the call.

        What comes back is a handler of a stream, because of any other gRPC reads the one message before it asks us. On
        the wire the two are the same.
        """
        handler, method = continuation(details), details.method
        behaviour = handler.unary_unary if handler else None
        read = handler.request_deserializer if handler else None

        def call(messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:  # noqa: ANN401 (any record)
            who = self._name(method, context)
            if not self._limit.allows(who):
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, _TOO_MANY)
            if behaviour is None:
                _refuse(context, method, who, grpc.StatusCode.UNIMPLEMENTED, "there is no such call here")
            if no := self._decided(method, context):
                _refuse(context, method, who, *no)
            message = self._heard(method, who, messages, context)
            # Who was let in before their message came may have been revoked while it did not.
            if no := self._decided(method, context):
                _refuse(context, method, who, *no)
            try:
                return behaviour(read(message) if read else message, context)
            except BottegaError as why:
                # Only the words go on: who keeps the error keeps the call with it, and gRPC counts it as open.
                log.warning("refused: %s, called by %s: %s: %s", shown(method), who, type(why).__name__, str(why))
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(why))
            except DecodeError:
                _refuse(context, method, who, grpc.StatusCode.INVALID_ARGUMENT, "the message cannot be read")
            except Exception as cause:
                log.exception("a call broke: %s, called by %s", shown(method), who)
                context.abort(grpc.StatusCode.INTERNAL, f"the server could not do this: {type(cause).__name__}")

        written = handler.response_serializer if handler else None
        return grpc.stream_unary_rpc_method_handler(call, response_serializer=written)

    def _heard(self, method: str, who: str, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Return the message of a call."""
        with self._listening.to(who, context.cancel) as free:
            if not free:
                _refuse(context, method, who, grpc.StatusCode.RESOURCE_EXHAUSTED, _TOO_MANY)
            try:
                message = next(messages, None)
            except grpc.RpcError:
                log.warning("refused: %s, called by %s: %s", shown(method), who, _NO_MESSAGE)
                raise
        if message is None:
            _refuse(context, method, who, grpc.StatusCode.INVALID_ARGUMENT, _NO_MESSAGE)
        return message

    def _name(self, method: str, context: grpc.ServicerContext) -> str:
        try:
            return self._known_as(context)
        except IdentityError as why:
            _refuse(context, method, f"nobody at {_address(context)}", grpc.StatusCode.UNAUTHENTICATED, str(why))

    def _decided(self, method: str, context: grpc.ServicerContext) -> Refusal | None:
        try:
            return self._refusal(method, context)
        except Exception:
            log.exception("whether %s may be called cannot be told", shown(method))
            return Refusal(grpc.StatusCode.INTERNAL, "the server cannot tell whether you may do this")

    def _known_as(self, context: grpc.ServicerContext) -> str:
        """Return by which name the caller is known.

        Raises:
            IdentityError: By none.
        """
        raise NotImplementedError

    def _refusal(self, method: str, context: grpc.ServicerContext) -> Refusal | None:
        """Return why the caller may not make the call now; None when they may."""
        raise NotImplementedError


class RoleGate(Gate):
    """Lets a member in whose role may make the call and who is active now.

    Members are known by their names here, since many of them may share one address.

    Args:
        allowed: The roles that may make a call, by its full name (``/package.Service/Call``). A call that is not
            listed is refused to everybody.
        active: Whether somebody belongs to the federation at this moment.
        generation: How often a member has gone over to new keys. A certificate of an earlier generation is refused:
            the old keys may be in other hands.
        retried: The call by which a member goes over to new keys. Its answer may have been lost on the way, so it
            may be made again with the certificate of one generation before.
        returned: The call by which the server learns of members that it has forgotten.
        forgetful: Whether the server may have forgotten any. While it may, whoever holds a certificate of the
            federation may make that call; at other times nobody who was revoked can keep the server busy with it.
        limit: As in :class:`Gate`.
        listening: As in :class:`Gate`.
    """

    def __init__(
        self,
        allowed: Mapping[str, frozenset[Role]],
        active: Callable[[SpiffeId], bool],
        generation: Callable[[SpiffeId], int],
        retried: str,
        returned: str,
        forgetful: Callable[[], bool],
        limit: RateLimit,
        listening: Listening,
    ) -> None:
        super().__init__(limit, listening)
        self._allowed, self._active = allowed, active
        self._generation, self._retried = generation, retried
        self._returned, self._forgetful = returned, forgetful

    def _known_as(self, context: grpc.ServicerContext) -> str:
        return str(caller(context))

    def _refusal(self, method: str, context: grpc.ServicerContext) -> Refusal | None:
        certificate = shown_certificate(context)
        who = certified_id(certificate)
        # A handshake that takes up an earlier one, and a connection that stays open, look at no certificate anew.
        if dt.datetime.now(dt.UTC) > certificate.not_valid_after_utc:
            return Refusal(grpc.StatusCode.UNAUTHENTICATED, "the certificate has run out")
        if who.role not in self._allowed.get(method, frozenset()):
            return Refusal(grpc.StatusCode.PERMISSION_DENIED, f"a {who.role} may not do this")
        if method == self._returned and self._forgetful():
            return None
        if not self._active(who):
            return Refusal(grpc.StatusCode.PERMISSION_DENIED, f"{who.name} is not an active member")
        behind = self._generation(who) - generation_of(certificate)
        if behind and not (behind == 1 and method == self._retried):
            words = f"{who.name} has gone over to new keys; this certificate is for the old ones"
            return Refusal(grpc.StatusCode.PERMISSION_DENIED, words)
        return None


class OpenGate(Gate):
    """Lets anybody in, not too often, while somebody is expected. Strangers are known by their addresses.

    Args:
        expected: Whether anybody is, at this moment.
        limit: As in :class:`Gate`.
        listening: As in :class:`Gate`.
    """

    def __init__(self, expected: Callable[[], bool], limit: RateLimit, listening: Listening) -> None:
        super().__init__(limit, listening)
        self._expected = expected

    def _known_as(self, context: grpc.ServicerContext) -> str:
        return _address(context)

    def _refusal(self, method: str, context: grpc.ServicerContext) -> Refusal | None:  # noqa: ARG002
        if self._expected():
            return None
        return Refusal(grpc.StatusCode.UNAVAILABLE, "nobody is expected at this door")


def caller(context: grpc.ServicerContext) -> SpiffeId:
    """Return who calls, by the certificate that the handshake verified.

    Raises:
        IdentityError: There is none, or it names nobody of a federation.
    """
    return certified_id(shown_certificate(context))


def shown_certificate(context: grpc.ServicerContext) -> x509.Certificate:
    """Return the certificate that the handshake verified.

    Raises:
        IdentityError: There is none.
    """
    handshake: Any = context.auth_context()
    chain = list(handshake.get("x509_pem_cert") or ())
    if len(chain) != 1:
        raise IdentityError("no certificate was shown", expected="one of the federation's")
    try:
        return x509.load_pem_x509_certificate(bytes(chain[0]))
    except ValueError:
        raise IdentityError("the certificate that was shown cannot be read") from None


def _refuse(context: grpc.ServicerContext, method: str, who: str, code: grpc.StatusCode, why: str) -> NoReturn:
    log.warning("refused: %s, called by %s: %s", shown(method), who, why)
    context.abort(code, why)


def _address(context: grpc.ServicerContext) -> str:
    """Return the caller's address without its port; of IPv6 the network, since one house has all of it (RFC 6177)."""
    host = unquote(str(context.peer())).partition(":")[2].rpartition(":")[0]
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host
    return str(address) if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))
