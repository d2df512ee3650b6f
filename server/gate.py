"""Who may call what: one interceptor before every call, and its answer is no unless it finds a reason for yes.

The TLS handshake has proved who calls, by a certificate of the federation's authority. What the caller may do is
looked up anew at each call, so a revocation holds from the next call on, on connections that are open too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import grpc
from cryptography import x509

from common.errors import BottegaError, IdentityError
from security.authority import certified_id, generation_of
from security.names import Role, SpiffeId, shown
from server.limits import RateLimit

log = logging.getLogger("bottega.registry")

if TYPE_CHECKING:
    Interceptor = grpc.ServerInterceptor[Any, Any]
    AnyHandler = grpc.RpcMethodHandler[Any, Any]
else:  # generic in the type stubs alone
    Interceptor = grpc.ServerInterceptor
    AnyHandler = grpc.RpcMethodHandler


class RoleGate(Interceptor):
    """Lets a member in whose role may make the call and who is active now.

    Args:
        allowed: The roles that may make a call, by its full name (``/package.Service/Call``). A call that is not
            listed is refused to everybody.
        active: Whether somebody belongs to the federation at this moment.
        generation: How often a member has gone over to new keys. A certificate of an earlier generation is refused:
            the old keys may be in other hands.
        retried: The call by which a member goes over to new keys. Its answer may have been lost on the way, so it
            may be made again with the certificate of one generation before.
        limit: How often one address may call.
    """

    def __init__(
        self,
        allowed: Mapping[str, frozenset[Role]],
        active: Callable[[SpiffeId], bool],
        generation: Callable[[SpiffeId], int],
        retried: str,
        limit: RateLimit,
    ) -> None:
        self._allowed, self._active, self._limit = allowed, active, limit
        self._generation, self._retried = generation, retried

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], AnyHandler | None],
        details: grpc.HandlerCallDetails,
    ) -> AnyHandler | None:
        """Put the checks before the call."""
        handler = continuation(details)
        if handler is None or handler.unary_unary is None:
            return None  # gRPC answers UNIMPLEMENTED
        roles = self._allowed.get(details.method, frozenset())
        return _guarded(handler, lambda context: self._check(details.method, roles, context), self._limit)

    def _check(self, method: str, roles: frozenset[Role], context: grpc.ServicerContext) -> None:
        try:
            certificate = shown_certificate(context)
            who, generation = certified_id(certificate), generation_of(certificate)
        except IdentityError as why:
            _refuse(context, method, "nobody", grpc.StatusCode.UNAUTHENTICATED, str(why))
            return
        if who.role not in roles:
            _refuse(context, method, str(who), grpc.StatusCode.PERMISSION_DENIED, f"a {who.role} may not do this")
        if not self._active(who):
            _refuse(context, method, str(who), grpc.StatusCode.PERMISSION_DENIED, f"{who.name} is not an active member")
        behind = self._generation(who) - generation
        if behind and not (behind == 1 and method == self._retried):
            words = f"{who.name} has gone over to new keys; this certificate is for the old ones"
            _refuse(context, method, str(who), grpc.StatusCode.PERMISSION_DENIED, words)


class OpenGate(Interceptor):
    """Lets anybody in, not too often, while somebody is expected.

    Args:
        expected: Whether anybody is, at this moment.
        limit: How often one address may call.
    """

    def __init__(self, expected: Callable[[], bool], limit: RateLimit) -> None:
        self._expected, self._limit = expected, limit

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], AnyHandler | None],
        details: grpc.HandlerCallDetails,
    ) -> AnyHandler | None:
        """Put the checks before the call."""
        handler = continuation(details)
        if handler is None or handler.unary_unary is None:
            return None
        return _guarded(handler, lambda context: self._check(details.method, context), self._limit)

    def _check(self, method: str, context: grpc.ServicerContext) -> None:
        if not self._expected():
            _refuse(context, method, "a stranger", grpc.StatusCode.UNAVAILABLE, "nobody is expected at this door")


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


def _guarded(handler: AnyHandler, check: Callable[[grpc.ServicerContext], None], limit: RateLimit) -> AnyHandler:
    behaviour = handler.unary_unary
    assert behaviour is not None  # noqa: S101 (looked at before)

    def call(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 (any record of the service)
        if not limit.allows(_address(context)):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls; wait a little, then try again")
        check(context)
        try:
            return behaviour(request, context)
        except BottegaError as why:
            log.warning("%s: %s", type(why).__name__, why)
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(why))
        except Exception as cause:
            log.exception("a call broke")
            context.abort(grpc.StatusCode.INTERNAL, f"the server could not do this: {type(cause).__name__}")

    return grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
    )


def _refuse(context: grpc.ServicerContext, method: str, who: str, code: grpc.StatusCode, why: str) -> None:
    log.warning("refused: %s, called by %s: %s", shown(method), who, why)
    context.abort(code, why)


def _address(context: grpc.ServicerContext) -> str:
    """Return the caller's address without its port."""
    return str(context.peer()).rpartition(":")[0]
