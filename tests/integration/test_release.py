"""Releasing an adapter: who taught it has looked at it and does not object, or somebody said why all the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from common.errors import RunError
from common.settings import SitePrivacySettings
from deploy.commands.export import export_run
from security.audit.verification import verify_record
from security.chronicle import Chronicle
from security.ledger_names import origin_of
from security.manifest import MANIFEST, VKEY, read_manifest_file
from security.note import NoteKey
from security.provenance import examine
from server import pulling, rounds
from server.consent import deciding_check
from server.journal import Journal
from server.manifests import NOT_ALL_AGREE
from server.record import open_server_record
from server.release import release
from tests.integration.federation import RUN, SETTINGS, Federation, Post, Way

HONEST = ("anna", "bruno", "carla")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds here take fractions of a second, and so may the last sites."""
    monkeypatch.setattr(rounds, "GRACE_S", 0.4)
    monkeypatch.setattr(pulling, "POLL_S", 0.01)


def _last(federation: Federation) -> int:
    return federation.store.last_closed(RUN)


def test_an_adapter_that_nobody_objects_to_is_released_and_that_is_recorded(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST)
    federation.play()
    federation.checked(_last(federation))
    told = release(federation.house, federation.store, RUN, tmp_path / "out")
    assert hashlib.sha256(told.weights.read_bytes()).hexdigest() == told.digest
    assert told.digest == federation.store.rounds(RUN)[0].adapter_digest
    assert federation.store.releases(RUN) == [(1, told.digest, "")]


def test_an_objection_holds_the_release_until_somebody_says_why_despite_it(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST)
    federation.sites["bruno"].behave(Way.OBJECTS)
    federation.play()
    federation.checked(_last(federation))
    assert federation.checks(1)["bruno"] == "admitted"
    assert federation.checks(2) == {"anna": "admitted", "bruno": "objection", "carla": "admitted"}
    for why in ("", "  "):
        with pytest.raises(RunError, match="not to be released") as caught:
            release(federation.house, federation.store, RUN, tmp_path / "out", despite=why)
        assert caught.value.got == "bruno objects"
    assert not (tmp_path / "out").exists()
    assert federation.store.releases(RUN) == []
    told = release(federation.house, federation.store, RUN, tmp_path / "out", despite="bruno agreed by letter")
    assert federation.store.releases(RUN) == [(1, told.digest, "bruno agreed by letter")]


def test_a_site_that_was_not_there_to_look_has_not_agreed(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST)
    federation.play(_silent_at_the_look(federation, "carla"))
    federation.checked(_last(federation))
    with pytest.raises(RunError) as caught:
        release(federation.house, federation.store, RUN, tmp_path / "out")
    assert caught.value.got == "carla has not looked at it"


def test_who_was_refused_in_every_round_has_no_say(tmp_path: Path) -> None:
    federation = Federation(tmp_path, (*HONEST, "mallory"))
    federation.sites["mallory"].behave(Way.NAN)
    federation.play(_silent_at_the_look(federation, "mallory"))
    federation.checked(_last(federation))
    assert federation.checks(1)["mallory"] == "finite"
    release(federation.house, federation.store, RUN, tmp_path / "out")


def test_the_adapter_of_an_earlier_round_was_looked_at_by_nobody(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST, SETTINGS.model_copy(update={"rounds": 2}))
    federation.play()
    federation.checked(_last(federation))
    with pytest.raises(RunError) as caught:
        release(federation.house, federation.store, RUN, tmp_path / "out", number=1)
    assert caught.value.got == (
        "it was not checked on public drawings; no site was asked to look at this round's adapter"
    )
    release(federation.house, federation.store, RUN, tmp_path / "out")


def test_an_objection_counts_for_nothing_but_a_last_look(tmp_path: Path) -> None:
    """A site that objects to a training task has refused it, like any other refusal."""
    federation = Federation(tmp_path, HONEST)
    federation.sites["anna"].behave(Way.REFUSES)
    federation.play()
    federation.checked(_last(federation))
    assert federation.checks(1)["anna"] == "willing"


