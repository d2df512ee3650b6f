"""``bottega adapter`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from common.errors import BottegaError, HomeError, LedgerError, ProvenanceError
from common.export import WEIGHTS
from deploy.commands.adapter import adapter_app
from security.ledger_names import origin_of
from security.manifest import MANIFEST, VKEY
from security.note import NoteKey
from tests.ledgers import FEDERATION, a_server_home
from tests.releases import KEY, OTHER, released


def run(*words: str) -> Result:
    """Run a command that must not fail but by an exit code."""
    done = CliRunner().invoke(adapter_app, list(words), env={"COLUMNS": "200"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    released(tmp_path / "out")
    return tmp_path / "out"


def test_what_holds_is_said_and_ends_with_0(folder: Path) -> None:
    done = run("verify", str(folder), "--key", str(KEY))
    assert done.exit_code == 0
    assert "WRONG" not in done.stdout
    assert "everything holds" in done.stdout
    assert f"{WEIGHTS} is what was released" in done.stdout


def test_what_was_changed_is_named_and_ends_with_1(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"other")
    done = run("verify", str(folder / WEIGHTS), "--key", str(KEY))
    assert done.exit_code == 1
    assert f"WRONG  {WEIGHTS} is what was released: it was changed" in done.stdout


def test_without_a_key_it_is_held_against_its_own_word_and_ends_with_1(folder: Path) -> None:
    done = run("verify", str(folder))
    assert done.exit_code == 1
    assert "Nobody here vouches for this" in done.stderr
    told = json.loads(run("verify", str(folder), "--json").stdout)
    assert (told["holds"], told["vouched"], told["key"]) == (False, False, str(KEY))
    assert [one["what"] for one in told["checks"] if not one["holds"]] == [
        "the federation's key is known from elsewhere"
    ]


def test_json_has_every_check_and_the_manifest(folder: Path) -> None:
    done = run("verify", str(folder), "--key", str(KEY), "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["holds"], told["vouched"]) == (0, True, True)
    assert told["manifest"]["run"] == "run-1"


def test_a_servers_home_knows_its_own_key(tmp_path: Path, folder: Path) -> None:
    home, members, _ = a_server_home(tmp_path / "server")
    released(tmp_path / "theirs", members.server)
    assert run("verify", str(tmp_path / "theirs"), "--home", str(home.root)).exit_code == 0
    assert run("verify", str(folder), "--home", str(home.root)).exit_code == 1


def test_show_says_what_the_manifest_says_and_that_it_was_not_checked(folder: Path) -> None:
    done = run("show", str(folder))
    assert done.exit_code == 0
    assert "2 sites: anna, anonymous-0123456789abcdef" in done.stdout
    assert "each drawing: epsilon at most 8, delta 0.0001" in done.stdout
    assert "This is what it says of itself" in done.stderr
    assert json.loads(run("show", str(folder / MANIFEST), "--json").stdout)["verified"] is False


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["verify", "nowhere", "--key", str(KEY)], ProvenanceError, "nothing to check"),
        (["verify", ".", "--key", "studios.example"], LedgerError, "no key that notes are verified with"),
        (["verify", ".", "--home", "nowhere"], HomeError, "nobody who knows a federation"),
        (["verify", "owl.png", "--key", str(KEY)], ProvenanceError, "signed by whoever drew it"),
        (["show", "."], ProvenanceError, "no manifest beside"),
    ],
)
def test_bad_input_is_said_in_words(
    words: list[str], error: type[BottegaError], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        run(*words)


def test_files_without_a_manifest_do_not_hold(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(b"from somewhere")
    done = run("verify", str(tmp_path / WEIGHTS), "--key", str(KEY))
    assert done.exit_code == 1
    assert "WRONG  there is a manifest that can be read" in done.stdout


def test_a_wrong_key_is_said(folder: Path) -> None:
    other = NoteKey(origin_of(FEDERATION), OTHER.signing.public)
    done = run("verify", str(folder), "--key", str(other))
    assert done.exit_code == 1
    assert "WRONG  the manifest is signed by that key" in done.stdout


def test_a_key_may_be_given_as_a_file_that_came_by_another_way(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "studios.vkey").write_text(f"{KEY}\n")
    assert run("verify", str(folder), "--key", str(tmp_path / "studios.vkey")).exit_code == 0
    (tmp_path / "other.vkey").write_text(f"{NoteKey(origin_of(FEDERATION), OTHER.signing.public)}\n")
    assert run("verify", str(folder), "--key", str(tmp_path / "other.vkey")).exit_code == 1


@pytest.mark.parametrize("name", ["", WEIGHTS], ids=["folder", "file"])
def test_the_key_that_lies_with_a_release_vouches_for_nothing(name: str, folder: Path) -> None:
    with pytest.raises(ProvenanceError, match="vouches for nothing"):
        run("verify", str(folder / name), "--key", str(folder / VKEY))


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"studios.example", b"x" * 5000], ids=["none", "no text", "a name", "long"]
)
def test_a_file_that_holds_no_key_is_refused(content: bytes, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(content)
    for given in (tmp_path / "key", tmp_path, tmp_path / "missing"):
        with pytest.raises(LedgerError, match="no key that notes are verified with"):
            run("verify", str(folder), "--key", str(given))
