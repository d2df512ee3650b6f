"""Who was invited, who asked to join, and what was decided: the server's memory of its door.

An invitation is good once. Taking it and keeping the request that it came with are one transaction, so a crash leaves
either both or none, and of two who come with one token the second is refused. The same newcomer who asks again with
the same keys is answered as before: a join that was cut off goes on.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import MembershipError
from security.database import Database
from security.enrolment import Invitation, JoinRequest, matches, secret_hash
from security.entries import Denied, Invited, moment
from security.names import Role, SpiffeId
from server.journal import SCHEMA, now, write

if TYPE_CHECKING:
    import sqlite3

_SCHEMA = """
CREATE TABLE IF NOT EXISTS invitations (
    id BLOB PRIMARY KEY, role TEXT NOT NULL, name TEXT NOT NULL, secret_hash BLOB NOT NULL,
    auto_approve INTEGER NOT NULL, made_at_ms INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL, used_at_ms INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS applicants (
    role TEXT NOT NULL, name TEXT NOT NULL, status TEXT NOT NULL, fingerprint BLOB NOT NULL, request BLOB NOT NULL,
    invitation BLOB, asked_at_ms INTEGER NOT NULL, decided_at_ms INTEGER, reason TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (role, name)
) STRICT;
"""


FETCH_MS = 3_600_000
"""How long after a decision the door stays open for the newcomer to fetch it: an hour."""


class Status(StrEnum):
    """How it stands with somebody who asked, or was asked to."""

    INVITED = "invited"
    WAITING = "waiting"
    APPROVED = "approved"
    DENIED = "denied"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Applicant:
    """Somebody who asked to join, or was invited and has not come yet.

    Attributes:
        fingerprint: SHA-256 over name and keys, 32 bytes; empty of who has not come.
        request: The join request, exactly as it came.
        reason: Why it was denied or revoked, or how long the invitation is good; empty otherwise.
    """

    role: Role
    name: str
    status: Status
    fingerprint: bytes
    request: bytes
    asked_at_ms: int
    decided_at_ms: int | None
    reason: str


@dataclass(frozen=True)
class Admission:
    """What came of a request: who asks, and whether the invitation said that nobody need look at it."""

    applicant: Applicant
    auto_approve: bool


class Applicants(Database):
    """The tables in ``file``; see :class:`~security.database.Database`."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, _SCHEMA + SCHEMA)

    def invite(self, invitation: Invitation, *, auto_approve: bool, now_ms: int, by: SpiffeId) -> None:
        """Remember an invitation, of its secret only a hash; one for the same name that is still out is good no more.

        Raises:
            IdentityError: Somebody of that name belongs to the federation, or waits to.
        """
        with self._write() as db:
            _refuse_taken(db, invitation.role, invitation.name)
            _withdraw(db, invitation.role, invitation.name, now_ms)
            db.execute(
                "INSERT INTO invitations VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                (invitation.id, invitation.role, invitation.name, secret_hash(invitation.id, invitation.secret),
                 int(auto_approve), now_ms, invitation.expires_at_ms),
            )  # fmt: skip
            until = moment(invitation.expires_at_ms / 1000)
            member = str(SpiffeId(by.federation, invitation.role, invitation.name))
            write(db, [Invited(at=now(), member=member, until=until, by=str(by), approved_ahead=auto_approve)])

    def expects_somebody(self, now_ms: int) -> bool:
        """Return whether anybody may be at the door: an invitation is out, or somebody waits or has yet to fetch."""
        rows = self._read(
            "SELECT 1 FROM invitations LEFT JOIN applicants ON applicants.invitation = invitations.id "
            "WHERE (used_at_ms IS NULL AND expires_at_ms > ?) OR status = 'waiting' OR decided_at_ms > ? LIMIT 1",
            now_ms,
            now_ms - FETCH_MS,
        )
        return bool(rows)

    def ask(self, request: JoinRequest, data: bytes, now_ms: int) -> Admission:
        """Take a request that came with an invitation.

        Args:
            request: What :func:`~security.enrolment.open_request` made of ``data``.
            data: The request, exactly as it came.
            now_ms: Unix time, milliseconds; this clock alone decides whether the invitation has expired.

        Raises:
            IdentityError: The invitation is unknown, another's, expired or used by other keys, or the name is taken.
        """
        with self._write() as db:
            auto_approve = _invitation(db, request, now_ms)
            role, name = request.member.id.role, request.member.id.name
            known = _row(db, role, name)
            same = known is not None and known.fingerprint == request.fingerprint.digest
            # Who was denied may come again with the same keys, by another invitation.
            if known is not None and same and (known.status is not Status.DENIED or _used(db, request)):
                return Admission(known, auto_approve)
            if _used(db, request):
                raise MembershipError(
                    "the invitation was used before, by other keys",
                    advice="If that was not you, tell the operator at once: somebody else has the token.",
                )
            _refuse_taken(db, role, name)
            db.execute("UPDATE invitations SET used_at_ms=? WHERE id=?", (now_ms, request.invitation_id))
            return Admission(_kept(db, request, data, now_ms), auto_approve)

    def bring(self, request: JoinRequest, data: bytes, now_ms: int) -> Applicant:
        """Take a request that the operator was handed as a file; it needs no invitation, since the operator brings it.

        Raises:
            IdentityError: The name is taken by other keys.
        """
        with self._write() as db:
            known = _row(db, request.member.id.role, request.member.id.name)
            if known is not None and known.fingerprint == request.fingerprint.digest:
                return known
            _refuse_taken(db, request.member.id.role, request.member.id.name)
            return _kept(db, request, data, now_ms)

    def approve(self, role: Role, name: str, now_ms: int) -> Applicant:
        """Say yes to somebody who waits; done twice, the first time stands.

        Raises:
            IdentityError: Nobody of that name waits.
        """
        with self._write() as db:
            found = _decidable(db, role, name, Status.APPROVED)
            if found.status is Status.APPROVED:
                return found
            _decide(db, found, Status.APPROVED, now_ms)
            return _there(db, role, name)

    def deny(self, role: Role, name: str, reason: str, now_ms: int, by: SpiffeId) -> Applicant:
        """Say no to somebody who waits or was invited; their name is free again, and no invitation for it is good.

        Raises:
            IdentityError: Nobody of that name waits or was invited.
        """
        with self._write() as db:
            was_out, known = _withdraw(db, role, name, now_ms), _row(db, role, name)
            denied = Denied(at=now(), member=str(SpiffeId(by.federation, role, name)), reason=reason, by=str(by))
            if was_out and (known is None or known.status is Status.DENIED):  # invited, and has not come
                write(db, [denied])
                return Applicant(role, name, Status.DENIED, b"", b"", now_ms, now_ms, reason)
            found = _decidable(db, role, name, Status.DENIED)
            if found.status is not Status.DENIED:
                write(db, [denied])
            _decide(db, found, Status.DENIED, now_ms, reason=reason)
            return _there(db, role, name)

    def withdraw_all(self, now_ms: int) -> None:
        """Take back every invitation that is out."""
        with self._write() as db:
            db.execute(
                "UPDATE invitations SET expires_at_ms=?1 WHERE used_at_ms IS NULL AND expires_at_ms>?1", (now_ms,)
            )

    def revoked(self, role: Role, name: str, reason: str, now_ms: int) -> None:
        """Remember that a member was revoked; a member who never asked here is passed over, and twice is once."""
        with self._write() as db:
            found = _row(db, role, name)
            if found is not None and found.status is not Status.REVOKED:
                _decide(db, found, Status.REVOKED, now_ms, reason=reason)

    def one(self, role: Role, name: str) -> Applicant:
        """Return one who asked.

        Raises:
            IdentityError: Nobody of that name asked.
        """
        return _found(self._read(f"{_SELECT} WHERE role=? AND name=?", role, name), role, name)

    def invited(self, now_ms: int) -> list[Applicant]:
        """Return for whom an invitation is out, by role and name."""
        sql = "SELECT role, name, made_at_ms, expires_at_ms, auto_approve FROM invitations WHERE used_at_ms IS NULL"
        rows = self._read(f"{sql} AND expires_at_ms > ? ORDER BY role, name", now_ms)
        return [
            Applicant(Role(role), name, Status.INVITED, b"", b"", made, None, _good_until(expires, bool(alone)))
            for role, name, made, expires, alone in rows
        ]

    def all(self) -> list[Applicant]:
        """Return all who ever asked, by role and name."""
        return [_applicant(row) for row in self._read(f"{_SELECT} ORDER BY role, name")]


