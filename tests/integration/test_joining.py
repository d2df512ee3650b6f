"""Joining on the wire: what goes wrong is said, and whatever is cut off goes on by the same command."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import joining
from client.joining import join_as_member, join_as_site
from client.keeper import Keeper
from common.errors import HomeError, IdentityError, ProcessError
from common.paths import MemberHome, SiteHome
from security.enrolment import Invitation, MemberKeys, make_request
from security.names import Role, SpiffeId
from tests.integration.town import FEDERATION, PowerCutError, Town, a_town, book_in, cut_power, keys_of

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with a_town(tmp_path) as town:
        yield town


def invited(town: Town, name: str = "rossi", role: Role = Role.SITE) -> str:
    return town.desk.invite(role, name, HOUR, auto_approve=True).token()


def joined(town: Town, token: str, home: SiteHome) -> str:
    return join_as_site(home, token, "drawings", 5, lambda _: None).name


@pytest.mark.parametrize("step", range(1, 41, 2))
def test_a_join_that_is_cut_off_at_any_step_goes_on(town: Town, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    token, home = invited(town), SiteHome(town.root / "rossi")
    cut_power(monkeypatch, step)
    monkeypatch.setattr(joining, "_CALL_S", 1)
    # At some steps it is the server's power that goes: then the newcomer waits for an answer that never comes.
    with contextlib.suppress(PowerCutError, IdentityError, ProcessError):
        joined(town, token, home)
    monkeypatch.undo()
    assert joined(town, token, home) == "rossi"
    assert Keeper(home, keys_of(home, "rossi"), town.address, book_in(home, town), lambda: None).look()
    left = [file.name for file in home.root.rglob("*.tmp")]
    assert left == []


def test_a_server_that_cannot_be_reached_is_said_and_the_same_command_goes_on(town: Town) -> None:
    token, home = invited(town), SiteHome(town.root / "rossi")
    town.close()
    with pytest.raises((IdentityError, ProcessError), match="reach"):
        joined(town, token, home)
    town.open()
    assert joined(town, token, home) == "rossi"


def test_a_home_where_somebody_else_lives_is_left_alone(town: Town) -> None:
    home = SiteHome(town.root / "home")
    joined(town, invited(town), home)
    before = home.settings.read_bytes()
    with pytest.raises(HomeError, match="somebody else lives in this folder; got rossi"):
        joined(town, invited(town, "bianchi"), home)
    assert home.settings.read_bytes() == before


def test_an_invitation_for_another_role_says_which_command_takes_it(town: Town) -> None:
    with pytest.raises(IdentityError, match="Use `bottega member join`"):
        joined(town, invited(town, "anna", Role.OPERATOR), SiteHome(town.root / "anna"))
    with pytest.raises(IdentityError, match="Use `bottega site join`"):
        join_as_member(MemberHome(town.root / "rossi"), invited(town), 5, lambda _: None)
    assert not (town.root / "anna").exists()


@pytest.mark.parametrize(("ahead", "words"), [(86_400_000, "from the future"), (-31 * 86_400_000, "is stale")])
def test_a_clock_that_is_far_off_is_said_with_what_to_do(town: Town, ahead: int, words: str) -> None:
    invitation = Invitation.parse(invited(town))
    keys = MemberKeys.generate(invitation.spiffe_id)
    request = make_request(keys, invitation=invitation, now_ms=int(time.time() * 1000) + ahead)
    with pytest.raises(IdentityError, match=words):
        town.desk.ask(request)
    assert town.desk.applicants() == []


@pytest.mark.parametrize(
    "name", ["a/b", "../up", "two words", "Ünïcode", "UPPER", "", "a" * 64, "-a", "a\n", "bottega;rm"]
)
def test_a_name_that_will_not_do_is_said_and_no_invitation_is_made(town: Town, name: str) -> None:
    with pytest.raises(IdentityError, match="this is no name for a site"):
        town.desk.invite(Role.SITE, name, HOUR, auto_approve=False)
    assert not town.desk.expects_somebody()


def test_a_name_that_is_taken_is_not_invited_again_even_after_it_was_revoked(town: Town) -> None:
    joined(town, invited(town), SiteHome(town.root / "rossi"))
    with pytest.raises(IdentityError, match="the name is taken"):
        invited(town)
    town.desk.revoke(Role.SITE, "rossi", "left")
    with pytest.raises(IdentityError, match="the name is taken"):
        invited(town)


def test_approving_twice_changes_nothing_and_revoking_the_unknown_is_refused(town: Town) -> None:
    joined(town, invited(town), SiteHome(town.root / "rossi"))
    first = town.desk.approve(Role.SITE, "rossi")
    assert town.desk.approve(Role.SITE, "rossi") == first
    with pytest.raises(IdentityError, match="no site called nobody ever belonged"):
        town.desk.revoke(Role.SITE, "nobody", "left")
    with pytest.raises(IdentityError, match="nobody called nobody asked to join"):
        town.desk.approve(Role.SITE, "nobody")


def test_a_role_is_part_of_the_name(town: Town) -> None:
    joined(town, invited(town, "anna"), SiteHome(town.root / "site"))
    settings = join_as_member(MemberHome(town.root / "op"), invited(town, "anna", Role.OPERATOR), 5, lambda _: None)
    assert (settings.role, settings.name) == ("operator", "anna")
    assert SpiffeId(FEDERATION, Role.SITE, "anna") in town.desk._house.roster
