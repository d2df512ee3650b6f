"""The registry and the door, on gRPC: what members may ask of the server, and what strangers may.

Two ports. On the registry's a caller shows a certificate of the federation's authority, and the gate looks up at each
call whether that role may make it and whether that member is active. On the door's nobody shows a certificate, there
are two calls, and they are answered only while somebody is expected.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import grpc
from cryptography.hazmat.primitives.serialization import Encoding

from common.errors import IdentityError, ProcessError
from common.listening import Listening
from common.proto import bottega_pb2 as wire
from common.proto import registry_pb2 as pb
from common.proto import registry_pb2_grpc as rpc
from security.grpc_tls import refuse_old_tls
from security.names import Role, SpiffeId, shown
from security.roster import MAX_ROSTER_BYTES
from server.applicants import Applicant, Status
from server.desk import Desk
from server.gate import Interceptor, OpenGate, RoleGate, caller
from server.limits import RateLimit
from server.rows import member_row, member_rows
from server.run_desk import RunDesk

_MEMBERS = frozenset({Role.SITE, Role.OPERATOR, Role.AUDITOR})
_OPERATORS = frozenset({Role.OPERATOR})
_SERVICE = "/bottega.v1.Registry/"

ALLOWED: Mapping[str, frozenset[Role]] = MappingProxyType(
    {
        _SERVICE + "GetRoster": _MEMBERS,
        _SERVICE + "Renew": _MEMBERS,
        _SERVICE + "ListMembers": _OPERATORS | {Role.AUDITOR},
        _SERVICE + "Invite": _OPERATORS,
        _SERVICE + "Approve": _OPERATORS,
        _SERVICE + "Bring": _OPERATORS,
        _SERVICE + "Deny": _OPERATORS,
        _SERVICE + "Revoke": _OPERATORS,
        _SERVICE + "Reinstate": _OPERATORS,
        _SERVICE + "StartRun": _OPERATORS,
        _SERVICE + "ResumeRun": _OPERATORS,
        _SERVICE + "StopRun": _OPERATORS,
        _SERVICE + "ListRuns": _OPERATORS | {Role.AUDITOR},
        _SERVICE + "ShowRun": _OPERATORS | {Role.AUDITOR},
        _SERVICE + "Rotate": _MEMBERS,
        _SERVICE + "ReturnRoster": _MEMBERS,
        _SERVICE + "GetLedger": _MEMBERS,
        _SERVICE + "GetConsistency": _MEMBERS,
        _SERVICE + "Cosign": _MEMBERS,
        _SERVICE + "GetEntries": _OPERATORS | {Role.AUDITOR},
        _SERVICE + "GetCheckpoints": _OPERATORS | {Role.AUDITOR},
    }
)
"""Who may call what; what is not here nobody may call."""

MOST_REGISTRY_BYTES = MAX_ROSTER_BYTES + 2**10
"""The longest message to the registry: a roster that comes back."""

MOST_DOOR_BYTES = 2**15
"""The longest message to the door: 32 KiB, twice the longest join request."""

_THREADS = 16
_WAITING_CALLS = 64
_MOST_SILENT = 4  # calls of one caller whose message has not come; a quarter of the threads
_PATIENCE_S = 5.0
_HANDSHAKE_MS = 10_000
_MEMBERS_IDLE_MS = 120_000
_NEWCOMERS_IDLE_MS = 20_000
_MOST_MEMBERS = 4096  # connections; whoever fills a port with them leaves the other ports their share of the files
_MOST_NEWCOMERS = 256
_STATES = {
    Status.WAITING: pb.JOIN_STATE_WAITING,
    Status.APPROVED: pb.JOIN_STATE_APPROVED,
    Status.DENIED: pb.JOIN_STATE_DENIED,
    Status.REVOKED: pb.JOIN_STATE_REVOKED,
}


class RegistryService(rpc.RegistryServicer):
    """Calls of members. The gate has let the caller in before any of this runs."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._runs, self._ledger = desk, RunDesk(desk.home), desk.ledger
        # An answer that nobody reads stays in memory; a roster is the one answer that is long.
        self._rosters = RateLimit(per_second=1, burst=20)

    def GetRoster(self, request: pb.GetRosterCall, context: grpc.ServicerContext) -> pb.GetRosterAnswer:  # noqa: N802
        """Return the signed roster if it is newer than the caller's."""
        roster = self._desk.roster(request.known_version)
        if roster and not self._rosters.allows(str(caller(context))):
            raise ProcessError("too many rosters were asked for", advice="Wait a little, then try again.")
        return pb.GetRosterAnswer(roster=roster)

    def Renew(self, request: pb.RenewCall, context: grpc.ServicerContext) -> pb.RenewAnswer:  # noqa: N802
        """Certify the caller's TLS key anew."""
        certificate = self._desk.renew(caller(context), request.csr, request.signature)
        return pb.RenewAnswer(certificate=certificate.public_bytes(Encoding.DER))

    def Invite(self, request: pb.InviteCall, context: grpc.ServicerContext) -> pb.InviteAnswer:  # noqa: N802
        """Invite somebody."""
        ttl = dt.timedelta(seconds=min(request.ttl_s, 2**31))
        invitation = self._desk.invite(
            _role(request.role), request.name, ttl, auto_approve=request.auto_approve, by=caller(context)
        )
        return pb.InviteAnswer(token=invitation.token())

    def ListMembers(self, request: pb.ListMembersCall, context: grpc.ServicerContext) -> pb.ListMembersAnswer:  # noqa: ARG002, N802
        """Return everybody who ever asked, and for whom an invitation is out."""
        listed = [*self._desk.applicants(), *self._desk.invited()]
        return pb.ListMembersAnswer(members=member_rows(self._desk.federation, listed, self._runs.suspended()))

    def Approve(self, request: pb.DecideCall, context: grpc.ServicerContext) -> pb.MemberRow:  # noqa: ARG002, N802
        """Let somebody in."""
        return self._row(self._desk.approve(_role(request.role), request.name))

    def Bring(self, request: pb.JoinCall, context: grpc.ServicerContext) -> pb.JoinAnswer:  # noqa: ARG002, N802
        """Let somebody in whose request the operator was handed as a file."""
        return pb.JoinAnswer(state=pb.JOIN_STATE_APPROVED, grant=self._desk.bring(request.request))

    def Deny(self, request: pb.DecideCall, context: grpc.ServicerContext) -> pb.MemberRow:  # noqa: N802
        """Refuse somebody."""
        return self._row(self._desk.deny(_role(request.role), request.name, request.reason, caller(context)))

    def Revoke(self, request: pb.DecideCall, context: grpc.ServicerContext) -> pb.MemberRow:  # noqa: ARG002, N802
        """End somebody's membership."""
        member = self._desk.revoke(_role(request.role), request.name, request.reason)
        return pb.MemberRow(spiffe_id=str(member.id), status=member.status, reason=request.reason)

    def Reinstate(self, request: pb.DecideCall, context: grpc.ServicerContext) -> pb.MemberRow:  # noqa: N802
        """Let new runs ask a suspended site again."""
        site = self._runs.reinstate(request.name, request.reason, caller(context))
        return pb.MemberRow(spiffe_id=str(site), status=Status.APPROVED)

    def StartRun(self, request: pb.StartRunCall, context: grpc.ServicerContext) -> pb.RunRow:  # noqa: N802
        """Start the run of an order that the caller signed."""
        return self._runs.start(request.order, caller(context), request.rehearsal)

    def ResumeRun(self, request: pb.RunCall, context: grpc.ServicerContext) -> pb.RunRow:  # noqa: ARG002, N802
        """Go on with a run."""
        return self._runs.resume(request.run)

    def StopRun(self, request: pb.RunCall, context: grpc.ServicerContext) -> pb.RunRow:  # noqa: ARG002, N802
        """End a run."""
        return self._runs.stop(request.run)

    def ListRuns(self, request: pb.ListRunsCall, context: grpc.ServicerContext) -> pb.ListRunsAnswer:  # noqa: ARG002, N802
        """Return all runs."""
        return pb.ListRunsAnswer(runs=self._runs.all())

    def ShowRun(self, request: pb.RunCall, context: grpc.ServicerContext) -> pb.ShowRunAnswer:  # noqa: ARG002, N802
        """Return one run with its rounds and verdicts."""
        return self._runs.shown(request.run)

    def Rotate(self, request: pb.RotateCall, context: grpc.ServicerContext) -> pb.RotateAnswer:  # noqa: N802
        """Put the caller's new keys in the place of the old ones."""
        certificate = self._desk.rotate(caller(context), request.rotation, request.csr, request.signature)
        return pb.RotateAnswer(certificate=certificate.public_bytes(Encoding.DER), roster=self._desk.roster(0))

    def ReturnRoster(self, request: pb.ReturnRosterCall, context: grpc.ServicerContext) -> pb.ReturnRosterAnswer:  # noqa: ARG002, N802
        """Take back a roster of this server's that the server itself has lost."""
        return pb.ReturnRosterAnswer(version=self._desk.take_back(request.roster))

    def GetLedger(self, request: pb.GetLedgerCall, context: grpc.ServicerContext) -> wire.Shown:  # noqa: N802
        """Return the latest checkpoint, the proof that it holds what the caller saw last, and a site's receipts."""
        return self._ledger.shown_to(caller(context), request.known_size, request.receipts_from)

    def GetConsistency(self, request: pb.GetConsistencyCall, context: grpc.ServicerContext) -> pb.GetConsistencyAnswer:  # noqa: ARG002, N802
        """Return the proof that the ledger of one size holds that of another."""
        return pb.GetConsistencyAnswer(consistency=self._ledger.consistency(request.old, request.new))

    def Cosign(self, request: pb.CosignCall, context: grpc.ServicerContext) -> pb.CosignAnswer:  # noqa: N802
        """Keep the caller's line on a checkpoint."""
        self._ledger.cosign(caller(context), request.size, request.line)
        return pb.CosignAnswer()

    def GetEntries(self, request: pb.GetEntriesCall, context: grpc.ServicerContext) -> pb.GetEntriesAnswer:  # noqa: ARG002, N802
        """Return entries of the ledger."""
        return pb.GetEntriesAnswer(entries=self._ledger.entries(request.start, request.count))

    def GetCheckpoints(self, request: pb.GetCheckpointsCall, context: grpc.ServicerContext) -> pb.GetCheckpointsAnswer:  # noqa: ARG002, N802
        """Return checkpoints, with the lines of who co-signed them."""
        return pb.GetCheckpointsAnswer(notes=self._ledger.checkpoints(request.above))

    def _row(self, applicant: Applicant) -> pb.MemberRow:
        return member_row(self._desk.federation, applicant)


