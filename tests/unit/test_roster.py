"""The roster: what one must be, who signs it, how keys change, and which roster a site takes in place of another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import IdentityError
from common.proto import roster_pb2 as pb
from security.identity import Identity, Peer, Role, SpiffeId
from security.keys import supernode_line
from security.member_keys import Keys
from security.roster import MAX_ROSTER_BYTES, Member, Revocation, Roster, Status, open_roster, sign_roster
from security.rotation import MAX_ROTATION_BYTES, Rotation, open_rotation, rotate
from security.succession import accept, keep_roster, load_roster

if TYPE_CHECKING:
    from pathlib import Path

FEDERATION = "atelier.example"
NOW = 1_800_000_000_000


def a_supernode() -> bytes:
    return supernode_line(ec.generate_private_key(ec.SECP384R1()).public_key())


@dataclass(frozen=True)
class Holder:
    """Somebody with all their private keys."""

    identity: Identity
    supernode: bytes

    @classmethod
    def new(cls, name: str, role: Role = Role.SITE, federation: str = FEDERATION) -> Holder:
        return cls(Identity.generate(SpiffeId(federation, role, name)), a_supernode() if role is Role.SITE else b"")

    @property
    def id(self) -> SpiffeId:
        return self.identity.id

    @property
    def keys(self) -> Keys:
        return Keys.of(self.identity.peer, self.supernode)

    def renewed(self) -> Holder:
        return Holder.new(self.id.name, self.id.role, self.id.federation)

    def rotation_to(self, after: Holder, serial: int = 1) -> Rotation:
        return rotate(
            self.identity, after.identity, serial=serial, now_ms=NOW, supernodes=(self.supernode, after.supernode)
        )


HUB = Holder.new("hub", Role.SERVER)
PRADO, UFFIZI = Holder.new("prado"), Holder.new("uffizi")
PRADO_2, PRADO_3, HUB_2, MALLORY = PRADO.renewed(), PRADO.renewed(), HUB.renewed(), Holder.new("mallory")
FIRST = Roster.first(HUB.identity.peer, NOW)


def add(roster: Roster, holder: Holder) -> Roster:
    return roster.with_member(holder.identity.peer, holder.supernode, NOW)


KNOWN = add(add(FIRST, PRADO), UFFIZI)
PRADO_ROTATES = PRADO.rotation_to(PRADO_2)
ROTATED = KNOWN.with_rotation(PRADO_ROTATES, NOW)
REVOKED = KNOWN.with_revocation(PRADO.id, "left the federation", NOW)


def published(roster: Roster, server: Holder = HUB) -> bytes:
    return sign_roster(roster, server.identity)


def opened(data: bytes, server: Holder = HUB) -> Roster:
    return open_roster(data, server.identity.peer)


def flipped(data: bytes, at: int, by: int) -> bytes:
    return data[:at] + bytes([data[at] ^ by]) + data[at + 1 :]


def signed_anyhow(content: pb.RosterContent, server: Holder = HUB) -> bytes:
    """Sign whatever content, as a server that was broken into can."""
    data = content.SerializeToString(deterministic=True)
    signature = server.identity.signing.sign(b"bottega/v1/roster\x00" + data)
    return pb.SignedRoster(content=data, signature=signature).SerializeToString(deterministic=True)


def content_of(roster: Roster) -> pb.RosterContent:
    server = HUB_2 if roster.server.keys == HUB_2.keys else HUB
    return pb.RosterContent.FromString(pb.SignedRoster.FromString(published(roster, server)).content)


# --- one roster ---


def test_a_roster_finds_active_members_and_says_who_was_revoked() -> None:
    assert KNOWN[PRADO.id] == PRADO.identity.peer
    assert list(KNOWN) == [HUB.identity.peer, PRADO.identity.peer, UFFIZI.identity.peer]
    assert PRADO.id in KNOWN
    assert MALLORY.id not in KNOWN
    with pytest.raises(IdentityError, match=r"does not know them; got spiffe://atelier\.example/site/mallory"):
        KNOWN[MALLORY.id]
    assert PRADO.id not in REVOKED
    assert (len(KNOWN), len(REVOKED), len(REVOKED.members)) == (3, 2, 3)
    assert PRADO.identity.peer not in list(REVOKED)
    with pytest.raises(IdentityError, match=r"was revoked; got spiffe://atelier\.example/site/prado"):
        REVOKED[PRADO.id]
    assert KNOWN.member(PRADO.id).status is Status.ACTIVE
    gone = REVOKED.member(PRADO.id)
    assert (gone.status, gone.active, gone.revocation) == (
        Status.REVOKED, False, Revocation(NOW, "left the federation"),
    )  # fmt: skip


def test_versions_count_from_one() -> None:
    assert [roster.version for roster in (FIRST, KNOWN, ROTATED)] == [1, 3, 4]


def test_whatever_order_members_came_in_the_roster_is_the_same() -> None:
    other = add(add(FIRST, UFFIZI), PRADO)
    assert other == KNOWN
    assert published(other) == published(KNOWN)


def test_a_name_is_given_once_even_after_its_holder_was_revoked() -> None:
    for roster in (KNOWN, REVOKED):
        with pytest.raises(IdentityError, match="taken"):
            add(roster, PRADO_2)


@pytest.mark.parametrize("roster", [KNOWN, ROTATED, REVOKED])
def test_nobody_comes_with_a_key_that_is_or_was_anothers(roster: Roster) -> None:
    shared = [
        dataclasses.replace(MALLORY, identity=dataclasses.replace(MALLORY.identity, signing=PRADO.identity.signing)),
        dataclasses.replace(MALLORY, identity=dataclasses.replace(MALLORY.identity, sealing=PRADO.identity.sealing)),
        dataclasses.replace(MALLORY, supernode=PRADO.supernode),
    ]
    for holder in shared:
        with pytest.raises(IdentityError, match="another's"):
            add(roster, holder)


def test_a_site_and_nobody_else_has_the_key_of_a_supernode() -> None:
    with pytest.raises(IdentityError, match="SuperNode"):
        FIRST.with_member(PRADO.identity.peer, b"", NOW)
    auditor = Identity.generate(SpiffeId(FEDERATION, Role.AUDITOR, "ada")).peer
    with pytest.raises(IdentityError, match="SuperNode"):
        FIRST.with_member(auditor, PRADO.supernode, NOW)
    assert auditor.id in FIRST.with_member(auditor, b"", NOW)


@pytest.mark.parametrize("line", [b"x", b"ssh-ed25519 AAAA", b"\xff\x00", b"ecdsa-sha2-nistp384 " + b"A" * 200])
def test_what_is_no_supernode_key_is_refused(line: bytes) -> None:
    with pytest.raises(IdentityError, match="SuperNode"):
        FIRST.with_member(PRADO.identity.peer, line, NOW)


def test_a_supernode_key_has_one_spelling() -> None:
    roster = FIRST.with_member(PRADO.identity.peer, PRADO.supernode + b"\n", NOW)  # as its file has it
    assert roster.member(PRADO.id).keys.supernode == PRADO.supernode
    for other in (b"\n", b" prado@studio", b" "):
        with pytest.raises(IdentityError, match="no comment"):
            Keys(PRADO.keys.verify, PRADO.keys.sealing, PRADO.supernode + other)


def test_there_is_one_server_and_it_is_never_revoked() -> None:
    with pytest.raises(IdentityError, match="one server"):
        FIRST.with_member(Identity.generate(SpiffeId(FEDERATION, Role.SERVER, "second")).peer, b"", NOW)
    with pytest.raises(IdentityError, match="one server"):
        FIRST.with_revocation(HUB.id, "gone", NOW)
    with pytest.raises(IdentityError, match="one server"):
        Roster(FEDERATION, 1, NOW, (Member(PRADO.id, PRADO.keys, NOW),))


def test_members_are_of_the_federation() -> None:
    with pytest.raises(IdentityError, match="another federation"):
        add(FIRST, Holder.new("prado", federation="other.example"))


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "\x1b[31mred", "x" * 201])
def test_a_reason_is_one_printable_line(reason: str) -> None:
    with pytest.raises(IdentityError, match="reason"):
        KNOWN.with_revocation(PRADO.id, reason, NOW)


def test_who_is_not_active_is_not_revoked_again_and_does_not_rotate() -> None:
    with pytest.raises(IdentityError, match="revoked"):
        REVOKED.with_revocation(PRADO.id, "again", NOW)
    with pytest.raises(IdentityError, match="revoked"):
        REVOKED.with_rotation(PRADO_ROTATES, NOW)
    with pytest.raises(IdentityError, match="does not know"):
        KNOWN.with_revocation(MALLORY.id, "who", NOW)


@pytest.mark.parametrize("change", [{"version": 0}, {"version": 2**63}, {"created_at_ms": -1}])
def test_numbers_out_of_range_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(IdentityError, match="out of range"):
        dataclasses.replace(KNOWN, **change)  # type: ignore[arg-type]


# --- rotations ---


def test_a_rotation_leads_from_the_old_keys_to_the_new_ones() -> None:
    assert open_rotation(PRADO_ROTATES.signed) == PRADO_ROTATES
    assert (PRADO_ROTATES.before, PRADO_ROTATES.after) == (PRADO.keys, PRADO_2.keys)
    assert ROTATED[PRADO.id] == PRADO_2.identity.peer
    assert ROTATED.generations(PRADO.id) == (PRADO.keys, PRADO_2.keys)
    assert ROTATED.member(PRADO.id).since_ms == NOW
    twice = ROTATED.with_rotation(PRADO_2.rotation_to(PRADO_3, serial=2), NOW)
    assert twice.generations(PRADO.id) == (PRADO.keys, PRADO_2.keys, PRADO_3.keys)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_byte_of_a_rotation_is_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(PRADO_ROTATES.signed) - 1))
    with pytest.raises(IdentityError):
        open_rotation(flipped(PRADO_ROTATES.signed, at, data.draw(st.integers(1, 255))))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_no_rotation(data: bytes) -> None:
    for candidate in (data, pb.SignedRotation(content=data).SerializeToString(), PRADO_ROTATES.signed + data + b"\0"):
        with pytest.raises(IdentityError):
            open_rotation(candidate)


def test_a_rotation_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(IdentityError, match="too long"):
        open_rotation(bytes(MAX_ROTATION_BYTES + 1))


def test_both_keys_must_sign() -> None:
    honest = pb.SignedRotation.FromString(PRADO_ROTATES.signed)
    message = b"bottega/v1/rotation\x00" + honest.content
    by_mallory = MALLORY.identity.signing.sign(message)
    for forged, match in (
        ({"before_signed": by_mallory}, "not countersigned by the key before"),
        ({"before_signed": honest.after_signed}, "not countersigned by the key before"),
        ({"before_signed": b""}, "not countersigned by the key before"),
        ({"after_signed": by_mallory}, "not signed by the key after"),
        ({"after_signed": honest.before_signed}, "not signed by the key after"),
        ({"before_signed": PRADO.identity.signing.sign(honest.content)}, "not countersigned"),  # without the domain
    ):
        changed = pb.SignedRotation(**{
            "content": honest.content, "before_signed": honest.before_signed, "after_signed": honest.after_signed,
        } | forged)  # fmt: skip
        with pytest.raises(IdentityError, match=match):
            open_rotation(changed.SerializeToString())


def test_a_rotation_keeps_the_name_and_changes_every_key() -> None:
    with pytest.raises(IdentityError, match="keeps the name"):
        PRADO.rotation_to(UFFIZI)
    half = dataclasses.replace(PRADO_2.identity, sealing=PRADO.identity.sealing)
    for after in (
        PRADO,
        dataclasses.replace(PRADO_2, identity=half),
        dataclasses.replace(PRADO_2, supernode=PRADO.supernode),
    ):
        with pytest.raises(IdentityError, match="every key"):
            PRADO.rotation_to(after)


@pytest.mark.parametrize(("serial", "now_ms"), [(0, NOW), (-1, NOW), (2**32, NOW), (1, -1), (1, 2**63)])
def test_a_rotation_out_of_range_is_refused(serial: int, now_ms: int) -> None:
    with pytest.raises(IdentityError, match="out of range"):
        rotate(HUB.identity, HUB_2.identity, serial=serial, now_ms=now_ms)


def test_a_rotation_fits_one_place_alone() -> None:
    second = PRADO_2.rotation_to(PRADO_3, serial=2)
    with pytest.raises(IdentityError, match="present keys"):
        KNOWN.with_rotation(second, NOW)
    with pytest.raises(IdentityError, match="present keys"):
        ROTATED.with_rotation(PRADO_ROTATES, NOW)
    with pytest.raises(IdentityError, match="follow one another"):
        KNOWN.with_rotation(PRADO.rotation_to(PRADO_2, serial=2), NOW)
    with pytest.raises(IdentityError, match="or is again"):
        ROTATED.with_rotation(PRADO_2.rotation_to(PRADO, serial=2), NOW)  # a key that was given up


def test_a_rotation_of_another_federation_or_member_does_not_fit() -> None:
    """Even with the very same keys under another name."""
    for name in (SpiffeId("other.example", Role.SITE, "prado"), UFFIZI.id):
        before, after = (
            dataclasses.replace(h, identity=dataclasses.replace(h.identity, id=name)) for h in (PRADO, PRADO_2)
        )
        with pytest.raises(IdentityError):
            KNOWN.with_rotation(before.rotation_to(after), NOW)


# --- signing and opening ---


@pytest.mark.parametrize("roster", [FIRST, KNOWN, ROTATED, REVOKED])
def test_a_signed_roster_is_read_back(roster: Roster) -> None:
    data = published(roster)
    assert opened(data) == roster
    assert hash(opened(data)) == hash(roster)
    assert published(opened(data)) == data


SIGNED = published(ROTATED.with_revocation(UFFIZI.id, "asked to go", NOW))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_byte_of_a_signed_roster_is_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(SIGNED) - 1))
    with pytest.raises(IdentityError):
        opened(flipped(SIGNED, at, data.draw(st.integers(1, 255))))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_no_roster(data: bytes) -> None:
    """Nor are they if they come under a true signature, or around a true roster."""
    content = pb.SignedRoster(content=data, signature=HUB.identity.signing.sign(b"bottega/v1/roster\x00" + data))
    for candidate in (data, content.SerializeToString(), SIGNED + data + b"\0", SIGNED[: len(data)]):
        with pytest.raises(IdentityError):
            opened(candidate)


def test_a_roster_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(IdentityError, match="too long"):
        opened(bytes(MAX_ROSTER_BYTES + 1))


def test_only_the_server_that_a_roster_names_signs_it() -> None:
    for other in (HUB_2, PRADO):
        with pytest.raises(IdentityError, match="signed by the server that it names"):
            published(KNOWN, other)
        with pytest.raises(IdentityError, match="not signed by the server"):
            opened(signed_anyhow(content_of(KNOWN), other))


def test_a_roster_of_another_federation_or_server_is_refused() -> None:
    for name, match in ((SpiffeId("other.example", Role.SERVER, "hub"), "federation"),
                        (SpiffeId(FEDERATION, Role.SERVER, "other"), "another server")):  # fmt: skip
        pinned = dataclasses.replace(HUB.identity.peer, id=name)
        with pytest.raises(IdentityError, match=match):
            open_roster(published(KNOWN), pinned)


def test_a_server_with_other_keys_than_the_pinned_ones_is_refused() -> None:
    impostor = Roster.first(HUB_2.identity.peer, NOW)
    with pytest.raises(IdentityError, match="other keys"):
        opened(published(impostor, HUB_2))
    half = Peer(HUB.id, HUB.keys.verify, HUB_2.keys.sealing)
    with pytest.raises(IdentityError, match="other keys"):
        open_roster(published(KNOWN), half)


def test_a_server_that_rotated_is_still_known_and_its_old_key_signs_no_more() -> None:
    moved = KNOWN.with_rotation(HUB.rotation_to(HUB_2), NOW)
    data = published(moved, HUB_2)
    assert opened(data, HUB) == opened(data, HUB_2) == moved
    with pytest.raises(IdentityError, match="not signed by the server"):
        opened(signed_anyhow(content_of(moved), HUB))


def _twice(content: pb.RosterContent) -> None:
    content.members.append(content.members[1])


def _out_of_order(content: pb.RosterContent) -> None:
    members = [content.members[at] for at in (0, 2, 1)]
    del content.members[:]
    content.members.extend(members)


def _other_federation(content: pb.RosterContent) -> None:
    content.members[2].spiffe_id = "spiffe://other.example/site/uffizi"


def _no_keys(content: pb.RosterContent) -> None:
    content.members[1].ClearField("keys")


def _no_reason(content: pb.RosterContent) -> None:
    content.members[1].revocation.at_ms = NOW


def _rotation_twice(content: pb.RosterContent) -> None:
    content.rotations.append(content.rotations[0])


def _rotation_missing(content: pb.RosterContent) -> None:
    content.rotations.append(PRADO_2.rotation_to(PRADO_3, serial=3).signed)


def _rotation_of_a_stranger(content: pb.RosterContent) -> None:
    content.rotations.insert(0, MALLORY.rotation_to(MALLORY.renewed()).signed)


def _rotation_to_elsewhere(content: pb.RosterContent) -> None:
    content.members[1].keys.CopyFrom(PRADO_3.keys.to_wire())


def _other_format(content: pb.RosterContent) -> None:
    content.format = 2


def _version_zero(content: pb.RosterContent) -> None:
    content.version = 0


def _small_key(content: pb.RosterContent) -> None:
    content.members[1].keys.sealing = b"\xff" * 1216


@pytest.mark.parametrize(
    "break_", [_twice, _out_of_order, _other_federation, _no_keys, _no_reason, _rotation_twice, _rotation_missing,
               _rotation_of_a_stranger, _rotation_to_elsewhere, _other_format, _version_zero, _small_key],
)  # fmt: skip
def test_a_roster_that_breaks_a_rule_is_refused_though_the_server_signed_it(
    break_: Callable[[pb.RosterContent], None],
) -> None:
    content = content_of(ROTATED)
    break_(content)
    with pytest.raises(IdentityError):
        opened(signed_anyhow(content))


def test_another_encoding_of_the_same_roster_is_refused() -> None:
    content = pb.SignedRoster.FromString(SIGNED).content + b"\x08\x01"  # the format once more
    signature = HUB.identity.signing.sign(b"bottega/v1/roster\x00" + content)
    with pytest.raises(IdentityError, match="plain encoding"):
        opened(pb.SignedRoster(content=content, signature=signature).SerializeToString())


# --- what may follow on what ---


@dataclass
class Story:
    """A server that goes on honestly: every version that it published, and who holds which keys."""

    server: Holder = HUB
    sites: list[Holder] = field(default_factory=list)
    rotations: dict[SpiffeId, int] = field(default_factory=dict)
    versions: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.roster = FIRST
        self.publish()

    def publish(self) -> None:
        self.versions.append(published(self.roster, self.server))

    def add(self) -> None:
        holder = Holder.new(f"site-{len(self.roster.members)}")
        self.roster = add(self.roster, holder)
        self.sites.append(holder)

    def rotate(self, which: int) -> None:
        active = [self.server, *self.sites]
        before = active[which % len(active)]
        after = before.renewed()
        serial = self.rotations[before.id] = self.rotations.get(before.id, 0) + 1
        self.roster = self.roster.with_rotation(before.rotation_to(after, serial), NOW + serial)
        if before is self.server:
            self.server = after
        else:
            self.sites[self.sites.index(before)] = after

    def revoke(self, which: int) -> None:
        if self.sites:
            gone = self.sites.pop(which % len(self.sites))
            self.roster = self.roster.with_revocation(gone.id, f"for the reason {which}", NOW)


_STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "rotate", "rotate", "revoke"]), st.integers(0, 7)), max_size=9
)


def told(steps: list[tuple[str, int]]) -> Story:
    story = Story()
    for step, which in steps:
        story.add() if step == "add" else getattr(story, step)(which)
        if step != "revoke" or story.roster.version > len(story.versions):
            story.publish()
    return story


@settings(max_examples=40, deadline=None)
@given(_STEPS, st.data())
def test_an_honest_history_is_accepted_whatever_versions_a_site_misses(
    steps: list[tuple[str, int]], data: st.DataObject
) -> None:
    versions = told(steps).versions
    known: Roster | None = None
    for signed in versions:  # one by one
        known = accept(known, opened(signed))
    assert known is not None
    assert known.version == len(versions)
    seen = sorted(data.draw(st.sets(st.integers(0, len(versions) - 1), min_size=1)))  # and with gaps
    known = None
    for at in seen:
        offered = opened(versions[at])
        known = accept(known, offered)
        assert known == accept(known, offered) == offered  # the same again changes nothing
    assert known is not None
    for at in range(seen[-1]):  # nor does it ever go back
        with pytest.raises(IdentityError, match="goes backwards"):
            accept(known, opened(versions[at]))


def _dropped(roster: Roster, gone: SpiffeId) -> Roster:
    return dataclasses.replace(
        roster,
        members=tuple(member for member in roster.members if member.id != gone),
        rotations=tuple(rotation for rotation in roster.rotations if rotation.id != gone),
    )


def _with(roster: Roster, member: Member) -> Roster:
    rest = [other for other in roster.members if other.id != member.id]
    return dataclasses.replace(roster, members=tuple(sorted([*rest, member], key=lambda one: one.id)))


def _without_rotations(roster: Roster, whose: SpiffeId, keys: Keys, instead: tuple[Rotation, ...] = ()) -> Roster:
    """Forget how a member's keys changed, tell something else instead, and give them other keys."""
    rest = [rotation for rotation in roster.rotations if rotation.id != whose]
    rotations = tuple(sorted([*rest, *instead], key=lambda one: (one.id, one.serial)))
    member = dataclasses.replace(roster.member(whose), keys=keys)
    members = tuple(member if other.id == whose else other for other in roster.members)
    return dataclasses.replace(roster, members=members, rotations=rotations)


