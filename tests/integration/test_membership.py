"""Staying a member: rosters are fetched, certificates renewed, servers that were away found again; offline joining."""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from client import rotation
from client.cli_belief import believed
from client.keeper import Keeper, certificate_until_ms
from client.offline import read_grant, write_request
from client.rotation import rotate_keys
from client.settling import known_roster
from common.errors import IdentityError, ProcessError, RunError
from common.paths import MemberHome, SiteHome
from common.proto import registry_pb2 as pb
from common.settings import RunSettings
from security.admission import Check
from security.authority import Authority, load_certificate, save_certificate
from security.calling import NotAMemberError, registry
from security.key_folder import open_key_folder
from security.member import MemberKeys
from security.membership import checked_certificate
from security.names import Role, SpiffeId
from security.renewal import make_renewal
from server.desk import Desk
from server.house import open_house
from server.planning import plan_run
from server.remote_office import RemoteOffice
from server.run_desk import RunDesk
from server.store import Store, Verdict
from tests.integration.town import FEDERATION, PowerCutError, Town, a_town, book_in, cut_power, keys_of


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with a_town(tmp_path) as town:
        yield town


def keeper_of(town: Town, home: SiteHome, on_end: Callable[[], None] = lambda: None) -> Keeper:
    return Keeper(home, keys_of(home, home.root.name), town.address, book_in(home, town), on_end)


def about_to_end(town: Town, home: SiteHome) -> None:
    """Put a certificate in the site's home of which over two thirds have passed: it began five minutes ago."""
    keys = keys_of(home, home.root.name)
    authority = Authority.load(open_key_folder(town.home))
    short = authority.issue(keys.id, keys.tls.public_key(), lifetime=dt.timedelta(minutes=2))
    save_certificate(home.certificate, short)


def test_a_site_that_joined_by_files_is_a_member_and_finds_the_newest_roster(town: Town) -> None:
    home = town.site("rossi")
    assert "bianchi" not in {peer.id.name for peer in known_roster(home)}
    town.site("bianchi")
    keeper = keeper_of(town, home)
    assert keeper.look()
    assert "bianchi" in {peer.id.name for peer in known_roster(home)}
    assert keeper.standing.roster_version == known_roster(home).version
    assert keeper.standing.certificate_until_ms == certificate_until_ms(home)


def test_a_certificate_is_renewed_when_two_thirds_of_its_life_are_over_and_not_before(town: Town) -> None:
    home = town.site("rossi")
    fresh = home.certificate.read_bytes()
    keeper = keeper_of(town, home)
    assert keeper.look()
    assert home.certificate.read_bytes() == fresh
    about_to_end(town, home)
    assert keeper.look()
    renewed = load_certificate(home.certificate)
    assert renewed.not_valid_after_utc > dt.datetime.now(dt.UTC) + dt.timedelta(hours=71)
    assert renewed.public_key() == keys_of(home, "rossi").tls.public_key()
    assert keeper.look(), "the new certificate opens the registry"


def test_a_renewal_that_the_members_own_key_did_not_sign_is_refused(town: Town) -> None:
    home = town.site("rossi")
    keys, stranger = keys_of(home, "rossi"), MemberKeys.generate(SpiffeId(FEDERATION, Role.SITE, "rossi"))
    csr, signature = make_renewal(stranger)  # who stole the certificate and its key, and nothing else
    with (
        pytest.raises(IdentityError, match="signed by the key that the roster has"),
        registry(home, keys, town.address) as stub,
    ):
        stub.Renew(pb.RenewCall(csr=csr, signature=signature), timeout=5)


def test_a_certificate_for_another_key_or_name_is_not_believed(town: Town) -> None:
    keys = keys_of(town.site("rossi"), "rossi")
    other, authority = (
        MemberKeys.generate(SpiffeId(FEDERATION, Role.SITE, "bianchi")),
        Authority.load(open_key_folder(town.home)),
    )
    wrong = (authority.issue(keys.id, other.tls.public_key()), authority.issue(other.id, keys.tls.public_key()))
    for der in (*(one.public_bytes(Encoding.DER) for one in wrong), b"", b"no certificate"):
        with pytest.raises(IdentityError, match="no certificate for this member's key"):
            checked_certificate(der, keys)


