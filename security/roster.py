"""The roster: who belongs to a federation, by which keys, since when, and who no longer does.

The server signs it, gives each a version one higher than the last, and every site keeps the newest that it accepted.
Nobody is ever taken out: a member is active, or revoked for a stated reason. A revoked name stays revoked for good;
who comes back takes another name and other keys. A member's keys change only by their own rotations, which the roster
carries in full, from the first keys on: so whoever missed any number of versions can follow them to the present ones.

What one roster must be is checked whenever one is made (:class:`Roster`); who may have signed it, by
:func:`open_roster`; what may follow what a site already knows, by :mod:`security.succession`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from itertools import groupby, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING

from common.errors import IdentityError
from common.proto import roster_pb2 as pb
from security.identity import Identity, Peer
from security.member_keys import Keys
from security.names import Role, SpiffeId, shown
from security.records import read_record
from security.rotation import Rotation, open_rotation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_ROSTER_BYTES = 2**23
"""The longest signed roster: 8 MiB, room for some five thousand members."""

MOST_REASON_CHARACTERS = 200
"""The longest reason for a revocation, in characters."""

_FORMAT = 1
_DOMAIN = b"bottega/v1/roster\x00"
_LARGEST = 2**63  # versions and times lie below


class Status(StrEnum):
    """Whether a member takes part."""

    ACTIVE = "active"
    REVOKED = "revoked"


def check_reason(reason: str) -> None:
    """Pass a reason that others may read: of a revocation, or a refusal.

    Raises:
        IdentityError: It is empty, too long or not printable.
    """
    if not reason.strip() or len(reason) > MOST_REASON_CHARACTERS or not reason.isprintable():
        raise IdentityError(
            "this is no reason that others can read",
            got=shown(reason),
            expected=f"1 to {MOST_REASON_CHARACTERS} printable characters on one line",
            advice="Say it in other words.",
        )


@dataclass(frozen=True)
class Revocation:
    """Why a member no longer takes part.

    Args:
        at_ms: Since when, Unix time in milliseconds.
        reason: In words that every site may read: at most 200 printable characters on one line.

    Raises:
        IdentityError: The reason is empty, too long or not printable, or the time is out of range.
    """

    at_ms: int
    reason: str

    def __post_init__(self) -> None:
        check_reason(self.reason)
        _check_time("a revocation", self.at_ms)


@dataclass(frozen=True)
class Member:
    """Somebody who belongs to the federation, or did.

    Args:
        id: Their name, which also says their role.
        keys: Their present keys, or the last before they were revoked.
        since_ms: When they joined, Unix time in milliseconds.
        revocation: None while they are active.

    Raises:
        IdentityError: The keys are not those of a member in this role, or the time is out of range.
    """

    id: SpiffeId
    keys: Keys
    since_ms: int
    revocation: Revocation | None = None

    def __post_init__(self) -> None:
        self.keys.check_fits(self.id)
        _check_time("a membership", self.since_ms)

    @property
    def status(self) -> Status:
        """Whether they take part."""
        return Status.ACTIVE if self.revocation is None else Status.REVOKED

    @property
    def active(self) -> bool:
        """Whether they take part."""
        return self.revocation is None

    @property
    def peer(self) -> Peer:
        """What others need to write to them and to believe them."""
        return self.keys.peer(self.id)


@dataclass(frozen=True)
class Roster:
    """The members of a federation at one version. It never changes; a next one is made instead.

    Looked up, iterated and counted it is its active members alone, so that nobody who was revoked is believed by
    oversight; :attr:`members` has everybody.

    Args:
        federation: The trust domain of all its members.
        version: From 1.
        created_at_ms: When the server made this version, Unix time in milliseconds.
        members: In the order of their ids, the revoked ones too; among them one server, active.
        rotations: Every change of keys there was, in the order of member and serial.

    Raises:
        IdentityError: Somebody is named twice, out of order or from another federation; there is not one active
            server; two members, or two generations of one, share a key; or rotations do not lead to a member's keys.
    """

    federation: str
    version: int
    created_at_ms: int
    members: tuple[Member, ...]
    rotations: tuple[Rotation, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.version < _LARGEST:
            raise IdentityError("a roster's version is out of range", got=self.version, expected="1 or more")
        _check_time("a roster", self.created_at_ms)
        self._check_members()
        self._check_rotations()
        self._check_keys_are_nobody_elses()

    @classmethod
    def first(cls, server: Peer, now_ms: int) -> Roster:
        """Begin the roster of a new federation: version 1, the server alone.

        Args:
            server: Its name and keys.
            now_ms: Unix time, milliseconds.
        """
        return cls(server.id.federation, 1, now_ms, (Member(server.id, Keys.of(server), now_ms),))

    @property
    def server(self) -> Member:
        """The federation's server."""
        return next(member for member in self.members if member.id.role is Role.SERVER)

    def member(self, spiffe_id: SpiffeId) -> Member:
        """Look somebody up, whether active or revoked.

        Raises:
            IdentityError: The roster does not know them.
        """
        try:
            return self._by_id[spiffe_id]
        except KeyError:
            raise IdentityError("the roster does not know them", got=spiffe_id) from None

    def __getitem__(self, spiffe_id: SpiffeId) -> Peer:
        """Look up an active member.

        Raises:
            IdentityError: The roster does not know them, or they were revoked.
        """
        member = self.member(spiffe_id)
        if not member.active:
            raise IdentityError("this member was revoked", got=spiffe_id, expected="an active member")
        return member.peer

    def __contains__(self, spiffe_id: object) -> bool:
        return isinstance(spiffe_id, SpiffeId) and spiffe_id in self._by_id and self._by_id[spiffe_id].active

    def __iter__(self) -> Iterator[Peer]:
        return (member.peer for member in self.members if member.active)

    def __len__(self) -> int:
        return sum(member.active for member in self.members)

    def __repr__(self) -> str:
        return f"Roster({self.federation} version {self.version}, {len(self)} of {len(self.members)} active)"

    def rotations_of(self, spiffe_id: SpiffeId) -> tuple[Rotation, ...]:
        """Return how a member's keys changed, the first change first."""
        return tuple(self._rotations_by_id.get(spiffe_id, ()))

    def generations(self, spiffe_id: SpiffeId) -> tuple[Keys, ...]:
        """Return all keys that a member ever had here, the present ones last.

        Raises:
            IdentityError: The roster does not know them.
        """
        return (*(rotation.before for rotation in self.rotations_of(spiffe_id)), self.member(spiffe_id).keys)

    def with_member(self, peer: Peer, supernode: bytes, now_ms: int) -> Roster:
        """Return the next version, with one member more.

        Args:
            peer: Their name and keys.
            supernode: A site's SuperNode public key in OpenSSH format; empty for everybody else.
            now_ms: Unix time, milliseconds.

        Raises:
            IdentityError: The name is taken, even by somebody revoked, or a key is another's.
        """
        if peer.id in self._by_id:
            raise IdentityError(
                "this name is taken in the federation",
                got=f"{peer.id}, {self._by_id[peer.id].status}",
                expected="a name that nobody has had",
                advice="Choose another name; a member who wants new keys rotates them.",
            )
        return self._next([*self.members, Member(peer.id, Keys.of(peer, supernode), now_ms)], self.rotations, now_ms)

    def with_rotation(self, rotation: Rotation, now_ms: int) -> Roster:
        """Return the next version, with a member's new keys.

        Args:
            rotation: From the member's present keys.
            now_ms: Unix time, milliseconds.

        Raises:
            IdentityError: It is of nobody active here, or does not follow on their present keys.
        """
        self[rotation.id]  # an active member
        member = self.member(rotation.id)
        if rotation.before != member.keys:
            raise IdentityError("the rotation does not begin with the member's present keys", got=rotation.id)
        changed = replace(member, keys=rotation.after)
        return self._next(self._with(changed), [*self.rotations, rotation], now_ms)

    def with_revocation(self, spiffe_id: SpiffeId, reason: str, now_ms: int) -> Roster:
        """Return the next version, in which a member is revoked, for good.

        Args:
            spiffe_id: Who.
            reason: In words that every site may read.
            now_ms: Unix time, milliseconds.

        Raises:
            IdentityError: They are not active here, or are the server, or the reason will not do.
        """
        self[spiffe_id]  # an active member
        revoked = replace(self.member(spiffe_id), revocation=Revocation(now_ms, reason))
        return self._next(self._with(revoked), self.rotations, now_ms)

    @cached_property
    def _by_id(self) -> dict[SpiffeId, Member]:
        return {member.id: member for member in self.members}

    @cached_property
    def _rotations_by_id(self) -> dict[SpiffeId, list[Rotation]]:
        return {spiffe_id: list(theirs) for spiffe_id, theirs in groupby(self.rotations, attrgetter("id"))}

    def _with(self, changed: Member) -> list[Member]:
        return [changed if member.id == changed.id else member for member in self.members]

    def _next(self, members: Sequence[Member], rotations: Sequence[Rotation], now_ms: int) -> Roster:
        return Roster(
            self.federation,
            self.version + 1,
            now_ms,
            tuple(sorted(members, key=lambda member: member.id)),
            tuple(sorted(rotations, key=_place)),
        )

    def _check_members(self) -> None:
        for member in self.members:
            if member.id.federation != self.federation:
                raise IdentityError(
                    "the roster names somebody of another federation", got=member.id, expected=shown(self.federation)
                )
        for one, other in pairwise(self.members):
            if one.id >= other.id:
                raise IdentityError("the roster names somebody twice or out of order", got=other.id)
        servers = [member for member in self.members if member.id.role is Role.SERVER]
        if len(servers) != 1 or not servers[0].active:
            raise IdentityError(
                "a roster has one server, which is active", got=f"{sum(s.active for s in servers)} of {len(servers)}"
            )

    def _check_rotations(self) -> None:
        """Each follows on the one before, and the last leads to the member's keys."""
        if any(_place(one) >= _place(other) for one, other in pairwise(self.rotations)):
            raise IdentityError("the roster's rotations are out of order, or one is there twice")
        reached: dict[SpiffeId, Rotation] = {}
        for rotation in self.rotations:
            last = reached.get(rotation.id)
            if rotation.serial != (last.serial if last else 0) + 1 or (last and last.after != rotation.before):
                raise IdentityError("the rotations of a member do not follow one another", got=rotation.id)
            reached[rotation.id] = rotation
        for spiffe_id, last in reached.items():
            if self.member(spiffe_id).keys != last.after:
                raise IdentityError("a member's keys are not those that their rotations lead to", got=spiffe_id)

    def _check_keys_are_nobody_elses(self) -> None:
        """Each key ever listed stands for one member at one time, so that no old key comes back under any name."""
        first = {rotation.id: rotation.before for rotation in reversed(self.rotations)}
        listed = [(member.id, first.get(member.id, member.keys)) for member in self.members]
        listed += [(rotation.id, rotation.after) for rotation in self.rotations]
        seen: set[bytes] = set()
        for spiffe_id, keys in listed:
            if not keys.each.isdisjoint(seen):
                raise IdentityError("a key in the roster was another's before, or is again", got=spiffe_id)
            seen |= keys.each


