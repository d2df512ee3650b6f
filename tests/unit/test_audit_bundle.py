"""The bundle: what is written reads back the same, and what is no bundle is refused in words, whatever it is."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import BottegaError, LedgerError
from security.audit.bundle import Bundle, checkpoint_name, entries_name, write_bundle
from security.audit.exporting import README, export, open_bundle
from security.audit.mirror import Mirror
from security.audit.record import Record
from security.audit.verification import verify_record
from security.note import NoteKey
from tests.ledgers import RUN, Members, Story, a_ledger, a_story, some_members, trust_in, write_ledger

MEMBERS = some_members()
STORY = a_story(MEMBERS)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle, with its adapters."""
    return a_bundle(tmp_path_factory.mktemp("bundle"))


def a_bundle(folder: Path, members: Members = MEMBERS, story: Story = STORY, name: str = "record.zip") -> Path:
    with a_ledger(folder / f"{name}.db", members, story) as mirror:
        record = Record(mirror.reader, trust_in(members), "", {key: lambda w=w: w for key, w in story.adapters.items()})  # type: ignore[misc]
        export(record, folder / name, "bottega 0.1.0", sorted(record.adapters), [("updates/one", [b"sealed"])])
    return folder / name


def test_what_is_exported_is_imported_the_same(packed: Path, tmp_path: Path) -> None:
    with Bundle(packed) as bundle:
        record, copy = open_bundle(bundle, tmp_path, MEMBERS.server.peer)
        with copy:
            assert [line.entry for line in record.lines()] == STORY.entries
            assert {key: weights() for key, weights in record.adapters.items()} == STORY.adapters
            told = verify_record(record)
            assert (told.holds, told.adapters, told.check.vouched) == (True, 3, len(STORY.entries))
            assert bundle.read("updates/one") == b"sealed"
            assert record.trust.pinned


def test_the_same_record_makes_the_same_bytes(packed: Path, tmp_path: Path) -> None:
    assert a_bundle(tmp_path).read_bytes() == packed.read_bytes()


def test_a_bundle_that_nobody_vouches_for_is_believed_by_its_own_word_and_that_is_said(
    packed: Path, tmp_path: Path
) -> None:
    with Bundle(packed) as bundle:
        record, copy = open_bundle(bundle, tmp_path)
        with copy:
            told = verify_record(record)
            assert told.holds
            assert "key-by-its-own-word" in [one.what for one in told.remarks]


def test_a_key_that_was_told_by_another_way_settles_whom_to_believe(packed: Path, tmp_path: Path) -> None:
    with Bundle(packed) as bundle:
        record, copy = open_bundle(bundle, tmp_path, key=trust_in(MEMBERS).server_keys[0])
        copy.close()
        assert record.trust.pinned
        wrong = NoteKey("studios.test/bottega", some_members().server.signing.public)
        (tmp_path / "again").mkdir()
        with pytest.raises(LedgerError, match="another server than the key"):
            open_bundle(bundle, tmp_path / "again", key=wrong)


def test_any_zip_program_finds_entries_and_notes_as_files(packed: Path) -> None:
    with zipfile.ZipFile(packed) as opened:
        assert opened.testzip() is None
        lines = opened.read(entries_name(0)).splitlines()
        assert [json.loads(line)["kind"] for line in lines[:2]] == ["founded", "joined"]
        assert opened.read(checkpoint_name(len(STORY.entries))).startswith(b"studios.test/bottega\n")
        assert opened.read("keys/server.vkey").decode().strip() == str(trust_in(MEMBERS).server_keys[0])