def lies(known: Roster, holders: dict[SpiffeId, Holder]) -> Iterator[tuple[str, Roster]]:
    """Yield the dishonest next versions that a server with no keys but its own can sign, and which rule each breaks."""
    ahead = dataclasses.replace(known, version=known.version + 1)
    yield "of another federation", Roster.first(Holder.new("hub", Role.SERVER, "other.example").identity.peer, NOW)
    if known.version > 1:
        yield "goes backwards", dataclasses.replace(known, version=known.version - 1)
    yield "another roster of the version", dataclasses.replace(known, created_at_ms=NOW + 7)
    yield "another roster of the version", dataclasses.replace(add(known, Holder.new("late")), version=known.version)
    for member in known.members:
        stranger = Holder.new(member.id.name, member.id.role)
        if member.id.role is not Role.SERVER:
            yield "drops a member", _dropped(ahead, member.id)
            renamed = Member(
                SpiffeId(FEDERATION, Role.OPERATOR, member.id.name), Holder.new("x", Role.OPERATOR).keys, NOW
            )
            yield "or changes their role", _with(_dropped(ahead, member.id), renamed)
        swap = "rewrites how" if known.rotations_of(member.id) else "without their countersigned rotation"
        yield swap, _without_rotations(ahead, member.id, stranger.keys)
        never_theirs = stranger.rotation_to(stranger.renewed())
        yield swap, _without_rotations(ahead, member.id, never_theirs.after, (never_theirs,))
        yield "when a member joined", _with(ahead, dataclasses.replace(member, since_ms=member.since_ms + 1))
        if not member.active:
            yield "takes back", _with(ahead, dataclasses.replace(member, revocation=None))
            yield "takes back", _with(ahead, dataclasses.replace(member, revocation=Revocation(NOW, "another reason")))
            if not known.rotations_of(member.id):
                fresh = holders[member.id].renewed()
                back = _with(ahead, dataclasses.replace(member, revocation=None))
                yield "takes back", back.with_rotation(holders[member.id].rotation_to(fresh), NOW)