def sign_roster(roster: Roster, server: Identity) -> bytes:
    """Sign a roster.

    Args:
        roster: To be published.
        server: The server that it names.

    Returns:
        A serialised ``SignedRoster``: what is kept and handed on, byte for byte.

    Raises:
        IdentityError: The roster names another server or other keys of it, or is too long.
    """
    if roster.server.peer != server.peer:
        raise IdentityError("a roster is signed by the server that it names", got=server.id, expected=roster.server.id)
    content = pb.RosterContent(
        format=_FORMAT,
        federation=roster.federation,
        version=roster.version,
        created_at_ms=roster.created_at_ms,
        members=[_member_to_wire(member) for member in roster.members],
        rotations=[rotation.signed for rotation in roster.rotations],
    ).SerializeToString(deterministic=True)
    signed = pb.SignedRoster(content=content, signature=server.signing.sign(_DOMAIN + content))
    data = signed.SerializeToString(deterministic=True)
    if len(data) > MAX_ROSTER_BYTES:
        raise IdentityError("the roster is too long", got=f"{len(data)} bytes", expected=f"at most {MAX_ROSTER_BYTES}")
    return data


def open_roster(data: bytes, server: Peer) -> Roster:
    """Read a signed roster, or refuse it.

    It must be signed by the server's keys as the roster itself has them, and these must be the ones that the reader
    knows, or be reached from them by the server's own rotations.

    Args:
        data: A serialised ``SignedRoster``, from anywhere.
        server: The federation's server as the reader knows it: pinned on joining, whatever it has rotated to since.

    Returns:
        The roster. Whether it may follow on the one before is for :func:`security.succession.accept` to say.

    Raises:
        IdentityError: It is no roster, breaks a rule, is of another federation or server, or is not signed by it.
    """
    outer = read_record(pb.SignedRoster, data, "roster", most=MAX_ROSTER_BYTES)
    wire = read_record(pb.RosterContent, outer.content, "roster", most=MAX_ROSTER_BYTES)
    if wire.format != _FORMAT:
        raise IdentityError("the roster is of another format", got=wire.format, expected=_FORMAT)
    if wire.federation != server.id.federation:
        raise IdentityError(
            "the roster is of another federation", got=shown(wire.federation), expected=server.id.federation
        )
    roster = Roster(
        wire.federation,
        wire.version,
        wire.created_at_ms,
        tuple(_member_from_wire(member) for member in wire.members),
        tuple(open_rotation(rotation) for rotation in wire.rotations),
    )
    named = roster.server
    if server not in [keys.peer(named.id) for keys in roster.generations(named.id)]:
        raise IdentityError("the roster names another server, or other keys of it", got=named.id, expected=server.id)
    if not named.keys.verify.verifies(outer.signature, _DOMAIN + outer.content):
        raise IdentityError("the roster is not signed by the server that it names", got=named.id)
    return roster