_SELECT = "SELECT role, name, status, fingerprint, request, asked_at_ms, decided_at_ms, reason FROM applicants"


def _invitation(db: sqlite3.Connection, request: JoinRequest, now_ms: int) -> bool:
    """Check the invitation that a request carries and return whether it approves by itself."""
    if request.invitation_id is None or request.secret is None:
        raise MembershipError("the request carries no invitation", advice="Ask the operator for one.")
    row = db.execute(
        "SELECT role, name, secret_hash, auto_approve, expires_at_ms, used_at_ms FROM invitations WHERE id=?",
        (request.invitation_id,),
    ).fetchone()
    if row is None or not matches(row[2], request.invitation_id, request.secret):
        raise MembershipError("the invitation is not known here", advice="Ask the operator for a new one.")
    if (row[0], row[1]) != (request.member.id.role, request.member.id.name):
        raise MembershipError(
            "the invitation is for somebody else", got=request.member.id.name, expected="the invited name and role"
        )
    if now_ms >= row[4] and row[5] is None:  # one that was used in time goes on being good for who used it
        raise MembershipError("the invitation has expired", advice="Ask the operator for a new one.")
    return bool(row[3])


def _withdraw(db: sqlite3.Connection, role: Role, name: str, now_ms: int) -> bool:
    """Make what is out for a name good no more; return whether anything was."""
    sql = "UPDATE invitations SET expires_at_ms=? WHERE role=? AND name=? AND used_at_ms IS NULL AND expires_at_ms>?"
    return db.execute(sql, (now_ms, role, name, now_ms)).rowcount > 0


