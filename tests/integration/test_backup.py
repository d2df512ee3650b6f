"""A server that was lost comes back: from one encrypted file, and from what its members know."""

from __future__ import annotations

import datetime as dt
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.keeper import Keeper
from client.rotation import rotate_keys
from client.settling import known_roster
from common.errors import BottegaError, HomeError, IdentityError, VaultError
from common.paths import ServerHome, SiteHome
from common.proto import registry_pb2 as pb
from common.settings import RunSettings
from security.calling import NotAMemberError, registry
from security.enrolment import MemberKeys, make_request
from security.membership import refresh_roster
from security.names import Role, SpiffeId
from security.passphrase import PASSPHRASE_FILE
from security.run_order import sign_order
from security.vault import change_passphrase
from server.backup import read_backup, restore, write_backup
from server.cli import server_app
from server.house import open_house
from server.opening import desk_of
from server.operating import load_operator
from server.planning import plan_run
from server.run_desk import RunDesk
from server.store import Store
from tests.integration.town import FEDERATION, Town, a_town, book_in, keys_of

PASSPHRASE = "sfumato"
HOUR = dt.timedelta(hours=1)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with a_town(tmp_path) as town:
        yield town


def lost_and_restored(town: Town, backup: Path) -> None:
    """Lose the server's home, and put it back from a backup; the ports and the members stay."""
    town.close()
    shutil.rmtree(town.home.root)
    restore(backup, PASSPHRASE, town.home)
    town.desk = desk_of(open_house(town.home), {})
    town.open()


def backed_up(town: Town) -> Path:
    file = town.root / "federation.backup"
    write_backup(town.home, file, PASSPHRASE)
    return file


def kept(folder: Path, leave: set[str]) -> dict[str, bytes]:
    """Return the small files of a home by name; not those that a backup does not hold."""
    found = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}
    return {name: file.read_bytes() for name, file in found.items() if not leave & {name.split("/")[0]}}


def look(town: Town, home: SiteHome) -> bool:
    return Keeper(home, keys_of(home, home.root.name), town.address, book_in(home, town), lambda: None).look()


# --- the file ---


def test_a_restored_home_is_the_one_that_was_backed_up(town: Town) -> None:
    town.site("rossi")
    leave = {"roster.lock", "runs", "flower", "restored", "bottega.db", "bottega.db-wal", "bottega.db-shm"}
    before, applicants = kept(town.home.root, leave), town.desk.applicants()
    backup, home = backed_up(town), ServerHome(town.root / "restored")
    assert restore(backup, PASSPHRASE, home) == open_house(town.home).roster.version
    assert kept(home.root, leave) == before
    assert desk_of(open_house(home), {}).applicants() == applicants
    for path in home.root.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_nothing_of_the_home_can_be_read_in_a_backup(town: Town) -> None:
    content = backed_up(town).read_bytes()
    told = [town.home.settings, town.home.certificate, town.home.vault_key, town.home.roster]
    for part in (FEDERATION.encode(), b"BEGIN", b"SQLite", *(file.read_bytes()[-24:] for file in told)):
        assert part not in content
    assert stat.S_IMODE((town.root / "federation.backup").stat().st_mode) == 0o600


def test_a_backup_made_while_the_store_is_written_to_holds_a_whole_one(town: Town) -> None:
    with Store(town.home.database) as store:
        store.start_run("one", b"order")
        with store._write() as db:
            db.execute("UPDATE runs SET status = 'half way'")
            backup = backed_up(town)
        assert store.run("one").status == "half way"
    home = ServerHome(town.root / "restored")
    restore(backup, PASSPHRASE, home)
    with Store(home.database) as store:
        assert store.run("one").status == "running"


def test_a_backup_is_never_laid_over_another_file(town: Town) -> None:
    backup = backed_up(town)
    before = backup.read_bytes()
    with pytest.raises(VaultError, match="already exists"):
        write_backup(town.home, backup, PASSPHRASE)
    assert backup.read_bytes() == before


def test_another_passphrase_opens_nothing_and_leaves_nothing(town: Town) -> None:
    backup, home = backed_up(town), ServerHome(town.root / "restored")
    with pytest.raises(VaultError, match="the passphrase does not open"):
        restore(backup, "chiaroscuro", home)
    assert not home.root.exists()