def signed_version(data: bytes, server: Peer) -> int:
    """Return the version of a roster that a server signed, before anything else of it is read: that may take seconds.

    Args:
        data: A serialised ``SignedRoster``, from anywhere.
        server: By its present keys.

    Raises:
        IdentityError: It is none, or not signed by these keys.
    """
    outer = read_record(pb.SignedRoster, data, "roster", most=MAX_ROSTER_BYTES)
    if not server.verify.verifies(outer.signature, _DOMAIN + outer.content):
        raise IdentityError("the roster is not signed by this server", got=f"{len(data)} bytes", expected=server.id)
    return int(read_record(pb.RosterContent, outer.content, "roster", most=MAX_ROSTER_BYTES).version)


def _member_to_wire(member: Member) -> pb.RosterMember:
    wire = pb.RosterMember(spiffe_id=str(member.id), keys=member.keys.to_wire(), since_ms=member.since_ms)
    if member.revocation is not None:
        wire.revocation.CopyFrom(pb.RosterRevocation(at_ms=member.revocation.at_ms, reason=member.revocation.reason))
    return wire


def _member_from_wire(wire: pb.RosterMember) -> Member:
    revocation = Revocation(wire.revocation.at_ms, wire.revocation.reason) if wire.HasField("revocation") else None
    return Member(SpiffeId.parse(wire.spiffe_id), Keys.from_wire(wire.keys), wire.since_ms, revocation)


def _place(rotation: Rotation) -> tuple[SpiffeId, int]:
    return rotation.id, rotation.serial


def _check_time(what: str, at_ms: int) -> None:
    if not 0 <= at_ms < _LARGEST:
        raise IdentityError(f"the time of {what} is out of range", got=at_ms, expected="Unix time in milliseconds")
