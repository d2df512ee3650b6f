"""``bottega audit`` on the command line: in a server's home, on a bundle, in a home that a bundle was imported into."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from common.errors import BottegaError, HomeError, LedgerError, SettingsError
from common.paths import ServerHome
from deploy.commands.audit import audit_app
from security.audit.mirror import ForkError
from security.entries import Entry, Reinstated
from server.founding import found
from server.settings import ServerSettings
from tests.ledgers import FEDERATION, RUN, Members, a_server_home, write_ledger

COMMANDS = ("rounds", "show", "verify", "site", "privacy", "watch", "sync", "export", "import", "report", "attack")


class Standing:
    """A server's home and a bundle of it, for tests that change nothing."""

    def __init__(self, folder: Path) -> None:
        self.home, self.members, self.story = a_server_home(folder / "server")
        self.bundle = folder / "record.zip"
        done = run("export", str(self.bundle), "--home", str(self.home.root), "--json")
        self.exported = json.loads(done.stdout)


def run(*words: str) -> Result:
    """Run a command that must not fail by an error of ours."""
    done = CliRunner().invoke(audit_app, list(words), env={"COLUMNS": "200"}, catch_exceptions=True)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def facts(*words: str) -> Any:  # noqa: ANN401 (any JSON)
    return json.loads(run(*words, "--json").stdout)


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Standing:
    return Standing(tmp_path_factory.mktemp("standing"))


def at(standing: Standing) -> list[str]:
    return ["--home", str(standing.home.root)]


def test_every_command_has_help_that_says_what_it_is_for() -> None:
    for command in COMMANDS:
        done = CliRunner().invoke(audit_app, [command, "--help"], env={"COLUMNS": "200"})
        assert (done.exit_code, len(done.stdout) > 200) == (0, True)
    text = CliRunner().invoke(audit_app, ["verify", "--help"], env={"COLUMNS": "200"}).stdout
    for name in ("RFC 6962", "tlog-checkpoint", "cosignature/v1", "RFC 8785", "sumdb/note"):
        assert name in text


def test_rounds_lists_what_came_of_each(standing: Standing) -> None:
    done = run("rounds", *at(standing))
    assert "3 of 4" in done.stdout
    assert "rossi, vandal" in done.stdout
    assert "bottega audit show" in done.stderr
    told = facts("rounds", *at(standing))
    assert [one["round"] for one in told] == [1, 2, 3, 4]