def test_a_release_carries_a_manifest_that_holds_against_the_key_of_the_federation(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST, SETTINGS.model_copy(update={"rounds": 2}))
    federation.play()
    federation.checked(_last(federation))
    told = release(federation.house, federation.store, RUN, tmp_path / "out")
    key = NoteKey(origin_of(federation.house.settings.federation), federation.house.identity.signing.public)
    found = examine(tmp_path / "out", [key])
    assert found.holds, found
    assert found.manifest is not None
    assert (found.manifest.run, found.manifest.round, found.manifest.rounds) == (RUN, 2, 2)
    assert found.manifest.adapter.digest == told.digest
    assert found.manifest.base.digest == federation.order.base_digest
    assert [one.name for one in found.manifest.files] == sorted(
        file.name for file in (tmp_path / "out").iterdir() if file.name not in {MANIFEST, VKEY}
    )
    assert (found.manifest.against, found.manifest.despite) == ((), None)
    assert (tmp_path / "out" / VKEY).read_text() == f"{key}\n"


def test_whoever_exports_an_adapter_is_told_the_key_that_others_check_it_with(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST)
    federation.play()
    federation.checked(_last(federation))
    told = json.loads(_exported(federation, tmp_path / "out", "--json").stdout)
    assert examine(tmp_path / "out", [NoteKey.parse(told["key"])]).holds
    assert told["manifest"] == str(tmp_path / "out" / MANIFEST)


