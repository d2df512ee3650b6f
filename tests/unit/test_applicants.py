"""The server's memory of its door: an invitation is good once, for one name, and a name belongs to one set of keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import IdentityError
from security.enrolment import Fingerprint, Invitation, JoinRequest, MemberKeys, make_request, open_request
from security.names import Role, SpiffeId
from server.applicants import Applicant, Applicants, Status

NOW = 1_790_000_000_000
HOUR = 3_600_000
ANCHOR = Fingerprint(bytes(32))
DOOR = "127.0.0.1:8442"
ANNA = SpiffeId("studio.bottega", Role.OPERATOR, "anna")


def named(name: str, role: Role = Role.SITE) -> SpiffeId:
    return SpiffeId("studio.bottega", role, name)


def invited(name: str, role: Role = Role.SITE) -> Invitation:
    return Invitation.create(named(name, role), DOOR, ANCHOR, NOW + HOUR)


def asking(invitation: Invitation | None, keys: MemberKeys) -> tuple[JoinRequest, bytes]:
    data = make_request(keys, invitation=invitation, now_ms=NOW)
    return open_request(data, now_ms=NOW), data


@pytest.fixture(scope="module")
def rossi() -> MemberKeys:
    return MemberKeys.generate(named("rossi"))


@pytest.fixture(scope="module")
def thief() -> MemberKeys:
    return MemberKeys.generate(named("rossi"))


@pytest.fixture
def door(tmp_path: Path) -> Applicants:
    return Applicants(tmp_path / "bottega.db")


def test_who_was_invited_asks_waits_and_is_approved(door: Applicants, rossi: MemberKeys) -> None:
    invitation = invited("rossi")
    door.invite(invitation, auto_approve=False, now_ms=NOW, by=ANNA)
    admission = door.ask(*asking(invitation, rossi), NOW)
    assert (admission.applicant.status, admission.auto_approve) == (Status.WAITING, False)
    assert admission.applicant.fingerprint == rossi.fingerprint.digest
    assert door.approve(Role.SITE, "rossi", NOW + 1).status is Status.APPROVED
    assert [(a.name, a.status, a.decided_at_ms) for a in door.all()] == [("rossi", Status.APPROVED, NOW + 1)]


def test_the_secret_is_not_kept(door: Applicants, tmp_path: Path) -> None:
    invitation = invited("rossi")
    door.invite(invitation, auto_approve=False, now_ms=NOW, by=ANNA)
    door.close()
    assert all(invitation.secret not in file.read_bytes() for file in tmp_path.iterdir())


def test_a_join_that_was_cut_off_goes_on_even_when_the_invitation_has_expired_since(
    door: Applicants, rossi: MemberKeys
) -> None:
    invitation = invited("rossi")
    door.invite(invitation, auto_approve=True, now_ms=NOW, by=ANNA)
    first = door.ask(*asking(invitation, rossi), NOW)
    assert door.ask(*asking(invitation, rossi), NOW + 2 * HOUR) == first


def test_a_token_that_was_stolen_and_used_is_refused_to_the_second_who_comes(
    door: Applicants, rossi: MemberKeys, thief: MemberKeys
) -> None:
    invitation = invited("rossi")
    door.invite(invitation, auto_approve=False, now_ms=NOW, by=ANNA)
    door.ask(*asking(invitation, thief), NOW)
    with pytest.raises(IdentityError, match=r"used before, by other keys.*tell the operator at once"):
        door.ask(*asking(invitation, rossi), NOW)


def test_an_expired_token_is_refused(door: Applicants, rossi: MemberKeys) -> None:
    invitation = invited("rossi")
    door.invite(invitation, auto_approve=False, now_ms=NOW, by=ANNA)
    with pytest.raises(IdentityError, match="the invitation has expired"):
        door.ask(*asking(invitation, rossi), NOW + HOUR)
    assert door.all() == []


def test_a_token_for_another_name_is_refused(door: Applicants) -> None:
    invitation, verdi = invited("rossi"), MemberKeys.generate(named("verdi"))
    door.invite(invitation, auto_approve=False, now_ms=NOW, by=ANNA)
    theirs = Invitation(named("verdi"), DOOR, ANCHOR, invitation.id, invitation.secret, NOW + HOUR)
    with pytest.raises(IdentityError, match="for somebody else"):
        door.ask(*asking(theirs, verdi), NOW)


def test_a_token_in_another_role_is_refused(door: Applicants) -> None:
    invitation, operator = invited("rossi"), MemberKeys.generate(named("rossi", Role.OPERATOR))
    door.invite(invitation, auto_approve=False, now_ms=NOW, by=ANNA)
    theirs = Invitation(operator.id, DOOR, ANCHOR, invitation.id, invitation.secret, NOW + HOUR)
    with pytest.raises(IdentityError, match="for somebody else"):
        door.ask(*asking(theirs, operator), NOW)


def test_a_guessed_secret_and_an_unknown_invitation_are_refused_in_the_same_words(
    door: Applicants, rossi: MemberKeys
) -> None:
    invitation = invited("rossi")
    door.invite(invitation, auto_approve=False, now_ms=NOW, by=ANNA)
    guessed = Invitation(named("rossi"), DOOR, ANCHOR, invitation.id, bytes(32), NOW + HOUR)
    refusals = []
    for wrong in (guessed, invited("rossi")):
        with pytest.raises(IdentityError) as refusal:
            door.ask(*asking(wrong, rossi), NOW)
        refusals.append(str(refusal.value))
    assert refusals[0] == refusals[1]


def test_without_an_invitation_nobody_asks_but_an_operator_may_bring_a_request(
    door: Applicants, rossi: MemberKeys, thief: MemberKeys
) -> None:
    with pytest.raises(IdentityError, match="carries no invitation"):
        door.ask(*asking(None, rossi), NOW)
    brought = door.bring(*asking(None, rossi), NOW)
    assert brought.status is Status.WAITING
    assert door.bring(*asking(None, rossi), NOW + 1) == brought
    with pytest.raises(IdentityError, match="the name is taken"):
        door.bring(*asking(None, thief), NOW)


def test_invitations_that_are_out_are_listed_until_they_are_used_or_end(door: Applicants, rossi: MemberKeys) -> None:
    invitation = invited("rossi")
    door.invite(invitation, auto_approve=True, now_ms=NOW, by=ANNA)
    [row] = door.invited(NOW + 1)
    assert (row.name, row.status, row.fingerprint) == ("rossi", Status.INVITED, b"")
    assert row.reason.startswith("until 20")
    assert row.reason.endswith("approved unseen")
    assert invitation.secret.hex() not in repr(row)
    assert door.invited(NOW + HOUR) == []
    door.ask(*asking(invitation, rossi), NOW + 2)
    assert door.invited(NOW + 3) == []


def test_an_invitation_is_taken_back_by_denying_who_was_invited(door: Applicants, rossi: MemberKeys) -> None:
    invitation = invited("rossi")
    door.invite(invitation, auto_approve=True, now_ms=NOW, by=ANNA)
    assert door.deny(Role.SITE, "rossi", "a slip", NOW + 1, ANNA).status is Status.DENIED
    assert door.invited(NOW + 2) == []
    with pytest.raises(IdentityError, match="the invitation has expired"):
        door.ask(*asking(invitation, rossi), NOW + 2)
    with pytest.raises(IdentityError, match="nobody called rossi asked"):
        door.deny(Role.SITE, "rossi", "again", NOW + 3, ANNA)


def test_of_two_invitations_for_a_name_the_later_counts(door: Applicants, rossi: MemberKeys) -> None:
    """So who lost a token makes it worthless by inviting again."""
    lost, later = invited("rossi"), invited("rossi")
    door.invite(lost, auto_approve=True, now_ms=NOW, by=ANNA)
    door.invite(later, auto_approve=False, now_ms=NOW + 1, by=ANNA)
    with pytest.raises(IdentityError, match="the invitation has expired"):
        door.ask(*asking(lost, rossi), NOW + 2)
    assert door.ask(*asking(later, rossi), NOW + 2).applicant.status is Status.WAITING


def test_who_was_denied_finds_every_invitation_spent(door: Applicants, rossi: MemberKeys, thief: MemberKeys) -> None:
    first = invited("rossi")
    door.invite(first, auto_approve=False, now_ms=NOW, by=ANNA)
    door.ask(*asking(first, rossi), NOW + 1)
    door.deny(Role.SITE, "rossi", "no", NOW + 2, ANNA)
    late = invited("rossi")
    door.invite(late, auto_approve=True, now_ms=NOW + 3, by=ANNA)
    with pytest.raises(IdentityError, match="the invitation has expired"):
        door.ask(*asking(late, thief), NOW + HOUR)
    assert door.one(Role.SITE, "rossi").status is Status.DENIED


def test_a_name_that_is_taken_is_not_invited_again(door: Applicants, rossi: MemberKeys) -> None:
    door.bring(*asking(None, rossi), NOW)
    with pytest.raises(IdentityError, match="the name is taken; got site rossi, waiting"):
        door.invite(invited("rossi"), auto_approve=False, now_ms=NOW, by=ANNA)


def test_a_denied_name_is_free_again_and_a_revoked_one_is_not(
    door: Applicants, rossi: MemberKeys, thief: MemberKeys
) -> None:
    door.bring(*asking(None, thief), NOW)
    assert door.deny(Role.SITE, "rossi", "the words differ", NOW, ANNA).reason == "the words differ"
    door.bring(*asking(None, rossi), NOW)
    door.approve(Role.SITE, "rossi", NOW)
    door.revoked(Role.SITE, "rossi", "left", NOW)
    door.revoked(Role.SITE, "rossi", "another reason", NOW + 1)
    assert (door.one(Role.SITE, "rossi").status, door.one(Role.SITE, "rossi").reason) == (Status.REVOKED, "left")
    with pytest.raises(IdentityError, match="the name is taken"):
        door.bring(*asking(None, thief), NOW)


def test_who_was_denied_and_asks_again_with_the_same_keys_stays_denied(door: Applicants, rossi: MemberKeys) -> None:
    door.bring(*asking(None, rossi), NOW)
    door.deny(Role.SITE, "rossi", "no", NOW, ANNA)
    assert door.bring(*asking(None, rossi), NOW).status is Status.DENIED


def test_who_was_denied_may_come_again_by_another_invitation(door: Applicants, rossi: MemberKeys) -> None:
    first, second = invited("rossi"), invited("rossi")
    door.invite(first, auto_approve=False, now_ms=NOW, by=ANNA)
    door.ask(*asking(first, rossi), NOW)
    door.deny(Role.SITE, "rossi", "a mistake", NOW, ANNA)
    door.invite(second, auto_approve=False, now_ms=NOW, by=ANNA)
    assert door.ask(*asking(first, rossi), NOW).applicant.status is Status.DENIED
    assert door.ask(*asking(second, rossi), NOW).applicant.status is Status.WAITING


def test_decisions_about_nobody_are_refused(door: Applicants) -> None:
    decisions: list[Callable[[], Applicant]] = [
        lambda: door.approve(Role.SITE, "nobody", NOW),
        lambda: door.deny(Role.SITE, "nobody", "no", NOW, ANNA),
        lambda: door.one(Role.SITE, "nobody"),
    ]
    for decide in decisions:
        with pytest.raises(IdentityError, match="nobody called nobody asked to join"):
            decide()


def test_who_was_approved_is_not_denied_and_who_was_revoked_not_approved(door: Applicants, rossi: MemberKeys) -> None:
    door.bring(*asking(None, rossi), NOW)
    door.approve(Role.SITE, "rossi", NOW)
    with pytest.raises(IdentityError, match="does not wait for a decision"):
        door.deny(Role.SITE, "rossi", "no", NOW, ANNA)
    door.revoked(Role.SITE, "rossi", "left", NOW)
    with pytest.raises(IdentityError, match="does not wait for a decision"):
        door.approve(Role.SITE, "rossi", NOW)


@given(st.lists(st.sampled_from(["invite", "use", "deny", "hours"]), max_size=6))
@settings(max_examples=20)
def test_the_door_is_open_only_while_somebody_is_expected(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    now = NOW
    out: list[tuple[Invitation, int]] = []
    waiting: list[str] = []
    decided_at = 0
    with Applicants(tmp_path_factory.mktemp("door") / "bottega.db") as door:
        for number, step in enumerate(steps):
            if step == "invite":
                invitation = Invitation.create(named(f"s{number}"), DOOR, ANCHOR, now + HOUR)
                door.invite(invitation, auto_approve=False, now_ms=now, by=ANNA)
                out.append((invitation, now + HOUR))
            elif step == "hours":
                now += 2 * HOUR
            elif step == "deny" and waiting:
                door.deny(Role.SITE, waiting.pop(), "no", now, ANNA)
                decided_at = now
            elif step == "use" and out and out[0][1] > now:
                invitation = out.pop(0)[0]
                door.ask(*asking(invitation, MemberKeys.generate(invitation.spiffe_id)), now)
                waiting.append(invitation.name)
            expected = any(end > now for _, end in out) or bool(waiting) or decided_at > now - HOUR
            assert door.expects_somebody(now) == expected
