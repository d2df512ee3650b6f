"""An auditor on another machine: the record over the registry, verified, kept, and followed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from client.cli_belief import believed
from client.moving_in import move_in_member
from client.offline import read_grant, write_request
from common.errors import HomeError, ProcessError
from common.paths import MemberHome
from common.settings import MemberSettings, read_toml
from deploy.commands.audit import audit_app
from deploy.records import Place, open_record
from security.audit import mirror
from security.audit.mirror import ForkError
from security.calling import NotAMemberError
from security.names import Role, SpiffeId
from server.house import open_house
from server.limits import RateLimit
from server.opening import desk_of
from tests.integration.registry_federation import a_registry
from tests.integration.town import FEDERATION, Town, a_town


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with a_town(tmp_path) as opened:
        yield opened


def joined(town: Town, name: str, role: Role) -> MemberHome:
    """Join by files, as an operator or an auditor."""
    home = MemberHome(town.root / name)
    write_request(home, SpiffeId(FEDERATION, role, name), town.root / f"{name}.request")
    grant = town.root / f"{name}.grant"
    grant.write_bytes(town.desk.bring((town.root / f"{name}.request").read_bytes()))
    move_in_member(home, read_grant(home, grant, frozenset({role}), believed(town.authority)))
    return home


def entries(home: MemberHome, *, offline: bool = False) -> list[str]:
    with open_record(Place(home.root, offline=offline)) as record:
        return [line.entry.kind for line in record.lines()]


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.OPERATOR])
def test_a_member_elsewhere_reads_and_verifies_the_whole_record(town: Town, role: Role) -> None:
    home = joined(town, "uffizi", role)
    found = entries(home)
    assert (found[0], found.count("joined")) == ("founded", 2)
    done = CliRunner().invoke(audit_app, ["verify", "--home", str(home.root), "--json"])
    told = json.loads(done.stdout)
    assert (done.exit_code, told["holds"], told["pinned"]) == (0, True, True)
    assert told["covered_by_a_checkpoint"] == told["entries"]


def test_what_is_written_later_comes_with_the_next_look(town: Town) -> None:
    home = joined(town, "uffizi", Role.AUDITOR)
    before = entries(home)
    town.site("rossi")
    with open_record(Place(home.root)) as record:
        assert record.reader.size() > len(before)
        size = record.reader.size()
        town.site("bianchi")
        record.refresh()
        assert record.reader.size() > size


def test_a_copy_is_read_while_the_server_is_away(town: Town) -> None:
    home = joined(town, "uffizi", Role.AUDITOR)
    before = entries(home)
    town.close()
    with pytest.raises(ProcessError, match="--offline"):
        entries(home)
    assert entries(home, offline=True) == before


def test_a_server_that_lost_entries_is_caught_by_the_auditor_and_can_be_believed_anew(town: Town) -> None:
    home = joined(town, "uffizi", Role.AUDITOR)
    database = town.home.database
    town.close()
    with open_record(Place(town.home.root), sign=True):
        backup = {file: file.read_bytes() for file in database.parent.glob("bottega.db*")}
    town.open()
    town.site("rossi")
    entries(home)
    town.close()
    for file in database.parent.glob("bottega.db*"):
        file.unlink()
    for file, content in backup.items():
        file.write_bytes(content)
    reopened = Town(town.root, town.home, town.port, town.door, desk_of(open_house(town.home), {}))
    reopened.open()
    try:
        with pytest.raises(ForkError):
            entries(home)
        assert len(list((home.root / "evidence").glob("*.note"))) == 2
        done = CliRunner().invoke(audit_app, ["sync", "--home", str(home.root), "--begin-anew", "--json"])
        assert json.loads(done.stdout)["entries"] > 0
        assert entries(home)[0] == "founded"
    finally:
        reopened.close()


def test_a_site_is_not_shown_the_whole_record(town: Town) -> None:
    site = town.site("rossi")
    with pytest.raises(HomeError, match="site receipts"):
        entries(MemberHome(site.root))


def test_who_was_revoked_gets_nothing_more_and_keeps_what_there_is(town: Town) -> None:
    home = joined(town, "uffizi", Role.AUDITOR)
    before = entries(home)
    town.desk.revoke(Role.AUDITOR, "uffizi", "left")
    with pytest.raises(NotAMemberError):
        entries(home)
    assert entries(home, offline=True) == before


def test_the_record_of_the_servers_home_is_the_one_that_is_handed_out(town: Town) -> None:
    home = joined(town, "uffizi", Role.AUDITOR)
    with open_record(Place(home.root)) as mine, open_record(Place(town.home.root)) as theirs:
        assert list(mine.reader.entries()) == list(theirs.reader.entries(0, mine.reader.size()))


def test_a_server_that_has_little_time_is_asked_again(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    home = joined(town, "uffizi", Role.AUDITOR)
    for name in ("rossi", "bianchi", "verdi"):
        town.site(name)
    monkeypatch.setattr(mirror, "ENTRIES_AT_ONCE", 1)
    with a_registry(town, RateLimit(per_second=20, burst=6)) as port:
        settings = read_toml(MemberSettings, home.settings).model_copy(update={"registry": f"127.0.0.1:{port}"})
        home.settings.write_text(tomli_w.dumps(settings.model_dump(mode="json")))
        assert entries(home).count("joined") == 5


@pytest.mark.parametrize("beside", [True, False])
def test_watch_shows_entries_as_they_come_and_ends_cleanly(town: Town, beside: bool) -> None:
    home = town.home.root if beside else joined(town, "uffizi", Role.AUDITOR).root
    words = [sys.executable, "-P", "-m", "deploy.cli", "audit", "watch", "--home", str(home), "--json", "--last", "1"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout
        first = json.loads(watching.stdout.readline())
        town.site("rossi")
        kinds = [json.loads(watching.stdout.readline())["kind"] for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=60)
    assert (first["kind"], sorted(kinds)) == ("roster-signed", ["joined", "roster-signed"])
    assert (watching.returncode, "Traceback" in errors) == (0, False)
