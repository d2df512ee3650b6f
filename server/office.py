"""The office: all that an operator can ask of a federation, whether beside the server or from another machine.

Both ways answer with the records of the registry, so that a command need not know which it has.
"""

from __future__ import annotations

import datetime as dt
from typing import Protocol

from common.proto import registry_pb2 as pb
from security.identity import Identity
from security.names import Role
from security.roster import Roster


class Office(Protocol):
    """What an operator works with.

    Every call raises a :class:`~common.errors.BottegaError` when the server refuses or cannot be reached.
    """

    @property
    def operator(self) -> Identity:
        """Whose office it is: runs are signed with these keys."""

    def roster(self) -> Roster:
        """Return who belongs to the federation."""

    def invite(self, role: Role, name: str, ttl: dt.timedelta, *, auto_approve: bool) -> str:
        """Invite somebody; return the token."""

    def members(self) -> list[pb.MemberRow]:
        """Return everybody who ever asked to join."""

    def approve(self, role: Role, name: str) -> pb.MemberRow:
        """Let somebody in who waits."""

    def bring(self, request: bytes) -> bytes:
        """Let somebody in whose request came as a file; return their grant."""

    def deny(self, role: Role, name: str, reason: str) -> pb.MemberRow:
        """Refuse somebody who waits."""

    def revoke(self, role: Role, name: str, reason: str) -> pb.MemberRow:
        """End somebody's membership."""

    def reinstate(self, name: str, reason: str) -> pb.MemberRow:
        """Let new runs ask a suspended site again."""

    def start_run(self, order: bytes, rehearsal: bytes = b"") -> pb.RunRow:
        """Start the run of a signed order, with what its detector begins with."""

    def resume_run(self, run: str) -> pb.RunRow:
        """Go on with a run after its last closed round."""

    def stop_run(self, run: str) -> pb.RunRow:
        """End a run; its closed rounds stay."""

    def runs(self) -> list[pb.RunRow]:
        """Return all runs, the latest first."""

    def run(self, run: str) -> pb.ShowRunAnswer:
        """Return one run with its rounds and verdicts."""
