"""The evidence pack: its facts are the record's, page and document say the same, and no network is asked."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader

from common.settings import PrivacySettings, RunSettings, SitePrivacySettings
from deploy.evidence import evidence_of, write_pack
from security.audit.record import Record
from security.entries import RunStarted
from tests.ledgers import REJECTED, RUN, SITES, Members, Story, a_ledger, a_story, some_members, trust_in

MEMBERS = some_members()
NOW = 1_793_700_000.0


def evidence(folder: Path, story: Story | None = None, run: str = "last", members: Members = MEMBERS) -> dict[str, Any]:
    with a_ledger(folder / "l.db", members, story) as mirror:
        return evidence_of(Record(mirror.reader, trust_in(members), "a copy"), run, NOW)


def begun(settings: RunSettings) -> Story:
    story = Story()
    authority = a_story(MEMBERS).entries[0]
    story.entries.append(authority)
    story.join(*SITES)
    story.start(RUN, SITES, settings)
    return story


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evidence(tmp_path_factory.mktemp("evidence"))


@pytest.fixture(scope="module")
def pack(facts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The text of the page and of the document."""
    page, document = write_pack(facts, tmp_path_factory.mktemp("pack") / "out")
    return page.read_text("utf-8"), text_of(document)


def text_of(document: Path) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(document).pages)


def words_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.split("</style>")[1]).split())


def test_facts_are_what_json_can_say(facts: dict[str, Any]) -> None:
    assert json.loads(json.dumps(facts)) == facts


def test_the_pack_says_what_was_trained_by_whom_on_which_terms(facts: dict[str, Any]) -> None:
    assert (facts["operator"], facts["status"]) == ("operator anna", "finished")
    assert facts["sites"] == ["bianchi", "rossi", "vandal", "verdi"]
    assert {term["about"] for term in facts["terms"]} >= {"Base model", "Adapter", "Privacy of drawings", "Detector"}
    assert facts["updates"]["all"] == 12
    assert {word: facts["updates"][word] for word in ("admitted", "clipped", "rejected", "refused")} == {
        "admitted": 7, "clipped": 1, "rejected": 3, "refused": 1,
    }  # fmt: skip


def test_rejections_stand_with_their_reasons_and_entries(facts: dict[str, Any]) -> None:
    assert [(one["round"], one["site"], one["standing"]) for one in facts["left_out"]] == [
        (1, "vandal", "rejected"), (2, "rossi", "refused"), (2, "vandal", "rejected"), (3, "vandal", "rejected"),
        (3, "verdi", "clipped"),
    ]  # fmt: skip
    assert all(one["reason"] and one["entry"] for one in facts["left_out"])


def test_the_matrix_has_every_site_in_every_round(facts: dict[str, Any]) -> None:
    matrix = facts["matrix"]
    assert matrix["rounds"] == [1, 2, 3, "look"]
    by = {one["site"]: [cell["standing"] for cell in one["cells"]] for one in matrix["sites"]}
    assert by["rossi"] == ["admitted", "refused", "admitted", "admitted"]
    assert by["vandal"] == ["rejected"] * 3 + ["admitted"]


def test_checkpoints_that_cover_the_run_stand_with_their_witnesses(facts: dict[str, Any]) -> None:
    last = facts["checkpoints"][-1]
    assert last["covers"]
    assert [sign["site"] for sign in last["cosigned"]] == ["bianchi", "rossi", "verdi"]
    assert last["root"] == facts["verification"]["root"]
    assert last["note"].startswith("studios.test/bottega\n")


def test_page_and_document_say_the_same(facts: dict[str, Any], pack: tuple[str, str]) -> None:
    page, document = words_of(pack[0]), " ".join(pack[1].split())
    for said in (
        RUN, "studios.test", "The record holds", facts["order"], facts["base"], facts["verification"]["root"],
        "no answer by the round's deadline", "How to verify this yourself", "Article 32(1)(a)", "A.6.2.8",
        "They certify nothing", "sent noise for a month",
    ):  # fmt: skip
        assert said in page.replace("&#39;", "'"), said
        assert said in document, said
    for law in facts["law"]:
        for item in law["items"]:
            assert item["title"] in page.replace("&amp;", "&")


def test_the_page_asks_no_network_and_runs_nothing(pack: tuple[str, str]) -> None:
    page = pack[0]
    assert not re.search(r"<(script|img|link|iframe|object|embed|form)\b", page)
    assert not re.search(r"(src|href)=.(?!#)", page)
    assert "url(" not in page
    assert "default-src 'none'" in page
    assert "@media print" in page


