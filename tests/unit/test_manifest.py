"""The manifest of a released adapter: what is signed is what was released, to the byte, and by whom."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import ProvenanceError
from common.export import CONFIG, WEIGHTS
from security.checkpoint import Checkpoint, sign_checkpoint
from security.content_id import content_id
from security.dsse import pre_authentication, read_envelope, sign_content
from security.identity import Identity, Role, SpiffeId
from security.ledger_names import origin_of
from security.manifest import MANIFEST, MEDIA_TYPE, VKEY, Taught, read_manifest, sign_manifest
from security.merkle import EMPTY_ROOT
from security.note import NoteKey
from security.provenance import Examined, examine
from security.pseudonyms import pseudonyms, renamed
from tests.ledgers import FEDERATION
from tests.releases import KEY, OTHER, SERVER, about, released


def wrong(found: Examined) -> list[str]:
    return [check.what for check in found.checks if not check.holds]


def test_what_was_released_holds(tmp_path: Path) -> None:
    manifest = released(tmp_path / "out")
    found = examine(tmp_path / "out", [KEY])
    assert found.holds, found
    assert (found.manifest, found.key) == (manifest, KEY)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST, VKEY])
def test_one_file_can_be_checked(name: str, tmp_path: Path) -> None:
    released(tmp_path / "out")
    assert examine(tmp_path / "out" / name, [KEY]).holds


def test_the_files_of_another_release_do_not_spoil_the_one_that_is_asked_about(tmp_path: Path) -> None:
    released(tmp_path / "out")
    (tmp_path / "out" / CONFIG).unlink()
    assert examine(tmp_path / "out" / WEIGHTS, [KEY]).holds
    assert wrong(examine(tmp_path / "out", [KEY])) == [f"{CONFIG} is what was released"]


def test_a_manifest_reads_as_it_was_written(tmp_path: Path) -> None:
    manifest = released(tmp_path / "out")
    read, envelope = read_manifest((tmp_path / "out" / MANIFEST).read_bytes())
    assert read == manifest
    assert envelope.is_by(KEY)
    assert envelope.key_id == KEY.id.hex()


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "out"
    released(folder)
    return folder


@given(name=st.sampled_from([WEIGHTS, CONFIG, MANIFEST, VKEY]), data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_byte_is_refused(release: Path, name: str, data: st.DataObject) -> None:
    file = release / name
    content = file.read_bytes()
    at, bits = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 255))
    try:
        file.write_bytes(content[:at] + bytes([content[at] ^ bits]) + content[at + 1 :])
        assert not examine(release, [KEY]).holds
    finally:
        file.write_bytes(content)


@given(name=st.sampled_from([WEIGHTS, CONFIG, MANIFEST, VKEY]), data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_was_cut_or_grew_is_refused(release: Path, name: str, data: st.DataObject) -> None:
    file = release / name
    content = file.read_bytes()
    end, more = data.draw(st.integers(0, len(content))), data.draw(st.binary(max_size=3))
    if content[:end] + more == content:
        return
    try:
        file.write_bytes(content[:end] + more)
        assert not examine(release, [KEY]).holds
    finally:
        file.write_bytes(content)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(
    lambda value: json.dumps({"payload": value, "payloadType": MEDIA_TYPE, "signatures": []}).encode()
))  # fmt: skip
def test_what_is_no_manifest_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(ProvenanceError):
        read_manifest(data)


def test_what_another_server_signed_is_refused(tmp_path: Path) -> None:
    released(tmp_path / "out", OTHER)
    assert "the manifest is signed by that key" in wrong(examine(tmp_path / "out", [KEY]))


def test_a_key_of_another_federation_vouches_for_nothing(tmp_path: Path) -> None:
    released(tmp_path / "out")
    (tmp_path / "out" / VKEY).unlink()
    elsewhere = NoteKey(origin_of("others.example"), SERVER.signing.public)
    content = read_envelope((tmp_path / "out" / MANIFEST).read_bytes()).content
    (tmp_path / "out" / MANIFEST).write_bytes(sign_content(content, MEDIA_TYPE, elsewhere.name, SERVER.signing))
    assert "it is of that key's federation" in wrong(examine(tmp_path / "out", [elsewhere]))


def test_without_a_key_only_that_is_wrong_and_it_does_not_hold(tmp_path: Path) -> None:
    released(tmp_path / "out")
    found = examine(tmp_path / "out", [])
    assert wrong(found) == ["the federation's key is known from elsewhere"]
    assert not found.holds


def test_a_key_that_the_server_rotated_from_still_counts(tmp_path: Path) -> None:
    released(tmp_path / "out")
    newer = NoteKey(origin_of(FEDERATION), OTHER.signing.public)
    assert examine(tmp_path / "out", [newer, KEY]).holds


def test_a_file_that_was_put_beside_is_refused(tmp_path: Path) -> None:
    released(tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").write_bytes(b"x")
    assert wrong(examine(tmp_path / "out", [KEY])) == ["there is nothing else in the folder"]
    assert wrong(examine(tmp_path / "out" / "model.safetensors", [KEY])) == ["the file is part of the release"]


def test_a_checkpoint_of_another_ledger_is_refused(tmp_path: Path) -> None:
    released(tmp_path / "out")
    for note in (
        sign_checkpoint(Checkpoint(origin_of(FEDERATION), 0, EMPTY_ROOT), OTHER.signing),
        sign_checkpoint(Checkpoint(origin_of("others.example"), 0, EMPTY_ROOT), SERVER.signing),
    ):
        manifest = about(tmp_path / "out").model_copy(update={"checkpoint": note.decode()})
        (tmp_path / "out" / MANIFEST).write_bytes(sign_manifest(manifest, SERVER))
        assert wrong(examine(tmp_path / "out", [KEY])) == ["the ledger's checkpoint is signed by it too"]


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "red"}, {"version": 2}, {"rounds": "3"}, {"files": []},
        {"taught": [{"name": "anna", "pseudonym": "anonymous-0123456789abcdef"}]}, {"taught": [{}]},
        {"asked": [{"name": "anna"}]}, {"site_privacy": {"epsilon": 2.0, "delta": 1e-3}},
        {"released_at": "yesterday"}, {"privacy": None}, {"federation": "Studios Example"},
        {"despite": "\x1b[2J"}, {"against": ["\u202etxet"]}, {"software": "a\rb"}, {"checkpoint": "\x9b1A"},
    ],
    ids=str,
)  # fmt: skip
def test_a_manifest_that_says_other_things_is_none(change: dict[str, object], tmp_path: Path) -> None:
    manifest = released(tmp_path / "out")
    content = json.dumps({**manifest.model_dump(mode="json"), **change}, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ProvenanceError):
        read_manifest(sign_content(content, MEDIA_TYPE, KEY.name, SERVER.signing))


def test_only_the_server_of_a_federation_signs_for_it(tmp_path: Path) -> None:
    manifest = released(tmp_path / "out")
    with pytest.raises(ProvenanceError, match="server of its federation"):
        sign_manifest(manifest, Identity.generate(SpiffeId("others.example", Role.SERVER, "main")))


def test_what_is_signed_is_what_the_standard_says() -> None:
    """The example of github.com/secure-systems-lab/dsse/blob/master/protocol.md."""
    assert pre_authentication("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_any_dsse_tool_can_read_the_envelope() -> None:
    outer = json.loads(sign_content(b"hello", "text/plain", KEY.name, SERVER.signing))
    (signature,) = outer["signatures"]
    assert (base64.b64decode(outer["payload"]), outer["payloadType"], signature["keyid"]) == (
        b"hello", "text/plain", KEY.id.hex(),
    )  # fmt: skip
    signed = pre_authentication("text/plain", b"hello")
    assert SERVER.signing.public.verifies(base64.b64decode(signature["sig"]), signed)


def test_a_file_is_called_what_ipfs_calls_it() -> None:
    name = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
    assert content_id(hashlib.sha256(b"hello world").digest()) == name


def test_a_site_is_called_the_same_in_one_run_and_otherwise_in_another_and_by_another_server() -> None:
    once = pseudonyms(["anna", "bruno"], "run-1", SERVER.signing)
    assert once == pseudonyms(["bruno", "anna"], "run-1", SERVER.signing)
    others = [pseudonyms(["anna"], "run-2", SERVER.signing), pseudonyms(["anna"], "run-1", OTHER.signing)]
    assert len({once["anna"], once["bruno"], *(one["anna"] for one in others)}) == 4
    assert Taught(pseudonym=once["anna"])


def test_words_about_a_site_call_it_what_it_is_to_be_called() -> None:
    said = renamed("Anna, anna-maria and hannah: bruno agreed", {"anna": "A", "anna-maria": "M", "bruno": "B"})
    assert said == "A, M and hannah: B agreed"