class DoorService(rpc.DoorServicer):
    """Calls of strangers."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def Join(self, request: pb.JoinCall, context: grpc.ServicerContext) -> pb.JoinAnswer:  # noqa: ARG002, N802
        """Ask to join."""
        return self._answer(self._desk.ask(request.request))

    def JoinStatus(self, request: pb.JoinStatusCall, context: grpc.ServicerContext) -> pb.JoinAnswer:  # noqa: ARG002, N802
        """Ask how it stands."""
        return self._answer(self._desk.status(SpiffeId.parse(request.spiffe_id), request.fingerprint))

    def _answer(self, found: Applicant) -> pb.JoinAnswer:
        grant = self._desk.grant(found) if found.status is Status.APPROVED else b""
        return pb.JoinAnswer(state=_STATES[found.status], reason=found.reason, grant=grant)


def serve_registry(
    desk: Desk,
    address: str,
    credentials: grpc.ServerCredentials,
    limit: RateLimit | None = None,
    seen: Sequence[Interceptor] = (),
) -> tuple[grpc.Server, int]:
    """Start the registry and return it with its port.

    Args:
        desk: What it speaks for.
        address: ``host:port``; a port of 0 lets the system choose.
        credentials: TLS 1.3 that asks for a certificate of the federation's authority.
        limit: How often one member may call; by default 50 times a second, and 200 times at once.
        seen: What sees each call before the gate does.

    Raises:
        ProcessError: The port is taken, or TLS 1.2 would be spoken on it.
    """
    limit, listening = limit or RateLimit(per_second=50, burst=200), Listening(_MOST_SILENT, _PATIENCE_S)
    retried, returned = _SERVICE + "Rotate", _SERVICE + "ReturnRoster"
    gate = RoleGate(
        ALLOWED, desk.is_active, desk.generation, retried, returned, desk.may_have_forgotten, limit, listening
    )
    server = _server([*seen, gate], MOST_REGISTRY_BYTES, _MOST_MEMBERS, _MEMBERS_IDLE_MS)
    rpc.add_RegistryServicer_to_server(RegistryService(desk), server)
    return server, _opened(server, address, credentials)


def serve_door(
    desk: Desk,
    address: str,
    credentials: grpc.ServerCredentials,
    limit: RateLimit | None = None,
    seen: Sequence[Interceptor] = (),
) -> tuple[grpc.Server, int]:
    """Start the door and return it with its port.

    Args:
        desk: What it speaks for.
        address: ``host:port``; a port of 0 lets the system choose.
        credentials: TLS 1.3 that asks for no certificate.
        limit: How often one address may call; by default 10 times a second, and 40 times at once.
        seen: What sees each call before the gate does.

    Raises:
        ProcessError: The port is taken, or TLS 1.2 would be spoken on it.
    """
    # By default ten newcomers at one address may wait for the operator's word, each asking once a second.
    limit, listening = limit or RateLimit(per_second=10, burst=40), Listening(_MOST_SILENT, _PATIENCE_S)
    gate = OpenGate(desk.expects_somebody, limit, listening)
    server = _server([*seen, gate], MOST_DOOR_BYTES, _MOST_NEWCOMERS, _NEWCOMERS_IDLE_MS)
    rpc.add_DoorServicer_to_server(DoorService(desk), server)
    return server, _opened(server, address, credentials)


def _server(interceptors: Sequence[Interceptor], most_bytes: int, most_connections: int, idle_ms: int) -> grpc.Server:
    options = [
        ("grpc.max_receive_message_length", most_bytes),
        ("grpc.max_metadata_size", 2**13),
        ("grpc.max_concurrent_streams", 32),
        ("grpc.max_allowed_incoming_connections", most_connections),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", idle_ms),
        ("grpc.max_connection_age_ms", 600_000),
        ("grpc.max_connection_age_grace_ms", 30_000),
        ("grpc.so_reuseport", 0),
    ]
    return grpc.server(
        ThreadPoolExecutor(_THREADS, "registry"),
        interceptors=list(interceptors),
        options=options,
        maximum_concurrent_rpcs=_WAITING_CALLS,
    )


def _opened(server: grpc.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError:
        port = 0
    if not port:
        raise ProcessError(
            f"{address} cannot be taken", expected="a free port",
            advice="Stop what uses the port, or set another one in server.toml.",
        )  # fmt: skip
    server.start()
    try:
        refuse_old_tls(address.rpartition(":")[0], port)
    except ProcessError:
        server.stop(None)
        raise
    return port


def _role(text: str) -> Role:
    if text not in set(Role) - {Role.SERVER}:
        raise IdentityError("this is no role to be invited in", got=shown(text), expected="site, operator or auditor")
    return Role(text)