@settings(max_examples=15, deadline=None)
@given(_STEPS)
def test_no_dishonest_step_is_accepted(steps: list[tuple[str, int]]) -> None:
    story = Story()
    holders = {HUB.id: HUB}
    for step, which in steps:
        story.add() if step == "add" else getattr(story, step)(which)
        holders |= {holder.id: holder for holder in [story.server, *story.sites]}
    known = story.roster
    for rule, offered in lies(known, holders):
        with pytest.raises(IdentityError, match=rule):
            accept(known, offered)


def test_a_rotation_that_was_accepted_cannot_be_told_otherwise_later() -> None:
    """Who has an old key can sign another rotation from it. A site that knows the true one does not follow it."""
    forked = KNOWN.with_rotation(PRADO.rotation_to(PRADO_3), NOW)
    forked = dataclasses.replace(forked, version=ROTATED.version + 1)
    with pytest.raises(IdentityError, match=r"rewrites.*site/prado"):
        accept(ROTATED, forked)


def test_the_servers_own_keys_change_only_by_its_rotation() -> None:
    moved = KNOWN.with_rotation(HUB.rotation_to(HUB_2), NOW)
    assert accept(KNOWN, moved) == moved
    swapped = _without_rotations(dataclasses.replace(KNOWN, version=9), HUB.id, HUB_2.keys)
    with pytest.raises(IdentityError, match=r"without their countersigned rotation; got .*server/hub"):
        accept(KNOWN, swapped)
    back = dataclasses.replace(KNOWN, version=9)
    with pytest.raises(IdentityError, match=r"rewrites.*server/hub"):
        accept(moved, back)  # who has the server's old key still


