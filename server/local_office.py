"""The office beside the server: it works on the server's home itself, whether the server runs or not."""

from __future__ import annotations

import datetime as dt

from common.paths import ServerHome
from common.proto import registry_pb2 as pb
from security.identity import Identity
from security.names import Role
from security.roster import Roster
from server.desk import Desk
from server.house import open_house
from server.opening import open_desk
from server.operating import load_operator
from server.rows import member_row, member_rows
from server.run_desk import RunDesk


class LocalOffice:
    """The :class:`~server.office.Office` of the operator who lives in the server's home.

    Raises:
        HomeError: There is no federation in this folder.
    """

    def __init__(self, home: ServerHome) -> None:
        self._home = home
        self._desk: Desk = open_desk(home)
        self._runs = RunDesk(home)

    @property
    def operator(self) -> Identity:
        """Whose office it is."""
        return load_operator(self._home.operator).identity

    def roster(self) -> Roster:
        """Return who belongs to the federation."""
        return open_house(self._home).roster

    def invite(self, role: Role, name: str, ttl: dt.timedelta, *, auto_approve: bool) -> str:
        """Invite somebody; return the token."""
        return self._desk.invite(role, name, ttl, auto_approve=auto_approve).token()

    def members(self) -> list[pb.MemberRow]:
        """Return everybody who ever asked to join."""
        listed = [*self._desk.applicants(), *self._desk.invited()]
        return member_rows(self._desk.federation, listed, self._runs.suspended())

    def approve(self, role: Role, name: str) -> pb.MemberRow:
        """Let somebody in who waits."""
        return member_row(self._desk.federation, self._desk.approve(role, name))

    def bring(self, request: bytes) -> bytes:
        """Let somebody in whose request came as a file; return their grant."""
        return self._desk.bring(request)

    def deny(self, role: Role, name: str, reason: str) -> pb.MemberRow:
        """Refuse somebody who waits."""
        return member_row(self._desk.federation, self._desk.deny(role, name, reason))

    def revoke(self, role: Role, name: str, reason: str) -> pb.MemberRow:
        """End somebody's membership."""
        member = self._desk.revoke(role, name, reason)
        return pb.MemberRow(spiffe_id=str(member.id), status=member.status, reason=reason)

    def reinstate(self, name: str, reason: str) -> pb.MemberRow:
        """Let new runs ask a suspended site again."""
        return pb.MemberRow(spiffe_id=str(self._runs.reinstate(name, reason, self.operator.id)), status="approved")

    def start_run(self, order: bytes, rehearsal: bytes = b"") -> pb.RunRow:
        """Start the run of a signed order, with what its detector begins with."""
        return self._runs.start(order, self.operator.id, rehearsal)

    def resume_run(self, run: str) -> pb.RunRow:
        """Go on with a run after its last closed round."""
        return self._runs.resume(run)

    def stop_run(self, run: str) -> pb.RunRow:
        """End a run; its closed rounds stay."""
        return self._runs.stop(run)

    def runs(self) -> list[pb.RunRow]:
        """Return all runs, the latest first."""
        return self._runs.all()

    def run(self, run: str) -> pb.ShowRunAnswer:
        """Return one run with its rounds and verdicts."""
        return self._runs.shown(run)