def test_no_fact_claims_that_anything_is_complied_with(facts: dict[str, Any]) -> None:
    said = " ".join(fact for law in facts["law"] for item in law["items"] for fact in item["facts"]).lower()
    for claim in ("complian", "complies", "certified", "conform", "fulfil", "satisf"):
        assert claim not in said
    assert [law["law"] for law in facts["law"]] == ["Regulation (EU) 2016/679 (GDPR)", "ISO/IEC 42001:2023, Annex A"]
    numbers = [item["number"] for law in facts["law"] for item in law["items"]]
    for number in ("Article 5", "Article 25", "Article 30", "Article 32", "A.6.2.8", "A.7.5"):
        assert any(one.startswith(number) for one in numbers)


def test_a_run_without_privacy_says_so_where_it_counts(tmp_path: Path) -> None:
    story = begun(RunSettings(rounds=1, privacy=False))
    story.open_round(RUN, 1, SITES)
    for site in SITES:
        story.update(RUN, 1, site, privacy=None)
    story.close_round(RUN, 1, SITES)
    facts = evidence(tmp_path, story)
    page, document = write_pack(facts, tmp_path)
    assert "This run was not private" in page.read_text("utf-8")
    assert "This run was not private" in " ".join(text_of(document).split())
    by_default = next(item for item in facts["law"][0]["items"] if item["number"] == "Article 25(2)")
    assert by_default["facts"][0].endswith("This one's does.")


def test_a_run_that_protects_sites_as_a_whole_says_what_it_cost(tmp_path: Path) -> None:
    story = begun(RunSettings(rounds=1, site_privacy=SitePrivacySettings(), detector=False))
    story.open_round(RUN, 1, SITES)
    for site in SITES:
        story.update(RUN, 1, site)
    story.close_round(RUN, 1, SITES)
    story.entries[-1] = story.entries[-1].model_copy(update={"site_epsilon": 2.5})
    page, _ = write_pack(evidence(tmp_path, story), tmp_path)
    assert "ε = 2.5 of 8" in page.read_text("utf-8")


def test_a_run_that_has_only_begun_makes_a_pack_too(tmp_path: Path) -> None:
    facts = evidence(tmp_path, begun(RunSettings()))
    page, document = write_pack(facts, tmp_path)
    assert "Nobody: every update" in page.read_text("utf-8")
    assert "not yet" in text_of(document)


def test_settings_of_another_version_make_a_pack_too(tmp_path: Path) -> None:
    story = begun(RunSettings())
    started = story.entries[-1]
    assert isinstance(started, RunStarted)
    story.entries[-1] = started.model_copy(update={"settings": {"rounds": 2, "qubits": "many " * 4000}})
    facts = evidence(tmp_path, story)
    page, document = write_pack(facts, tmp_path)
    assert facts["private"] is None
    assert "is not known here" in page.read_text("utf-8")
    assert "the page has all of it" in " ".join(text_of(document).split())


def test_a_record_that_does_not_hold_says_so_on_the_first_page(tmp_path: Path) -> None:
    story = a_story(MEMBERS)
    story.close_round(RUN, 3, SITES)
    facts = evidence(tmp_path, story)
    page, document = write_pack(facts, tmp_path)
    assert "The record does not hold" in page.read_text("utf-8")
    assert "The record does not hold" in PdfReader(document).pages[0].extract_text()
    assert "round-closed-twice" in page.read_text("utf-8")


def test_words_of_people_are_shown_as_they_are_and_never_as_markup(tmp_path: Path) -> None:
    story = begun(RunSettings(rounds=1))
    story.open_round(RUN, 1, SITES)
    story.update(
        RUN, 1, "rossi", **{**REJECTED, "reason": "<script>alert(1)</script> ῥόδον Żółw 漢字 \u2028 " + "x" * 900}
    )
    story.close_round(RUN, 1, [], "kept")
    page, document = write_pack(evidence(tmp_path, story), tmp_path)
    assert "<script>" not in page.read_text("utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt; ῥόδον Żółw 漢字" in page.read_text("utf-8")
    assert "Żółw" in text_of(document)


def test_many_sites_and_rounds_make_a_pack_of_bounded_size(tmp_path: Path) -> None:
    sites = [f"studio-{number:03d}" for number in range(60)]
    story = Story()
    story.entries.append(a_story(MEMBERS).entries[0])
    story.join(*sites)
    settings = RunSettings(rounds=30, privacy=PrivacySettings(epsilon=99))
    story.play(RUN, sites, 30, settings, {(n, "studio-007"): REJECTED for n in range(1, 31)})
    facts = evidence(tmp_path, story)
    assert [one["what"] for one in facts["verification"]["faults"]] == ["another-roster"], "whose versions are invented"
    page, document = write_pack(facts, tmp_path)
    assert page.stat().st_size < 2_000_000
    assert 5 < len(PdfReader(io.BytesIO(document.read_bytes())).pages) < 40


def test_the_same_record_at_the_same_moment_makes_the_same_pack(facts: dict[str, Any], tmp_path: Path) -> None:
    one, other = write_pack(facts, tmp_path / "one"), write_pack(facts, tmp_path / "other")
    assert one[0].read_bytes() == other[0].read_bytes()
    assert text_of(one[1]) == text_of(other[1])
