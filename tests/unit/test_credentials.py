"""Content credentials: each picture says that a model drew it, and which; whoever changes it is found out."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from common.errors import AdapterError, ProvenanceError
from common.export import WEIGHTS
from common.models import load_base
from common.settings import EMBEDDED_BASE
from deploy.cli import app
from deploy.credentials import KEY_FILE, MADE_BY_A_MODEL, Credentials, default_folder, facts_of, read_credentials
from security.content_id import content_id
from security.manifest import VKEY
from tests.ledgers import FEDERATION
from tests.releases import KEY, released

FACTS = {"base_digest": "ab" * 32, "adapter_sha256": "cd" * 32}


def png(seed: int = 0) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def pixels(data: bytes) -> Any:  # noqa: ANN401 (numpy)
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return Credentials.in_folder(tmp_path_factory.mktemp("credentials"))


@pytest.fixture(scope="module")
def signed(signing: Credentials) -> bytes:
    return signing.signed(png(), FACTS)


def test_what_was_said_of_a_picture_is_read_back(signed: bytes) -> None:
    told = read_credentials(signed)
    assert told is not None
    (action,) = told.pop("actions")
    assert told == FACTS
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", MADE_BY_A_MODEL)
    assert action["softwareAgent"]["name"] == "bottega"


def test_the_picture_is_the_same(signed: bytes) -> None:
    assert np.array_equal(pixels(signed), pixels(png()))


def test_a_picture_without_credentials_has_none() -> None:
    assert read_credentials(png()) is None


@given(st.data())
def test_a_picture_that_was_changed_is_refused(signed: bytes, data: st.DataObject) -> None:
    begin = signed.index(b"IDAT") + 4
    at = data.draw(st.integers(begin, len(signed) - 13))
    changed = signed[:at] + bytes([signed[at] ^ data.draw(st.integers(1, 255))]) + signed[at + 1 :]
    with pytest.raises(ProvenanceError):
        read_credentials(changed)


def test_what_the_credentials_say_cannot_be_changed(signed: bytes) -> None:
    for told in (b"abababab", b"cdcdcdcd", b"trainedAlgorithmicMedia"):
        assert told in signed
        with pytest.raises(ProvenanceError):
            read_credentials(signed.replace(told, told[::-1], 1))


def test_credentials_of_one_picture_do_not_hold_for_another(signing: Credentials, signed: bytes) -> None:
    def chunk(data: bytes) -> bytes:
        at = data.index(b"caBX") - 4
        return data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]

    other = signing.signed(png(1), FACTS)
    with pytest.raises(ProvenanceError):
        read_credentials(other.replace(chunk(other), chunk(signed)))


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    first = Credentials.in_folder(tmp_path / "new" / "folder")
    assert stat.S_IMODE((tmp_path / "new" / "folder" / KEY_FILE).stat().st_mode) == 0o600
    assert Credentials.in_folder(tmp_path / "new" / "folder").chain == first.chain
    assert Credentials.in_folder(tmp_path / "another").chain != first.chain


def test_whoever_trusts_the_key_finds_it_trusted(signing: Credentials, signed: bytes) -> None:
    """So the chain is one that the standard takes, and only the anchor is unknown elsewhere."""
    root = signing.chain.decode()[signing.chain.decode().rindex("-----BEGIN") :]
    trusting = {"verify": {"verify_trust": True}, "trust": {"trust_anchors": root}}
    for chosen, state in ((trusting, "Trusted"), ({"verify": {"verify_trust": False}}, "Valid")):
        context = c2pa.Context(c2pa.Settings.from_dict(chosen))
        assert c2pa.Reader("image/png", io.BytesIO(signed), context=context).get_validation_state() == state


def test_no_name_of_anybody_is_in_the_certificates(signing: Credentials) -> None:
    again = signing.signed(png(), {})
    assert b"bottega content credentials" in again
    for name in (Path.home().name, str(Path.home()), str(Path.cwd())):
        if len(name) > 4:
            assert name.encode() not in again


@pytest.mark.parametrize(
    "content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"\xff\x00"]
)
def test_a_key_that_cannot_be_read_is_refused(content: bytes, tmp_path: Path) -> None:
    Credentials.in_folder(tmp_path)
    (tmp_path / KEY_FILE).write_bytes(content)
    with pytest.raises(ProvenanceError, match="cannot be read"):
        Credentials.in_folder(tmp_path)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    Credentials.in_folder(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(ProvenanceError, match="others on this machine"):
        Credentials.in_folder(tmp_path)


def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ProvenanceError, match="no folder"):
        Credentials.in_folder(tmp_path / "file")


def test_the_folder_is_the_users_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/of-mine")
    assert default_folder() == Path("/etc/of-mine/bottega")
    for none in ("", "relative"):
        monkeypatch.setenv("XDG_CONFIG_HOME", none)
        assert default_folder() == Path.home() / ".config" / "bottega"


def test_a_manifest_is_repeated_where_it_holds(tmp_path: Path) -> None:
    manifest = released(tmp_path / "out")
    facts = {
        "base_digest": "ef" * 32, "adapter_sha256": manifest.adapter.digest,
        "adapter_cid": content_id(bytes.fromhex(manifest.adapter.digest)), "federation": FEDERATION, "run": "run-1",
        "round": 3, "federation_key": str(KEY),
    }  # fmt: skip
    assert facts_of("ef" * 32, tmp_path / "out") == facts == facts_of("ef" * 32, tmp_path / "out" / WEIGHTS)


def test_a_manifest_that_does_not_hold_is_not_repeated(tmp_path: Path) -> None:
    released(tmp_path / "out")
    (tmp_path / "out" / WEIGHTS).write_bytes(b"other")
    with pytest.raises(ProvenanceError, match="does not hold"):
        facts_of("ef" * 32, tmp_path / "out")
    released(tmp_path / "keyless")
    (tmp_path / "keyless" / VKEY).unlink()
    with pytest.raises(ProvenanceError, match="signed by that key"):
        facts_of("ef" * 32, tmp_path / "keyless")


def test_an_adapter_without_a_manifest_is_told_by_its_digest(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(b"x")
    assert set(facts_of("ef" * 32, tmp_path)) == {"base_digest", "adapter_sha256", "adapter_cid"}
    assert facts_of("ef" * 32, None) == {"base_digest": "ef" * 32}
    with pytest.raises(AdapterError):
        facts_of("ef" * 32, tmp_path / "nothing")


def test_draw_signs_what_it_draws_and_tells_the_prompt_only_when_asked(tmp_path: Path) -> None:
    def drawn(*more: str) -> dict[str, Any] | None:
        words = [
            "draw",
            "--prompt",
            "an ink drawing of a boat",
            "--steps",
            "1",
            "--out",
            str(tmp_path / "out"),
            "--json",
        ]
        done = CliRunner().invoke(app, [*words, *more], env={"XDG_CONFIG_HOME": str(tmp_path / "config")})
        assert done.exit_code == 0, done.output
        return read_credentials(Path(json.loads(done.stdout)[0]["file"]).read_bytes())

    plain, told = drawn(), drawn("--with-prompt")
    assert plain is not None
    assert told is not None
    assert plain.pop("actions")
    assert plain == {"base_digest": load_base(EMBEDDED_BASE).digest}
    assert told["prompt"] == "an ink drawing of a boat"
    assert (tmp_path / "config" / "bottega" / KEY_FILE).is_file()
    assert drawn("--no-credentials") is None
    assert drawn("--credentials", str(tmp_path / "own")) is not None
    assert (tmp_path / "own" / KEY_FILE).is_file()