def test_a_server_that_was_away_is_found_again(town: Town) -> None:
    home = town.site("rossi")
    keeper = keeper_of(town, home)
    town.close()
    assert not keeper.look()
    assert "cannot be reached" in keeper.standing.trouble
    assert keeper.ended is None
    town.open()
    assert keeper.look()
    assert keeper.standing.trouble == ""


def test_a_revoked_site_ends_by_itself(town: Town) -> None:
    home, ended = town.site("rossi"), threading.Event()
    town.desk.revoke(Role.SITE, "rossi", "left")
    with keeper_of(town, home, ended.set) as keeper:
        assert ended.wait(20)
    assert isinstance(keeper.ended, NotAMemberError)
    assert "rossi is not an active member" in str(keeper.ended)


def test_a_roster_that_goes_backwards_is_refused_and_said(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a server that will not be told better; an honest one takes its own later roster back (test_backup)."""
    monkeypatch.setattr(Desk, "take_back", lambda *_: 1)
    home = town.site("rossi")
    old = town.home.roster.read_bytes()
    town.site("bianchi")
    keeper = keeper_of(town, home)
    assert keeper.look()
    version = known_roster(home).version
    town.home.roster.write_bytes(old)
    assert not keeper.look()
    assert "the roster goes backwards" in keeper.standing.trouble
    assert known_roster(home).version == version


def test_a_member_whose_certificate_ran_out_comes_back_by_a_file(town: Town) -> None:
    home = town.site("rossi")
    version = known_roster(home).version
    home.certificate.unlink()
    assert not keeper_of(town, home).look()
    town.site("rossi")  # request, approve, accept again: the same keys
    assert keeper_of(town, home).look()
    assert known_roster(home).version == version, "nobody joined anew"


def test_a_name_that_belongs_to_other_keys_is_not_given_away_by_a_file(town: Town, tmp_path: Path) -> None:
    town.site("rossi")
    thief = SiteHome(tmp_path / "thief")
    write_request(thief, SpiffeId(FEDERATION, Role.SITE, "rossi"), tmp_path / "thief.request")
    with pytest.raises(IdentityError, match="the name is taken by other keys"):
        town.desk.bring((tmp_path / "thief.request").read_bytes())


def test_a_grant_of_an_authority_that_is_not_believed_is_not_used(town: Town, tmp_path: Path) -> None:
    home = SiteHome(tmp_path / "rossi")
    write_request(home, SpiffeId(FEDERATION, Role.SITE, "rossi"), tmp_path / "rossi.request")
    grant = tmp_path / "rossi.grant"
    grant.write_bytes(town.desk.bring((tmp_path / "rossi.request").read_bytes()))
    with pytest.raises(IdentityError, match="was not believed"):
        read_grant(home, grant, frozenset({Role.SITE}), believed("00" * 32))
    with pytest.raises(IdentityError, match="for another role"):
        read_grant(home, grant, frozenset({Role.AUDITOR}), believed(town.authority))
    assert not home.settings.exists()


def test_a_member_goes_over_to_new_keys_and_the_old_ones_open_nothing(town: Town) -> None:
    home = town.site("rossi")
    before, old = keys_of(home, "rossi"), home.certificate.read_bytes()
    bystander = town.site("bianchi")
    rotate_keys(home, before.id, town.address)
    after = keys_of(home, "rossi")
    assert after.public != before.public
    assert open_house(town.home).roster[before.id] == after.identity.peer
    assert keeper_of(town, home).look(), "the new certificate opens the registry"
    assert keeper_of(town, bystander).look(), "others take the countersigned change"
    assert known_roster(bystander)[before.id] == after.identity.peer
    assert {path.name for path in home.root.iterdir() if path.name.startswith("keys")} == {"keys"}
    thief = MemberHome(town.root / "thief")
    thief.root.mkdir()
    thief.certificate.write_bytes(old)
    thief.authority_certificate.write_bytes(home.authority_certificate.read_bytes())
    with (
        pytest.raises(NotAMemberError, match="this certificate is for the old ones"),
        registry(thief, before, town.address) as stub,
    ):
        stub.GetRoster(pb.GetRosterCall(), timeout=5)


@pytest.mark.parametrize("step", range(1, 24))
def test_a_rotation_that_is_cut_off_at_any_step_goes_on(town: Town, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    home = town.site("rossi")
    before = keys_of(home, "rossi")
    cut_power(monkeypatch, step)
    monkeypatch.setattr(rotation, "CALL_S", 1)
    with contextlib.suppress(PowerCutError, ProcessError):
        rotate_keys(home, before.id, town.address)
    monkeypatch.undo()
    rotate_keys(home, before.id, town.address)
    after = keys_of(home, "rossi")
    assert open_house(town.home).roster[before.id] == after.identity.peer
    assert keeper_of(town, home).look()


def test_an_operator_on_another_machine_invites_approves_and_revokes(town: Town) -> None:
    office = RemoteOffice(town.operator("anna"))
    token = office.invite(Role.SITE, "verdi", dt.timedelta(hours=1), auto_approve=False)
    assert token.startswith("bottega_invitation_v1_")
    town.site("rossi")
    assert {row.spiffe_id.rpartition("/")[2]: row.status for row in office.members()} == {
        "anna": "approved", "rossi": "approved", "verdi": "invited",
    }  # fmt: skip
    assert office.revoke(Role.SITE, "rossi", "left").status == "revoked"
    assert SpiffeId(FEDERATION, Role.SITE, "rossi") not in office.roster()
    assert office.runs() == []
    with pytest.raises(IdentityError, match="there is no such run"):
        office.run("20260101-000000-abcd")


def test_an_operator_who_was_revoked_can_do_nothing(town: Town) -> None:
    office = RemoteOffice(town.operator("anna"))
    town.desk.revoke(Role.OPERATOR, "anna", "left")
    with pytest.raises(NotAMemberError, match="anna is not an active member"):
        office.runs()


def test_an_operator_is_told_when_the_server_is_away(town: Town) -> None:
    office = RemoteOffice(town.operator("anna"))
    town.close()
    with pytest.raises(ProcessError, match="the server cannot be reached"):
        office.runs()


def test_a_run_is_planned_for_active_sites_alone(town: Town) -> None:
    town.site("rossi")
    town.site("bianchi")
    town.desk.revoke(Role.SITE, "bianchi", "left")
    roster = open_house(town.home).roster
    operator = SpiffeId(FEDERATION, Role.OPERATOR, "operator")
    settings = RunSettings(quorum=1)
    assert plan_run(settings, operator, roster).sites == ("rossi",)
    with pytest.raises(RunError, match="no active sites; got bianchi, verdi"):
        plan_run(settings, operator, roster, ["rossi", "bianchi", "verdi"])


def test_a_suspended_site_is_asked_by_no_run_until_an_operator_reinstates_it(town: Town) -> None:
    town.site("rossi")
    with Store(town.home.database) as store:
        store.start_run("r", b"")
        for number in range(1, 4):
            store.open_round("r", number, "train", 4)
            store.record("r", number, Verdict("rossi", False, int(Check.ANOMALY), "anomaly"), {})
    office = RemoteOffice(town.operator("anna"))
    why = "rejected in 3 of its last 3 rounds"
    assert {row.spiffe_id.rpartition("/")[2]: row.suspended for row in office.members()}["rossi"] == why
    order = plan_run(RunSettings(quorum=1), office.operator.id, office.roster(), ["rossi"])
    with pytest.raises(RunError, match=r"suspended sites are asked; got rossi; .*bottega server reinstate NAME"):
        RunDesk(town.home).check_standing(order)
    with pytest.raises(IdentityError, match="there is no active site of this name; got 'verdi'"):
        office.reinstate("verdi", "why not")
    with pytest.raises(IdentityError, match="this is no reason that others can read"):
        office.reinstate("rossi", " ")
    assert office.reinstate("rossi", "they draw on black paper").status == "approved"
    RunDesk(town.home).check_standing(order)
    assert not any(row.suspended for row in office.members())