def test_the_supernode_key_alone_cannot_be_swapped_either() -> None:
    prado = KNOWN.member(PRADO.id)
    changed = dataclasses.replace(prado, keys=dataclasses.replace(prado.keys, supernode=a_supernode()))
    with pytest.raises(IdentityError, match=r"without their countersigned rotation; got .*site/prado"):
        accept(KNOWN, _with(dataclasses.replace(KNOWN, version=9), changed))


def test_who_rotated_and_was_revoked_since_is_followed_but_a_revoked_member_does_not_rotate() -> None:
    gone = ROTATED.with_revocation(PRADO.id, "left", NOW)
    assert accept(KNOWN, gone) == gone
    alive = dataclasses.replace(gone.member(PRADO.id), revocation=None)
    rotated = _with(gone, alive).with_rotation(PRADO_2.rotation_to(PRADO_3, serial=2), NOW)
    moved_on = _with(
        rotated, dataclasses.replace(rotated.member(PRADO.id), revocation=gone.member(PRADO.id).revocation)
    )
    with pytest.raises(IdentityError, match="changes a revocation"):
        accept(gone, moved_on)


def test_a_refusal_names_the_member_and_the_rule_and_no_key() -> None:
    swapped = _without_rotations(dataclasses.replace(KNOWN, version=9), PRADO.id, PRADO_2.keys)
    with pytest.raises(IdentityError) as caught:
        accept(KNOWN, swapped)
    said = str(caught.value)
    assert "spiffe://atelier.example/site/prado" in said
    assert "countersigned" in said
    for keys in (PRADO.keys, PRADO_2.keys):
        for key in keys.each:
            assert key.hex() not in said
            assert repr(key) not in said