def test_a_home_in_which_something_is_is_left_alone(town: Town) -> None:
    backup, home = backed_up(town), ServerHome(town.root / "taken")
    home.root.mkdir()
    (home.root / "letter").write_text("dear all")
    with pytest.raises(HomeError, match="there is something in this folder"):
        restore(backup, PASSPHRASE, home)
    assert [file.name for file in home.root.iterdir()] == ["letter"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with a_town(tmp_path_factory.mktemp("backup")) as town:
        return backed_up(town)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_a_backup_that_was_changed_or_cut_short_is_refused(
    whole: Path, tmp_path: Path, at: float, flip: int, cut: bool
) -> None:
    content = bytearray(whole.read_bytes())
    place = int(at * len(content))
    if cut:
        content = content[:place]
    else:
        content[place] ^= flip
    file = tmp_path / "changed"
    file.write_bytes(content)
    with pytest.raises(VaultError):
        restore(file, PASSPHRASE, ServerHome(tmp_path / "home"))
    assert [path.name for path in tmp_path.iterdir()] == ["changed"]


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "keys/../../outside", "runs/one/state", ".hidden"])
def test_a_backup_with_a_file_that_belongs_elsewhere_is_refused(
    whole: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server import backup as module

    true = dict(read_backup(whole, PASSPHRASE).files)
    monkeypatch.setattr(module, "_contents", lambda _: iter({**true, name: b"x"}.items()))
    forged = ServerHome(tmp_path / "server")
    forged.root.mkdir()
    forged.settings.write_text("")
    with pytest.raises(VaultError, match="files that are not known here"):
        write_backup(forged, tmp_path / "forged", PASSPHRASE)
    with pytest.raises(VaultError, match="files that are not known here"):
        restore(tmp_path / "forged", PASSPHRASE, ServerHome(tmp_path / "home"))
    assert not (tmp_path / "home").exists()


def test_a_backup_of_which_a_key_is_missing_is_refused_before_anything_is_kept(town: Town) -> None:
    (town.home.keys / "authority.key").unlink()
    backup, home = backed_up(town), ServerHome(town.root / "restored")
    with pytest.raises(VaultError, match=r"authority\.key"):
        restore(backup, PASSPHRASE, home)
    assert not home.root.exists()


def test_a_home_under_a_passphrase_is_backed_up_under_both(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    own = town.root / "own"
    own.touch(mode=0o600)
    own.write_text("the home's own\n")
    for home in (town.home, town.home.operator):
        change_passphrase(home.vault_key, None, "the home's own")
    backup, restored = backed_up(town), ServerHome(town.root / "restored")
    with pytest.raises(VaultError, match="Let BOTTEGA_PASSPHRASE_FILE name a file"):
        restore(backup, PASSPHRASE, restored)
    monkeypatch.setenv(PASSPHRASE_FILE, str(own))
    assert restore(backup, PASSPHRASE, restored) == open_house(town.home).roster.version


# --- what members bring back ---


def test_an_invitation_from_before_the_backup_lets_nobody_in_after_a_restore(town: Town) -> None:
    """It may have been used since, and the restored store does not know."""
    invitation = town.desk.invite(Role.SITE, "verdi", dt.timedelta(hours=1), auto_approve=True)
    backup = backed_up(town)
    lost_and_restored(town, backup)
    keys = MemberKeys.generate(invitation.spiffe_id)
    with pytest.raises(IdentityError, match="the invitation has expired"):
        town.desk.ask(make_request(keys, invitation=invitation, now_ms=int(time.time() * 1000)))
    with pytest.raises(HomeError, match="restored from a backup"):
        town.desk.invite(Role.SITE, "verdi", dt.timedelta(hours=1), auto_approve=True)


def test_members_bring_back_who_joined_and_who_left_since_the_backup(town: Town) -> None:
    first, leaver = town.site("first"), town.site("leaver")
    backup = backed_up(town)
    late = town.site("late")
    town.desk.revoke(Role.SITE, "leaver", "has left")
    assert look(town, first)
    lost_and_restored(town, backup)
    assert look(town, leaver), "the backup has forgotten the revocation; nobody has said otherwise yet"
    assert not look(town, first), "it saw more of the ledger than there is now, and says so"
    roster = open_house(town.home).roster
    assert roster.version == known_roster(first).version
    assert {peer.id.name for peer in roster} >= {"first", "late"}
    assert not roster.member(SpiffeId(FEDERATION, Role.SITE, "leaver")).active
    assert not look(town, leaver)
    assert look(town, late)
    book_in(first, town).witness.forget()
    assert look(town, first), "its operator knows of the backup"


def test_a_member_whom_the_backup_does_not_know_brings_itself_back(town: Town) -> None:
    backup = backed_up(town)
    late = town.site("late")
    lost_and_restored(town, backup)
    assert SpiffeId(FEDERATION, Role.SITE, "late") not in open_house(town.home).roster
    assert look(town, late)
    assert SpiffeId(FEDERATION, Role.SITE, "late") in open_house(town.home).roster


def test_a_member_who_went_over_to_new_keys_since_the_backup_brings_them_back(town: Town) -> None:
    home = town.site("rossi")
    backup = backed_up(town)
    rotate_keys(home, keys_of(home, "rossi").id, town.address)
    lost_and_restored(town, backup)
    assert look(town, home)
    assert (
        open_house(town.home).roster.member(keys_of(home, "rossi").id).keys.verify
        == keys_of(home, "rossi").public.verify
    )


def test_a_member_who_was_revoked_cannot_undo_it_with_the_roster_from_before(town: Town) -> None:
    leaver = town.site("leaver")
    town.desk.revoke(Role.SITE, "leaver", "has left")
    held = open_house(town.home).roster
    with pytest.raises(NotAMemberError), registry(leaver, keys_of(leaver, "leaver"), town.address) as stub:
        refresh_roster(leaver, stub)
    assert open_house(town.home).roster == held


def test_who_was_revoked_cannot_even_offer_a_roster_in_ordinary_times(town: Town) -> None:
    leaver = town.site("leaver")
    call = pb.ReturnRosterCall(roster=leaver.roster.read_bytes())
    with registry(leaver, keys_of(leaver, "leaver"), town.address) as stub:
        assert stub.ReturnRoster(call).version == open_house(town.home).roster.version
    town.desk.revoke(Role.SITE, "leaver", "has left")
    with pytest.raises(NotAMemberError), registry(leaver, keys_of(leaver, "leaver"), town.address) as stub:
        stub.ReturnRoster(call)


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(2**20)])
def test_what_this_server_did_not_sign_is_not_taken_back(town: Town, content: bytes) -> None:
    rossi, held = town.site("rossi"), open_house(town.home).roster
    with pytest.raises(IdentityError), registry(rossi, keys_of(rossi, "rossi"), town.address) as stub:
        stub.ReturnRoster(pb.ReturnRosterCall(roster=content))
    assert open_house(town.home).roster == held


