"""``bottega adapter show PICTURE``: what credentials say, where they hold, and nothing that a stranger could misuse."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from common.errors import ProvenanceError
from deploy.commands.adapter import adapter_app
from deploy.credentials import Credentials, facts_of
from deploy.picture_facts import facts_of_picture
from security.content_id import content_id
from tests.ledgers import FEDERATION
from tests.releases import KEY, released


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return Credentials.in_folder(tmp_path_factory.mktemp("credentials"))


def plain() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(out, "PNG")
    return out.getvalue()


def picture(folder: Path, signing: Credentials, facts: dict[str, Any]) -> Path:
    (folder / "drawing.png").write_bytes(signing.signed(plain(), facts))
    return folder / "drawing.png"


def show(*words: str) -> Result:
    done = CliRunner().invoke(adapter_app, ["show", *words], env={"COLUMNS": "200"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_a_picture_tells_what_drew_it_and_that_nobody_vouches_for_it(tmp_path: Path, signing: Credentials) -> None:
    digest = released(tmp_path / "out").adapter.digest
    file = picture(tmp_path, signing, facts_of("ab" * 32, tmp_path / "out"))
    facts = json.loads(show(str(file), "--json").stdout)
    assert facts == {
        "drawn by": "a model", "base, SHA-256": "ab" * 32, "adapter, SHA-256": digest,
        "adapter, CID": content_id(bytes.fromhex(digest)), "federation": FEDERATION, "its key": str(KEY),
        "run": "run-1", "round": "3", "unchanged": True, "vouched": False,
    }  # fmt: skip
    done = show(str(file))
    assert digest in done.stdout
    assert "Nobody here vouches for who signed it" in done.stderr


def test_a_picture_that_was_changed_is_refused(tmp_path: Path, signing: Credentials) -> None:
    file = picture(tmp_path, signing, {"run": "run-1"})
    content = file.read_bytes()
    assert content.count(b"run-1") == 1
    file.write_bytes(content.replace(b"run-1", b"run-2"))
    with pytest.raises(ProvenanceError, match="do not hold"):
        show(str(file))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (plain(), "no content credentials"),
        (b"", "cannot be read"),
        (b"no picture", "cannot be read"),
        (None, "cannot be read"),
    ],
    ids=["unsigned", "empty", "no picture", "missing"],
)
def test_what_is_no_signed_picture_is_refused_in_words(content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "it.png").write_bytes(content)
    with pytest.raises(ProvenanceError, match=said):
        show(str(tmp_path / "it.png"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=20),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=8), one, max_size=3),
    max_leaves=6,
)


@given(facts=st.dictionaries(st.sampled_from(["run", "round", "prompt", "federation", "actions", "else"]), JSON))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_stranger_signed_is_said_in_plain_lines(
    facts: dict[str, Any], tmp_path: Path, signing: Credentials
) -> None:
    told = facts_of_picture(picture(tmp_path, signing, facts))
    assert told["drawn by"] == "a model"
    assert "else" not in told
    assert all(value.isprintable() and len(value) <= 500 for value in told.values())


@pytest.mark.parametrize("facts", [["run-1"], "run-1", 3, [[{}]]], ids=str)
def test_what_is_no_table_of_facts_says_nothing(facts: Any, tmp_path: Path, signing: Credentials) -> None:  # noqa: ANN401
    assert facts_of_picture(picture(tmp_path, signing, facts)) == {"drawn by": "a model"}


def test_escapes_of_a_stranger_reach_no_terminal(tmp_path: Path, signing: Credentials) -> None:
    file = picture(tmp_path, signing, {"run": "\x1b[2Jrun\n[red]x[/] \u202etxet", "prompt": "y" * 5000})
    for done in (show(str(file)), show(str(file), "--json")):
        assert not any(mark in done.stdout for mark in ("\x1b", "\u202e"))
    assert "[red]x[/]" in show(str(file)).stdout