def test_rounds_are_filtered_and_come_as_csv(standing: Standing) -> None:
    assert [one["round"] for one in facts("rounds", "last", "--verdict", "clipped", *at(standing))] == [3]
    assert [one["round"] for one in facts("rounds", "--run", RUN, "--site", "rossi", "--verdict", "refused",
                                          *at(standing))] == [2]  # fmt: skip
    assert facts("rounds", "--since", "2099-01-01", *at(standing)) == []
    assert "no such round" in run("rounds", "--since", "2099-01-01", *at(standing)).stdout
    read = list(csv.DictReader(io.StringIO(run("rounds", "--csv", *at(standing)).stdout)))
    assert [one["left_out"] for one in read] == ["vandal", "rossi vandal", "vandal", ""]


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["rounds", "--verdict", "nice"], SettingsError, "--verdict does not fit"),
        (["rounds", "--since", "soon"], SettingsError, "--since is no time"),
        (["rounds", "nothing"], LedgerError, "knows no such run"),
        (["show", "last", "9"], LedgerError, "no such round"),
        (["site", "nobody"], LedgerError, "no such site"),
        (["report", "nothing"], LedgerError, "knows no such run"),
        (["verify", "--seen", "nothing.note"], LedgerError, "cannot be read"),
        (["verify", "--bundle", "nothing.zip"], LedgerError, "cannot be read"),
        (["verify", "--bundle", "nothing.zip", "--key", "x"], LedgerError, "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    standing: Standing, words: list[str], error: type[BottegaError], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        run(*words, *at(standing))
    assert str(caught.value).endswith(".")


def test_show_tells_verdicts_reasons_and_entries(standing: Standing) -> None:
    done = run("show", "last", "2", *at(standing))
    for words in ("rejected", "17 anomaly", "0.004", "no answer by the round's deadline", "2 in-time"):
        assert words in done.stdout
    told = facts("show", "last", "2", *at(standing))
    assert [one["site"] for one in told["updates"]] == ["bianchi", "rossi", "vandal", "verdi"]


def test_verify_says_that_a_sound_record_holds(standing: Standing) -> None:
    done = run("verify", *at(standing))
    assert (done.exit_code, "the record holds" in done.stdout) == (0, True)
    told = facts("verify", *at(standing))
    assert told["holds"]
    assert told["entries"] == told["holds_to"]
    assert told["cosigned_by"] == dict.fromkeys(("bianchi", "rossi", "verdi"), told["covered_by_a_checkpoint"] - 2)


def test_site_tells_everything_of_one(standing: Standing) -> None:
    done = run("site", "rossi", *at(standing))
    for words in ("2 admitted", "1 refused", "belongs to the federation", "4.5"):
        assert words in done.stdout
    assert facts("site", "vandal", *at(standing))["status"] == "revoked"


def test_privacy_tells_what_runs_cost_sites(standing: Standing) -> None:
    done = run("privacy", *at(standing))
    assert "1.5  3  4.5" in done.stdout
    told = facts("privacy", "last", "--site", "verdi", *at(standing))
    assert [(one["site"], one["epsilon"], one["limit_epsilon"]) for one in told] == [("verdi", 4.5, 8.0)]
    assert "no such run or site" in run("privacy", "--site", "nobody", *at(standing)).stdout


def test_a_bundle_says_the_same_as_the_home_it_came_from(standing: Standing) -> None:
    bundle = ["--bundle", str(standing.bundle)]
    for words in (["rounds"], ["show", "last", "2"], ["privacy"]):
        assert facts(*words, *bundle) == facts(*words, *at(standing))
    told = facts("verify", *bundle)
    assert (told["holds"], told["pinned"]) == (True, False)
    assert "key-by-its-own-word" in [one["what"] for one in told["remarks"]]
    told = facts("verify", *bundle, "--key", told["key"])
    assert told["pinned"]
    assert facts("verify", *bundle, *at(standing))["pinned"]


def test_the_servers_home_is_only_read(standing: Standing) -> None:
    before = standing.home.database.read_bytes()
    for words in (["rounds"], ["show", "last", "1"], ["verify"], ["site", "rossi"], ["privacy"]):
        run(*words, *at(standing))
    assert standing.home.database.read_bytes() == before


def test_an_imported_home_is_read_without_any_server(standing: Standing, tmp_path: Path) -> None:
    home = tmp_path / "kept"
    key = facts("verify", *at(standing))["key"]
    told = facts("import", str(standing.bundle), "--home", str(home), "--key", key)
    assert told["entries"] == told["fresh"] == standing.exported["entries"]
    assert facts("rounds", "--home", str(home)) == facts("rounds", *at(standing))
    told = facts("verify", "--home", str(home))
    assert (told["holds"], told["pinned"]) == (True, True)
    assert facts("import", str(standing.bundle), "--home", str(home))["fresh"] == 0
    again = tmp_path / "again.zip"
    run("export", str(again), "--home", str(home))
    assert facts("verify", "--bundle", str(again), "--key", key)["holds"]


def test_importing_without_a_home_looks_and_keeps_nothing(standing: Standing, tmp_path: Path) -> None:
    told = facts("import", str(standing.bundle))
    assert (told["home"], told["entries"]) == (None, standing.exported["entries"])
    assert list(tmp_path.iterdir()) == []


def test_an_export_takes_the_place_of_nothing(standing: Standing, tmp_path: Path) -> None:
    (tmp_path / "there.zip").write_text("mine")
    with pytest.raises(LedgerError, match="already exists"):
        run("export", str(tmp_path / "there.zip"), *at(standing))
    assert (tmp_path / "there.zip").read_text() == "mine"


def test_a_report_is_a_page_and_a_document(standing: Standing, tmp_path: Path) -> None:
    told = facts("report", "last", "--out", str(tmp_path / "out"), *at(standing))
    assert [Path(file).name for file in told["files"]] == ["report.html", "report.pdf"]
    assert told["holds"]
    assert (tmp_path / "out" / "report.pdf").read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize("folder", ["nothing", "site"])
def test_a_folder_without_a_record_is_refused_with_what_to_do(folder: str, tmp_path: Path) -> None:
    home = tmp_path / folder
    home.mkdir()
    if folder == "site":
        (home / "site.toml").write_text("")
    with pytest.raises(HomeError) as caught:
        run("rounds", "--home", str(home))
    assert ("site receipts" in str(caught.value)) is (folder == "site")
    with pytest.raises(HomeError):
        run("sync", "--home", str(home))


def test_a_member_without_a_copy_cannot_read_offline(tmp_path: Path) -> None:
    (tmp_path / "member.toml").write_text("")
    with pytest.raises(HomeError, match="no copy of the record"):
        run("rounds", "--home", str(tmp_path), "--offline")
    assert not (tmp_path / "ledger.db").exists()


EMPTY = (
    "DELETE FROM ledger_cosignatures", "DELETE FROM ledger_checkpoints", "DELETE FROM ledger_entries",
    "DELETE FROM ledger_nodes", "DELETE FROM ledger_keys",
)  # fmt: skip
TURNED = """UPDATE ledger_entries SET entry =
CAST(replace(CAST(entry AS TEXT), 'rejected', 'admitted') AS BLOB) WHERE "index" = 15"""


def a_fresh_home(tmp_path: Path) -> tuple[ServerHome, Members]:
    home, members, _ = a_server_home(tmp_path / "server")
    return home, members


def tampered(home: ServerHome, *statements: str) -> None:
    """Change the server's file as who has it can: the triggers go first."""
    with closing(sqlite3.connect(home.database, isolation_level=None)) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(statement)


def test_a_changed_entry_is_named_and_verify_exits_with_1(tmp_path: Path) -> None:
    home, _ = a_fresh_home(tmp_path)
    tampered(home, TURNED)
    done = CliRunner().invoke(audit_app, ["verify", "--home", str(home.root)], env={"COLUMNS": "200"})
    assert done.exit_code == 1
    assert "the record does not hold" in done.stdout
    assert "entry 15" in done.stdout
    told = json.loads(CliRunner().invoke(audit_app, ["verify", "--home", str(home.root), "--json"]).stdout)
    assert ("entry", 15) in [(one["what"], one["entry"]) for one in told["faults"]]
    assert told["holds_to"] == 0, "no checkpoint before that vouches for anything"


def test_a_record_that_tells_nonsense_is_found_although_every_hash_is_right(tmp_path: Path) -> None:
    home, members = a_fresh_home(tmp_path)
    stranger = Reinstated(
        at="2099-01-01T00:00:00.000Z", member=f"spiffe://{FEDERATION}/site/nobody", reason="why not",
        by=f"spiffe://{FEDERATION}/operator/anna",
    )  # fmt: skip
    write_ledger(home.database, members, [stranger])
    done = CliRunner().invoke(audit_app, ["verify", "--home", str(home.root), "--json"])
    told = json.loads(done.stdout)
    assert (done.exit_code, [one["what"] for one in told["faults"]]) == (1, ["reinstated-stranger"])
    assert told["faults"][0]["entry"] == told["entries"] - 1


def test_a_checkpoint_that_somebody_else_was_shown_tells_of_a_fork(tmp_path: Path) -> None:
    home, members = a_fresh_home(tmp_path)
    other: Sequence[Entry] = []
    from security.audit.mirror import Mirror
    from tests.ledgers import Story

    story = Story()
    story.found(members.server.signing.public.raw, "0" * 64)
    other = story.entries
    write_ledger(tmp_path / "other.db", members, other)
    with Mirror(tmp_path / "other.db") as shown:
        latest = shown.reader.latest_checkpoint()
    assert latest
    (tmp_path / "seen.note").write_bytes(latest.note)
    done = CliRunner().invoke(
        audit_app, ["verify", "--home", str(home.root), "--seen", str(tmp_path / "seen.note"), "--json"]
    )
    assert (done.exit_code, [one["what"] for one in json.loads(done.stdout)["faults"]]) == (1, ["fork"])


def test_a_ledger_of_nothing_but_its_beginning_has_no_run(tmp_path: Path) -> None:
    home = ServerHome(tmp_path / "server")
    found(home, ServerSettings(federation=FEDERATION), ["127.0.0.1"])
    assert "no run yet" in run("rounds", "--home", str(home.root)).stdout
    assert facts("privacy", "--home", str(home.root)) == []
    assert run("verify", "--home", str(home.root)).exit_code == 0


def test_a_server_from_before_the_ledger_says_so(tmp_path: Path) -> None:
    home = ServerHome(tmp_path / "server")
    found(home, ServerSettings(federation=FEDERATION), ["127.0.0.1"])
    for file in home.root.glob("bottega.db*"):
        file.unlink()
    with pytest.raises(LedgerError):
        run("rounds", "--home", str(home.root))


def test_a_bundle_that_contradicts_a_home_is_refused_with_evidence(standing: Standing, tmp_path: Path) -> None:
    home, _ = a_fresh_home(tmp_path)
    kept = tmp_path / "kept"
    run("export", str(tmp_path / "one.zip"), "--home", str(home.root))
    run("import", str(tmp_path / "one.zip"), "--home", str(kept))
    tampered(
        home, *EMPTY[:2], 'DELETE FROM ledger_entries WHERE "index" > 19', "DELETE FROM ledger_nodes WHERE place > 17"
    )
    run("export", str(tmp_path / "two.zip"), "--home", str(home.root))
    with pytest.raises(ForkError, match="has lost entries"):
        run("import", str(tmp_path / "two.zip"), "--home", str(kept))
    assert len(list((kept / "evidence").glob("*.note"))) == 2


def test_a_ledger_of_zero_entries_is_said_to_be_so_and_does_not_hold(tmp_path: Path) -> None:
    home, _ = a_fresh_home(tmp_path)
    tampered(home, *EMPTY)
    done = CliRunner().invoke(audit_app, ["verify", "--home", str(home.root)], env={"COLUMNS": "200"})
    assert (done.exit_code, "the ledger holds no entry" in done.stdout) == (1, True)
    assert "no run yet" in run("rounds", "--home", str(home.root)).stdout