def test_until_the_operator_says_that_all_have_called_nothing_rests_on_the_restored_roster(town: Town) -> None:
    rossi = town.site("rossi")
    lost_and_restored(town, backed_up(town))
    operator = load_operator(town.home.operator).identity
    order = sign_order(plan_run(RunSettings(quorum=1), operator.id, open_house(town.home).roster, ["rossi"]), operator)
    steps: list[Callable[[], object]] = [
        lambda: town.desk.revoke(Role.SITE, "rossi", "has left"),
        lambda: town.site("late"),
        lambda: RunDesk(town.home).start(order, operator.id),
        lambda: RunDesk(town.home).resume("any"),
    ]
    for step in steps:
        with pytest.raises(HomeError, match=r"restored from a backup.*`bottega server restored`"):
            step()
    assert look(town, rossi)
    said = CliRunner().invoke(server_app, ["restored", "--home", str(town.home.root)])
    assert said.exit_code == 0, said.output
    assert not town.desk.revoke(Role.SITE, "rossi", "has left").active
    with pytest.raises(BottegaError) as refusal:
        RunDesk(town.home).start(order, operator.id)
    assert "restored" not in str(refusal.value)


# --- the commands ---


def test_the_commands_back_up_and_restore_with_a_passphrase_from_a_file(town: Town) -> None:
    secret, file, home = town.root / "secret", town.root / "b", town.root / "again"
    secret.touch(mode=0o600)
    secret.write_text(PASSPHRASE + "\n")
    run = CliRunner()
    made = run.invoke(
        server_app, ["backup", str(file), "--home", str(town.home.root), "--passphrase-file", str(secret)]
    )
    assert made.exit_code == 0, made.output
    assert "read back and the same" in made.output
    back = run.invoke(server_app, ["restore", str(file), "--home", str(home), "--passphrase-file", str(secret)])
    assert back.exit_code == 0, back.output
    assert "bottega server restored" in back.output
    assert open_house(ServerHome(home)).roster == open_house(town.home).roster


def test_without_anybody_to_ask_the_passphrase_must_be_in_a_file(town: Town) -> None:
    said = CliRunner().invoke(server_app, ["backup", str(town.root / "b"), "--home", str(town.home.root)])
    assert "nobody is here to ask" in str(said.exception)
    assert not (town.root / "b").exists()