def test_the_readme_says_how_the_root_is_made_and_it_is_so(packed: Path) -> None:
    """The few lines of Python in the README, run as they stand, find the root that the last checkpoint has."""
    import base64

    code = README.split("With Python:\n")[1].split("\nGo's")[0]
    source = "\n".join(line.removeprefix("    ") for line in code.splitlines())
    with zipfile.ZipFile(packed) as opened:
        entries = opened.read(entries_name(0)).split(b"\n")[:-1]
        note = opened.read(checkpoint_name(len(entries))).decode()
    program = f"{source}\nimport sys, base64\ne = sys.stdin.buffer.read().split(b'\\n')[:-1]\n"
    program += "print(base64.b64encode(root(e)).decode())"
    done = subprocess.run(
        [sys.executable, "-c", program], input=b"\n".join(entries) + b"\n", capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == note.splitlines()[2]
    assert len(base64.b64decode(note.splitlines()[2])) == 32


def test_a_long_ledger_is_cut_into_parts_and_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("security.audit.exporting.ENTRIES_A_PART", 10)
    monkeypatch.setattr("security.audit.exporting.MOST_NOTES", 2)
    file = a_bundle(tmp_path)
    with Bundle(file) as bundle:
        assert len(bundle.names("entries")) == -(-len(STORY.entries) // 10)
        assert bundle.names("checkpoints")[-1] == checkpoint_name(len(STORY.entries))
        assert len(bundle.names("checkpoints")) == 2
        (tmp_path / "in").mkdir()
        record, copy = open_bundle(bundle, tmp_path / "in")
        with copy:
            assert [line.entry for line in record.lines()] == STORY.entries


def test_a_bundle_is_written_whole_or_not_at_all_and_over_nothing(packed: Path, tmp_path: Path) -> None:
    there = tmp_path / "record.zip"
    there.write_bytes(b"something else")
    with pytest.raises(LedgerError, match="already exists"):
        write_bundle(there, "studios.test", "", 0, [])
    assert there.read_bytes() == b"something else"

    def breaking() -> Iterator[tuple[str, list[bytes]]]:
        yield "README.txt", [b"read me"]
        raise LedgerError("the adapter is gone")

    with pytest.raises(LedgerError, match="the adapter is gone"):
        write_bundle(tmp_path / "new.zip", "studios.test", "", 0, breaking())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["record.zip"]


def test_a_ledger_without_a_checkpoint_cannot_be_exported(tmp_path: Path) -> None:
    with Mirror(tmp_path / "l.db") as mirror, pytest.raises(LedgerError, match="no checkpoint yet"):
        export(Record(mirror.reader, trust_in(MEMBERS), ""), tmp_path / "b.zip", "")


def test_entries_behind_the_last_checkpoint_stay_out(tmp_path: Path) -> None:
    write_ledger(tmp_path / "l.db", MEMBERS, STORY.entries[:16])
    with Mirror(tmp_path / "l.db") as mirror:
        from security.entries import write_entry
        from security.ledger import append

        with mirror._write() as db:
            append(db, [write_entry(STORY.entries[16])], [None])
        export(Record(mirror.reader, trust_in(MEMBERS), ""), tmp_path / "b.zip", "")
    with Bundle(tmp_path / "b.zip") as bundle:
        assert bundle.manifest.entries == len(list(bundle.entries())) == 16


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400))
def test_whatever_is_no_bundle_is_refused_in_words(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("any") / "x.zip"
    file.write_bytes(data)
    with pytest.raises(LedgerError):
        Bundle(file)


NAMES = st.sampled_from(
    ["entries/000000000000.jsonl", "checkpoints/000000000001.note", "keys/server.json", "README.txt", "manifest.json",
     "../evil", "/etc/passwd", "keys/..", "keys/a/b/c/d/e/f", "adapters/x", "C:/x", "keys/\x00", "KEYS/ca.crt", "x"]
)  # fmt: skip


@settings(max_examples=150)
@given(parts=st.lists(st.tuples(NAMES, st.binary(max_size=60)), max_size=6), told=st.booleans())
def test_zip_files_of_any_parts_are_refused_or_read_and_never_crash(
    parts: list[tuple[str, bytes]], told: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import hashlib
    import warnings

    file = tmp_path_factory.mktemp("any") / "x.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as packed:
        warnings.simplefilter("ignore")  # zipfile warns of names that are there twice
        for name, content in parts:
            packed.writestr(name, content)
        if told:
            listed = [{"name": n, "size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in parts]
            packed.writestr("manifest.json", json.dumps(a_manifest(parts=listed)))
    try:
        with Bundle(file) as bundle:
            for part in bundle.manifest.parts:
                assert (part.name, bundle.read(part.name)) in parts
    except LedgerError:
        return


def a_manifest(**other: Any) -> dict[str, Any]:  # noqa: ANN401 (any JSON)
    told = {"format": "bottega-audit", "version": 1, "federation": "studios.test", "software": "", "entries": 0}
    return {**told, "parts": [], **other}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_one_changed_byte_anywhere_is_found_or_changes_nothing(
    packed: Path, place: float, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = bytearray(packed.read_bytes())
    whole[int(place * len(whole))] = value
    folder = tmp_path_factory.mktemp("flip")
    (folder / "x.zip").write_bytes(whole)
    try:
        with Bundle(folder / "x.zip") as bundle:
            record, copy = open_bundle(bundle, folder, MEMBERS.server.peer)
            with copy:
                assert [line.entry for line in record.lines()] == STORY.entries
                assert {key: weights() for key, weights in record.adapters.items()} == STORY.adapters
    except BottegaError:
        return


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_bundle_that_is_cut_short_is_refused(
    packed: Path, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = packed.read_bytes()
    file = tmp_path_factory.mktemp("cut") / "x.zip"
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(LedgerError):
        Bundle(file)


def test_a_manifest_of_another_version_says_so(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("manifest.json", json.dumps(a_manifest(version=2)))
    (tmp_path / "x.zip").write_bytes(out.getvalue())
    with pytest.raises(LedgerError, match="another version"):
        Bundle(tmp_path / "x.zip")


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be read"):
        Bundle(tmp_path / "nothing.zip")


def test_the_run_of_the_story_is_in_it(packed: Path) -> None:
    with Bundle(packed) as bundle:
        assert bundle.names("adapters") == [f"adapters/{RUN}/{number:04d}.safetensors" for number in (1, 2, 3)]
