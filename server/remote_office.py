"""The office of an operator who works from another machine: the same calls, over the registry."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator

from common.paths import MemberHome
from common.proto import registry_pb2 as pb
from common.proto import registry_pb2_grpc as rpc
from common.settings import MemberSettings, read_toml
from security.authority import load_certificate, renewal_is_due
from security.calling import CALL_S, registry
from security.identity import Identity
from security.membership import refresh_roster, renew
from security.names import Role
from security.roster import Roster
from server.operating import load_operator


class RemoteOffice:
    """The :class:`~server.office.Office` of an operator in a home of their own."""

    def __init__(self, home: MemberHome) -> None:
        self._home, self._settings = home, read_toml(MemberSettings, home.settings)
        self._keys = load_operator(home)

    @property
    def operator(self) -> Identity:
        """Whose office it is."""
        return self._keys.identity

    def roster(self) -> Roster:
        """Return who belongs to the federation: the newest roster, if it may follow on the known one."""
        with self._registry() as stub:
            return refresh_roster(self._home, stub)

    def invite(self, role: Role, name: str, ttl: dt.timedelta, *, auto_approve: bool) -> str:
        """Invite somebody; return the token."""
        call = pb.InviteCall(role=role, name=name, ttl_s=int(ttl.total_seconds()), auto_approve=auto_approve)
        with self._registry() as stub:
            return stub.Invite(call, timeout=CALL_S).token

    def members(self) -> list[pb.MemberRow]:
        """Return everybody who ever asked to join."""
        with self._registry() as stub:
            return list(stub.ListMembers(pb.ListMembersCall(), timeout=CALL_S).members)

    def approve(self, role: Role, name: str) -> pb.MemberRow:
        """Let somebody in who waits."""
        with self._registry() as stub:
            return stub.Approve(pb.DecideCall(role=role, name=name), timeout=CALL_S)

    def bring(self, request: bytes) -> bytes:
        """Let somebody in whose request came as a file; return their grant."""
        with self._registry() as stub:
            return stub.Bring(pb.JoinCall(request=request), timeout=CALL_S).grant

    def deny(self, role: Role, name: str, reason: str) -> pb.MemberRow:
        """Refuse somebody who waits."""
        with self._registry() as stub:
            return stub.Deny(pb.DecideCall(role=role, name=name, reason=reason), timeout=CALL_S)

    def revoke(self, role: Role, name: str, reason: str) -> pb.MemberRow:
        """End somebody's membership."""
        with self._registry() as stub:
            return stub.Revoke(pb.DecideCall(role=role, name=name, reason=reason), timeout=CALL_S)

    def reinstate(self, name: str, reason: str) -> pb.MemberRow:
        """Let new runs ask a suspended site again."""
        with self._registry() as stub:
            return stub.Reinstate(pb.DecideCall(role=Role.SITE, name=name, reason=reason), timeout=CALL_S)

    def start_run(self, order: bytes, rehearsal: bytes = b"") -> pb.RunRow:
        """Start the run of a signed order, with what its detector begins with."""
        with self._registry() as stub:
            return stub.StartRun(pb.StartRunCall(order=order, rehearsal=rehearsal), timeout=CALL_S)

    def resume_run(self, run: str) -> pb.RunRow:
        """Go on with a run after its last closed round."""
        with self._registry() as stub:
            return stub.ResumeRun(pb.RunCall(run=run), timeout=CALL_S)

    def stop_run(self, run: str) -> pb.RunRow:
        """End a run; its closed rounds stay."""
        with self._registry() as stub:
            return stub.StopRun(pb.RunCall(run=run), timeout=CALL_S)

    def runs(self) -> list[pb.RunRow]:
        """Return all runs, the latest first."""
        with self._registry() as stub:
            return list(stub.ListRuns(pb.ListRunsCall(), timeout=CALL_S).runs)

    def run(self, run: str) -> pb.ShowRunAnswer:
        """Return one run with its rounds and verdicts."""
        with self._registry() as stub:
            return stub.ShowRun(pb.RunCall(run=run), timeout=CALL_S)

    @contextlib.contextmanager
    def _registry(self) -> Iterator[rpc.RegistryStub]:
        with registry(self._home, self._keys, self._settings.registry) as stub:
            # Nothing of an operator runs between commands, so each command looks after the certificate.
            if renewal_is_due(load_certificate(self._home.certificate), dt.datetime.now(dt.UTC)):
                renew(self._home, self._keys, stub)
            yield stub
