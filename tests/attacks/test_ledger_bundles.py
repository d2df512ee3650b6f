"""Bundles made by somebody who means harm: manifest and checksums are made to fit, and it is found all the same."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import BottegaError, LedgerError
from common.paths import MemberHome
from deploy.records import keep_bundle
from security.audit.bundle import Bundle, adapter_name, checkpoint_name, entries_name
from security.audit.exporting import export, open_bundle
from security.audit.mirror import ForkError, Mirror
from security.audit.record import Record
from security.audit.verification import Verification, verify_record
from security.entries import write_entry
from security.identity import Identity, Peer, Role, SpiffeId
from security.ledger import append
from security.roster import sign_roster
from tests.ledgers import (
    RUN,
    Members,
    Story,
    a_ledger,
    a_story,
    adapter,
    sign,
    some_members,
    trust_in,
    write_ledger,
)

MEMBERS = some_members()
STORY = a_story(MEMBERS)
ENTRIES = entries_name(0)
LAST = checkpoint_name(len(STORY.entries))

Parts = dict[str, bytes]


def parts_of(folder: Path, members: Members = MEMBERS, story: Story = STORY) -> Parts:
    """Return the parts of an honest bundle, by name."""
    with a_ledger(folder / "l.db", members, story) as mirror:
        record = Record(mirror.reader, trust_in(members), "", {key: lambda w=w: w for key, w in story.adapters.items()})  # type: ignore[misc]
        export(record, folder / "honest.zip", "bottega 0.1.0", sorted(record.adapters))
    with zipfile.ZipFile(folder / "honest.zip") as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def packed(folder: Path, parts: Mapping[str, bytes], entries: int | None = None) -> Path:
    """Write parts as a bundle whose manifest fits them."""
    told = json.loads(parts["manifest.json"])
    rest = {name: content for name, content in parts.items() if name != "manifest.json"}
    told["parts"] = [
        {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in rest.items()
    ]
    told["entries"] = told["entries"] if entries is None else entries
    with zipfile.ZipFile(folder / "evil.zip", "w") as out:
        for name, content in rest.items():
            out.writestr(name, content)
        out.writestr("manifest.json", json.dumps(told))
    return folder / "evil.zip"


def read(file: Path, folder: Path, server: Peer | None = MEMBERS.server.peer) -> Verification:
    """Open a bundle and verify what is in it."""
    (folder / "in").mkdir()
    with Bundle(file) as bundle:
        record, copy = open_bundle(bundle, folder / "in", server)
        with copy:
            return verify_record(record)


def lines(parts: Parts) -> list[bytes]:
    return parts[ENTRIES].split(b"\n")[:-1]


def with_lines(parts: Parts, changed: list[bytes]) -> Parts:
    return {**parts, ENTRIES: b"".join(line + b"\n" for line in changed)}


CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a verdict is turned round": lambda found: [line.replace(b'"rejected"', b'"admitted"') for line in found],
    "a reason is reworded": lambda found: [line.replace(b"stranger", b"nicer   ") for line in found],
    "an entry is dropped": lambda found: [*found[:20], *found[21:]],
    "two entries change places": lambda found: [*found[:20], found[21], found[20], *found[22:]],
    "an entry is put in": lambda found: [*found[:20], found[19], *found[20:]],
    "an entry is another writing of the same": lambda found: [
        json.dumps(json.loads(found[0])).encode(),
        *found[1:],
    ],
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_entries_do_not_lead_to_the_signed_root(change: str, tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    changed = CHANGES[change](lines(parts))
    with pytest.raises(LedgerError, match="not those that the server signed") as caught:
        read(packed(tmp_path, with_lines(parts, changed), len(changed)), tmp_path)
    assert "entries hold" in str(caught.value)


def test_entries_that_are_held_back_are_missed(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    with pytest.raises(LedgerError, match="held back"):
        read(packed(tmp_path, with_lines(parts, lines(parts)[:-1]), len(STORY.entries) - 1), tmp_path)


def test_a_shorter_history_that_was_once_true_is_caught_by_who_has_seen_more(tmp_path: Path) -> None:
    """Nobody can tell an old bundle from a new one by itself; a home that has seen more can."""
    parts = parts_of(tmp_path)
    home = MemberHome(tmp_path / "home")
    keep_bundle(packed(tmp_path, parts), home, str(trust_in(MEMBERS).server_keys[0]))
    kept = {
        name: content
        for name, content in parts.items()
        if not name.startswith("checkpoints/") or name <= checkpoint_name(24)
    }
    kept = {name: content for name, content in kept.items() if not name.startswith("adapters/")}
    short = packed(tmp_path, with_lines(kept, lines(parts)[:24]), 24)
    with pytest.raises(ForkError, match="has lost entries"):
        keep_bundle(short, home)
    with Mirror(home.root / "ledger.db") as mirror:
        assert mirror.reader.size() == len(STORY.entries)


def test_another_history_under_the_true_servers_key_is_caught_by_who_has_seen_the_first(tmp_path: Path) -> None:
    home = MemberHome(tmp_path / "home")
    keep_bundle(packed(tmp_path, parts_of(tmp_path)), home, str(trust_in(MEMBERS).server_keys[0]))
    other = a_story(MEMBERS)
    other.entries[25] = other.entries[25].model_copy(update={"at": "2026-11-02T23:00:00.000Z"})
    (tmp_path / "other").mkdir()
    forked = packed(tmp_path / "other", parts_of(tmp_path / "other", story=other))
    with pytest.raises(ForkError, match="other ones from entry 25 on"):
        keep_bundle(forked, home)
    assert len(list((home.root / "evidence").iterdir())) == 2


def test_keys_that_were_swapped_are_found_by_the_key_that_was_pinned(tmp_path: Path) -> None:
    """A server of the attacker's own, with its roster, its keys and its signatures, all of them consistent."""
    impostors = some_members()
    file = packed(tmp_path, parts_of(tmp_path, impostors, a_story(impostors)))
    with pytest.raises(BottegaError, match="another server"):
        read(file, tmp_path)
    home = MemberHome(tmp_path / "home")
    with pytest.raises(LedgerError, match="another server than the key"):
        keep_bundle(file, home, str(trust_in(MEMBERS).server_keys[0]))
    assert not (home.root / "ledger.db").exists()