def _good_until(expires_at_ms: int, auto_approve: bool) -> str:
    until = dt.datetime.fromtimestamp(expires_at_ms / 1000, dt.UTC)
    return f"until {until:%Y-%m-%d %H:%M} UTC{', approved unseen' if auto_approve else ''}"


def _used(db: sqlite3.Connection, request: JoinRequest) -> bool:
    (at,) = db.execute("SELECT used_at_ms FROM invitations WHERE id=?", (request.invitation_id,)).fetchone()
    return at is not None


def _refuse_taken(db: sqlite3.Connection, role: Role, name: str) -> None:
    known = _row(db, role, name)
    if known is not None and known.status is not Status.DENIED:
        raise MembershipError(
            "the name is taken", got=f"{role} {name}, {known.status}", expected="another name",
            advice="Invite under another name; a revoked name never comes back.",
        )  # fmt: skip


def _kept(db: sqlite3.Connection, request: JoinRequest, data: bytes, now_ms: int) -> Applicant:
    role, name = request.member.id.role, request.member.id.name
    db.execute(
        "INSERT OR REPLACE INTO applicants VALUES (?, ?, ?, ?, ?, ?, ?, NULL, '')",
        (role, name, Status.WAITING, request.fingerprint.digest, data, request.invitation_id, now_ms),
    )
    return _there(db, role, name)


def _decidable(db: sqlite3.Connection, role: Role, name: str, wanted: Status) -> Applicant:
    found = _there(db, role, name)
    if found.status not in (Status.WAITING, wanted):
        raise MembershipError(f"{name} does not wait for a decision", got=found.status, expected=Status.WAITING)
    return found


def _decide(db: sqlite3.Connection, who: Applicant, status: Status, now_ms: int, *, reason: str = "") -> None:
    db.execute(
        "UPDATE applicants SET status=?, decided_at_ms=?, reason=? WHERE role=? AND name=?",
        (status, now_ms, reason, who.role, who.name),
    )


def _there(db: sqlite3.Connection, role: Role, name: str) -> Applicant:
    return _found(db.execute(f"{_SELECT} WHERE role=? AND name=?", (role, name)).fetchall(), role, name)


def _row(db: sqlite3.Connection, role: Role, name: str) -> Applicant | None:
    row = db.execute(f"{_SELECT} WHERE role=? AND name=?", (role, name)).fetchone()
    return None if row is None else _applicant(row)


def _found(rows: list[tuple[object, ...]], role: Role, name: str) -> Applicant:
    if not rows:
        raise MembershipError(f"nobody called {name} asked to join as {role}", expected="one of `bottega server sites`")
    return _applicant(rows[0])


def _applicant(row: tuple) -> Applicant:  # type: ignore[type-arg]
    return Applicant(Role(row[0]), row[1], Status(row[2]), *row[3:])