def test_the_first_roster_is_taken_as_it_is() -> None:
    assert accept(None, KNOWN) == KNOWN


# --- the file ---


def test_a_roster_is_kept_byte_for_byte_and_never_goes_back(tmp_path: Path) -> None:
    file, server = tmp_path / "roster.signed", HUB.identity.peer
    assert keep_roster(file, published(KNOWN), server) == KNOWN
    assert keep_roster(file, published(KNOWN), server) == KNOWN
    assert keep_roster(file, published(ROTATED), server) == ROTATED
    assert file.read_bytes() == published(ROTATED)
    for refused in (published(KNOWN), published(dataclasses.replace(REVOKED, version=9)), b"nonsense"):
        with pytest.raises(IdentityError):
            keep_roster(file, refused, server)
        assert file.read_bytes() == published(ROTATED)
    assert load_roster(file, server) == ROTATED
    assert [left.name for left in tmp_path.iterdir()] == ["roster.signed"]


def test_a_file_that_is_missing_or_damaged_is_refused_and_nothing_takes_its_place(tmp_path: Path) -> None:
    file, server = tmp_path / "roster.signed", HUB.identity.peer
    with pytest.raises(IdentityError, match="cannot be read"):
        load_roster(file, server)
    file.write_bytes(b"damaged")
    with pytest.raises(IdentityError):
        load_roster(file, server)
    with pytest.raises(IdentityError):
        keep_roster(file, published(KNOWN), server)
    assert file.read_bytes() == b"damaged"


def test_a_site_follows_a_server_that_rotated_from_what_it_pinned(tmp_path: Path) -> None:
    file, pinned = tmp_path / "roster.signed", HUB.identity.peer
    keep_roster(file, published(KNOWN), pinned)
    moved = KNOWN.with_rotation(HUB.rotation_to(HUB_2), NOW)
    keep_roster(file, published(moved, HUB_2), pinned)
    assert load_roster(file, pinned).server.peer == HUB_2.identity.peer


def test_no_secret_is_in_a_signed_roster() -> None:
    for holder in (HUB, PRADO, PRADO_2):
        for secret in (holder.identity.signing.seed, holder.identity.sealing.seed):
            assert secret not in SIGNED