def test_an_adapter_that_nobody_tried_on_public_drawings_is_not_released(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST)
    federation.play()
    with pytest.raises(RunError) as caught:
        release(federation.house, federation.store, RUN, tmp_path / "out")
    assert caught.value.got == "it was not checked on public drawings"
    federation.store.checked(federation.a_check().model_copy(update={"adapter": "0" * 64}))
    with pytest.raises(RunError, match="not checked"):
        release(federation.house, federation.store, RUN, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    federation.checked()
    release(federation.house, federation.store, RUN, tmp_path / "out")


def test_an_adapter_that_is_not_better_than_the_base_is_released_only_despite_that_and_its_manifest_says_so(
    tmp_path: Path,
) -> None:
    federation = Federation(tmp_path, HONEST)
    federation.play()
    federation.checked(after=1.2, worse=True)
    with pytest.raises(RunError) as caught:
        release(federation.house, federation.store, RUN, tmp_path / "out")
    assert caught.value.got == (
        "on 64 public drawings like the sites' own it does not surely do better than the bare base "
        "(+20% loss, within 5%)"
    )
    release(federation.house, federation.store, RUN, tmp_path / "out", despite="to study what went wrong")
    manifest, *_ = read_manifest_file(tmp_path / "out" / MANIFEST)
    assert manifest.against == (caught.value.got,)
    assert manifest.despite == "to study what went wrong"


def test_the_last_check_counts_and_the_ledger_tells_of_each(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST)
    federation.play()
    told = [federation.checked(after=1.2, worse=True), federation.checked()]
    assert deciding_check(federation.store, RUN, 1) == told[1]
    assert deciding_check(federation.store, RUN, 2) is None
    release(federation.house, federation.store, RUN, tmp_path / "out")
    with open_server_record(federation.home, sign=True) as record:
        assert Chronicle.of(record.lines()).runs[RUN].checks == told
        assert verify_record(record).faults == []


def test_a_check_on_procedural_drawings_lifts_nothing_that_drawings_like_the_sites_own_found(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST)
    federation.play()
    failed = federation.checked(after=1.2, worse=True)
    federation.store.checked(failed.model_copy(update={"alike": False, "worse": False}))
    assert deciding_check(federation.store, RUN, 1) == failed
    with pytest.raises(RunError, match="does not surely do better"):
        release(federation.house, federation.store, RUN, tmp_path / "out")


def test_where_the_base_is_not_at_hand_the_export_says_so_and_releases_nothing(tmp_path: Path) -> None:
    """The federation of these tests trains layers that no base has."""
    federation = Federation(tmp_path, HONEST)
    federation.play()
    done = _exported(federation, tmp_path / "out")
    assert "it cannot be checked on public drawings here: this is not the base that the run trains on" in done.stderr
    assert isinstance(done.exception, RunError)
    assert done.exception.got == "it was not checked on public drawings"
    assert not (tmp_path / "out").exists()


def _exported(federation: Federation, folder: Path, *words: str) -> Result:
    app = typer.Typer()
    app.command()(export_run)
    return CliRunner().invoke(app, [RUN, str(folder), "--home", str(federation.home.root), *words])


def test_the_manifests_checkpoint_is_one_of_the_ledger(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST)
    federation.play()
    federation.checked(_last(federation))
    release(federation.house, federation.store, RUN, tmp_path / "out")
    manifest, *_ = read_manifest_file(tmp_path / "out" / MANIFEST)
    with Journal(federation.home.database) as journal:
        assert manifest.checkpoint.encode() in [kept.note for kept in journal.reader.checkpoints()]


def test_sites_are_named_in_the_manifest_only_where_they_agreed_to_it(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST)
    federation.sites["bruno"].behave(Way.OBJECTS)
    federation.play()
    federation.checked(_last(federation))
    why = "Bruno agreed by letter;\n\x1b[31m carla was asked"
    release(federation.house, federation.store, RUN, tmp_path / "out", despite=why, named=["anna"])
    manifest, envelope, _ = read_manifest_file(tmp_path / "out" / MANIFEST)
    assert manifest.taught is not None
    assert len(manifest.taught) == 3
    assert [one.name for one in manifest.taught] == ["anna", None, None]
    for hidden in (b"bruno", b"carla"):
        assert hidden not in envelope.content.lower()
    (against,) = manifest.against
    assert against.endswith(" objects")
    assert against.removesuffix(" objects") in {one.pseudonym for one in manifest.taught}
    assert manifest.despite is not None
    assert manifest.despite.endswith("was asked")
    assert manifest.despite.isprintable()
    assert federation.store.releases(RUN)[0][2] == why


def test_who_taught_nothing_is_not_said_to_have(tmp_path: Path) -> None:
    federation = Federation(tmp_path, (*HONEST, "mallory"))
    federation.sites["mallory"].behave(Way.NAN)
    federation.play()
    federation.checked(_last(federation))
    release(federation.house, federation.store, RUN, tmp_path / "out", named=[*HONEST, "mallory"])
    manifest, *_ = read_manifest_file(tmp_path / "out" / MANIFEST)
    assert manifest.taught is not None
    assert [str(one) for one in manifest.taught] == list(HONEST)


@pytest.mark.parametrize("way", [Way.HONEST, Way.REFUSES, Way.NAN, Way.OBJECTS])
def test_where_sites_are_protected_the_manifest_says_the_same_whatever_a_site_did(way: Way, tmp_path: Path) -> None:
    """Whoever gets the adapter gets the manifest too: it may not tell, without noise, whose update is in it."""
    protected = SETTINGS.model_copy(update={"site_privacy": SitePrivacySettings(epsilon=2.0, delta=1e-3, clip=0.01)})
    federation = Federation(tmp_path, HONEST, protected)
    federation.sites["carla"].behave(way)
    federation.play()
    federation.checked(_last(federation))
    release(federation.house, federation.store, RUN, tmp_path / "out", despite="they agreed", named=["anna"])
    manifest, *_ = read_manifest_file(tmp_path / "out" / MANIFEST)
    assert manifest.taught is None
    assert manifest.asked is not None
    assert [one.name for one in manifest.asked] == ["anna", None, None]
    if way is Way.OBJECTS:
        assert manifest.against == (NOT_ALL_AGREE,)
    else:
        assert (manifest.against, manifest.despite) == ((), None)


def test_a_site_that_was_not_asked_cannot_be_named_and_nothing_is_left(tmp_path: Path) -> None:
    federation = Federation(tmp_path, HONEST)
    federation.play()
    federation.checked(_last(federation))
    with pytest.raises(RunError, match="did not ask"):
        release(federation.house, federation.store, RUN, tmp_path / "out", named=["zoe"])
    assert not (tmp_path / "out").exists()
    assert federation.store.releases(RUN) == []


def _silent_at_the_look(federation: Federation, site: str) -> Post:
    post = federation.post()

    def turn() -> None:
        if post.pushes == 1:
            federation.sites[site].behave(Way.SILENT)

    post.on_pull = turn
    return post