def test_the_servers_name_alone_on_a_swapped_key_convinces_nobody(tmp_path: Path) -> None:
    impostors = some_members()
    parts = parts_of(tmp_path)
    swapped = parts_of_another(tmp_path, impostors)["keys/server.json"]
    with pytest.raises(BottegaError):
        read(packed(tmp_path, {**parts, "keys/server.json": swapped}), tmp_path, None)


def test_a_bundle_of_another_federation_is_refused_by_a_home(tmp_path: Path) -> None:
    home = MemberHome(tmp_path / "home")
    keep_bundle(packed(tmp_path, parts_of(tmp_path)), home)
    others = some_members(federation="elsewhere.test")
    (tmp_path / "other").mkdir()
    foreign = packed(tmp_path / "other", parts_of(tmp_path / "other", others, a_story(others)))
    with pytest.raises(LedgerError, match="another federation"):
        keep_bundle(foreign, home)


def test_a_bundle_that_says_it_is_of_another_federation_than_its_keys_is_refused(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    told = json.loads(parts["manifest.json"])
    parts["manifest.json"] = json.dumps({**told, "federation": "elsewhere.test"}).encode()
    with pytest.raises(LedgerError, match="names two federations"):
        read(packed(tmp_path, parts), tmp_path)


def test_a_signature_of_the_server_that_was_changed_is_refused(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    text, _, signed = parts[LAST].partition(b"\n\n")
    first, *rest = signed.splitlines(keepends=True)
    broken = first[:-10] + (b"AAAA" if first[-10:-6] != b"AAAA" else b"BBBB") + first[-6:]
    with pytest.raises(LedgerError):
        read(packed(tmp_path, {**parts, LAST: text + b"\n\n" + broken + b"".join(rest)}), tmp_path)


def test_a_cosignature_that_its_witness_did_not_make_is_refused(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    other = parts[checkpoint_name(40)]
    line = next(line for line in other.splitlines(keepends=True) if b"site/rossi" in line)
    own = [one for one in parts[LAST].splitlines(keepends=True) if b"site/rossi" not in one]
    with pytest.raises(LedgerError, match="not signed by whom it says"):
        read(packed(tmp_path, {**parts, LAST: b"".join(own) + line}), tmp_path)


def test_cosignatures_that_were_taken_out_are_missed_in_a_remark(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    for name in [name for name in parts if name.startswith("checkpoints/")]:
        parts[name] = b"".join(one for one in parts[name].splitlines(keepends=True) if b"/site/" not in one)
    told = read(packed(tmp_path, parts), tmp_path)
    assert told.holds
    assert "no-witness" in [one.what for one in told.remarks]


def test_an_adapter_that_was_swapped_is_named_with_its_round(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    name = adapter_name(RUN, 2)
    told = read(packed(tmp_path, {**parts, name: adapter("another", 2)}), tmp_path)
    (fault,) = told.faults
    assert (fault.what, "round 2" in fault.words) == ("another-adapter", True)
    assert fault.entry == told.holds_to


def test_an_adapter_of_a_round_that_never_was_is_named(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    told = read(packed(tmp_path, {**parts, adapter_name(RUN, 9): adapter("another", 9)}), tmp_path)
    assert [one.what for one in told.faults] == ["another-adapter"]


def test_a_roster_of_the_right_server_but_another_content_is_found(tmp_path: Path) -> None:
    """The server itself signs a second roster of the same version, with a member more."""
    parts = parts_of(tmp_path)
    mallory = Identity.generate(SpiffeId("studios.test", Role.OPERATOR, "mallory"))
    twin = MEMBERS.roster.with_member(mallory.peer, b"", 1_793_610_000_000)
    signed = sign_roster(replace(twin, version=MEMBERS.roster.version), MEMBERS.server)
    told = read(packed(tmp_path, {**parts, "keys/roster.signed": signed}), tmp_path)
    assert [one.what for one in told.faults] == ["another-roster"]


def test_an_authority_that_was_swapped_is_found(tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    other = parts_of_another(tmp_path, some_members())["keys/ca.crt"]
    told = read(packed(tmp_path, {**parts, "keys/ca.crt": other}), tmp_path)
    assert [(one.what, one.entry) for one in told.faults] == [("another-authority", 0)]


def test_an_entry_of_no_kind_that_is_known_is_named_and_nothing_is_read_beyond_it(tmp_path: Path) -> None:
    """A server that signs whatever: the tree holds, and what it tells is refused from there on."""
    write_ledger(tmp_path / "l.db", MEMBERS, STORY.entries)
    with Mirror(tmp_path / "l.db") as mirror:
        with mirror._write() as db:
            append(db, [b'{"kind":"drawing","pixels":[0,255]}', write_entry(STORY.entries[-1])], [None, None])
            sign(db, MEMBERS)
        told = verify_record(Record(mirror.reader, trust_in(MEMBERS), ""))
    assert [(one.what, one.entry) for one in told.faults] == [("unreadable", len(STORY.entries))]
    assert told.holds_to == len(STORY.entries)


HOSTILE: dict[str, Callable[[Parts], bytes]] = {}


def hostile(make: Callable[[Parts], bytes]) -> Callable[[Parts], bytes]:
    HOSTILE[(make.__doc__ or "").rstrip(".")] = make
    return make


@hostile
def _bomb(parts: Parts) -> bytes:
    """A part that unpacks to far more than it says."""
    content = zipped({**parts, "updates/bomb": bytes(2**24)}, told={"updates/bomb": b"small"})
    return content.replace(struct.pack("<L", 2**24), struct.pack("<L", 5))


@hostile
def _long(parts: Parts) -> bytes:
    """A part that is longer than parts of its kind are."""
    return zipped({**parts, "README.txt": bytes(2**17)})


@hostile
def _overlapping(parts: Parts) -> bytes:
    """Parts that lie over each other."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed_:
        packed_.writestr("updates/one", bytes(2**22))
        one = packed_.infolist()[0]
        for number in range(60):
            twin = copy.copy(one)
            twin.filename = twin.orig_filename = f"updates/{number}"
            packed_.filelist.append(twin)
    return out.getvalue()


@hostile
def _encrypted(parts: Parts) -> bytes:
    """A part that claims to be encrypted."""
    out = bytearray(zipped(parts))
    directory = out.rfind(b"PK\x01\x02")
    out[directory + 8] |= 1
    return bytes(out)


@hostile
def _packed_otherwise(parts: Parts) -> bytes:
    """A part that is packed in another way."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_BZIP2) as packed_:
        for name, content in parts.items():
            packed_.writestr(name, content)
    return out.getvalue()


@hostile
def _outside(parts: Parts) -> bytes:
    """A part named out of the folder."""
    return zipped({**parts, "updates/../../../evil": b"x"})


@hostile
def _absolute(parts: Parts) -> bytes:
    """A part named by an absolute path."""
    return zipped({**parts, "/tmp/evil": b"x"})  # noqa: S108 (it must not be written)


@hostile
def _unknown(parts: Parts) -> bytes:
    """A part of no known kind."""
    return zipped({**parts, "drawings/one.png": b"x"})


@hostile
def _untold(parts: Parts) -> bytes:
    """A part that the manifest does not tell of."""
    return zipped({**parts, "updates/more": b"x"}, told={"updates/more": None})


@hostile
def _twice(parts: Parts) -> bytes:
    """A part that is there twice."""
    import warnings

    out = io.BytesIO(zipped(parts))
    with warnings.catch_warnings(), zipfile.ZipFile(out, "a") as packed_:
        warnings.simplefilter("ignore")
        packed_.writestr("keys/server.json", b"{}")
    return out.getvalue()


@hostile
def _numbers(parts: Parts) -> bytes:
    """An adapter of a run that is no run."""
    return zipped({**parts, "adapters/RUN!/0001.safetensors": b"x"})


@hostile
def _gap(parts: Parts) -> bytes:
    """Entries that do not begin at the beginning."""
    return zipped({(entries_name(5) if name == ENTRIES else name): content for name, content in parts.items()})


@hostile
def _deep(parts: Parts) -> bytes:
    """A manifest of very many levels."""
    return zipped({**parts, "manifest.json": b"[" * 100_000}, remade=False)


@hostile
def _no_peer(parts: Parts) -> bytes:
    """A server that is nobody."""
    return zipped({**parts, "keys/server.json": b'{"id": 7}'})


@hostile
def _no_roster(parts: Parts) -> bytes:
    """A roster that is none."""
    return zipped({**parts, "keys/roster.signed": b"\x00" * 100})


@hostile
def _no_keys(parts: Parts) -> bytes:
    """No keys at all."""
    return zipped({name: content for name, content in parts.items() if not name.startswith("keys/")})


@hostile
def _no_checkpoints(parts: Parts) -> bytes:
    """No checkpoint at all."""
    return zipped({name: content for name, content in parts.items() if not name.startswith("checkpoints/")})


@hostile
def _counted_wrong(parts: Parts) -> bytes:
    """A checkpoint that is named by another size, so that the last is not the latest."""
    renamed = {(checkpoint_name(9) if name == LAST else name): content for name, content in parts.items()}
    return zipped(renamed)


@hostile
def _huge_directory(parts: Parts) -> bytes:
    """An end of the file that promises a million parts."""
    out = bytearray(zipped(parts))
    end = out.rfind(b"PK\x05\x06")
    out[end + 8 : end + 16] = struct.pack("<2HL", 0xFFFF, 0xFFFF, 0xFFFFFFFF)
    return bytes(out)


def zipped(parts: Parts, told: Mapping[str, bytes | None] | None = None, *, remade: bool = True) -> bytes:
    """Return a zip file of parts, with a manifest that fits them but for what is to be told otherwise."""
    rest = {name: content for name, content in parts.items() if name != "manifest.json"}
    said = {**rest, **(told or {})}
    manifest = {
        **json.loads(parts["manifest.json"] if remade else "{}"),
        "parts": [
            {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in said.items()
            if content is not None
        ],
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed_:
        for name, content in rest.items():
            packed_.writestr(name, content)
        packed_.writestr("manifest.json", json.dumps(manifest) if remade else parts["manifest.json"])
    return out.getvalue()


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_file_is_refused_in_words_and_nothing_is_written_by_its_names(how: str, tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    (tmp_path / "x.zip").write_bytes(HOSTILE[how](parts))
    home = MemberHome(tmp_path / "a" / "b" / "home")
    home.root.parent.mkdir(parents=True)
    with pytest.raises(BottegaError) as caught:
        keep_bundle(tmp_path / "x.zip", home, str(trust_in(MEMBERS).server_keys[0]))
    assert str(caught.value).strip().endswith(".")
    assert not list(tmp_path.rglob("evil"))
    assert not home.pinned_server.exists()


def parts_of_another(folder: Path, members: Members) -> Parts:
    (folder / "another").mkdir()
    return parts_of(folder / "another", members, a_story(members))
