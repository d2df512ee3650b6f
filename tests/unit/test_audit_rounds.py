"""What the record says of rounds, sites and privacy, and which rounds somebody wants to see."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BottegaError, LedgerError, SettingsError
from common.settings import PrivacySettings, RunSettings, SitePrivacySettings
from security.audit.people import find_site, privacy_rows, round_facts, site_facts
from security.audit.rounds import COLUMNS, VERDICTS, Wanted, find_round, find_run, row, rows, since, to_csv
from security.audit.tell import in_words
from security.audit.words import terms_of
from security.chronicle import Chronicle, Line
from security.entries import Entry, Restored, Rotated, TakenBack, seconds_of
from tests.ledgers import RUN, SITES, Story, a_story, digest, some_members

OTHER = "20261103-101500-cd34"


def chronicle_of(entries: list[Entry]) -> Chronicle:
    return Chronicle.of(Line(index, entry) for index, entry in enumerate(entries))


@pytest.fixture(scope="module")
def told() -> Chronicle:
    """Two runs: the story's, and one of two rounds without privacy in which a site is silent and one taken back."""
    story = a_story(some_members())
    story.start(OTHER, SITES, RunSettings(rounds=2, privacy=False))
    story.open_round(OTHER, 1, SITES)
    for site in SITES:
        story.update(OTHER, 1, site, privacy=None)
    story.close_round(OTHER, 1, SITES)
    story.open_round(OTHER, 2, SITES)
    for site in ("bianchi", "rossi"):
        story.update(OTHER, 2, site, privacy=None)
    back = TakenBack(
        at=story.at(), run=OTHER, round=1, found_in=2, sites=["rossi"], reason="it makes the model worse for others"
    )
    story.entries.append(back)
    story.close_round(OTHER, 2, ["bianchi", "rossi"])
    return chronicle_of(story.entries)


def numbers(told: Chronicle, **wanted: str) -> list[tuple[str, int]]:
    return [(one["run"], one["round"]) for one in rows(told, Wanted(**wanted))]


def test_without_a_filter_all_rounds_come_in_order(told: Chronicle) -> None:
    assert numbers(told) == [(RUN, 1), (RUN, 2), (RUN, 3), (RUN, 4), (OTHER, 1), (OTHER, 2)]


def test_rounds_are_filtered_by_run_site_verdict_and_time(told: Chronicle) -> None:
    assert numbers(told, run=OTHER) == [(OTHER, 1), (OTHER, 2)]
    assert numbers(told, site="vandal") == [(RUN, 1), (RUN, 2), (RUN, 3), (RUN, 4)]
    assert numbers(told, verdict="clipped") == [(RUN, 3)]
    assert numbers(told, verdict="refused") == [(RUN, 2)]
    assert numbers(told, verdict="refused", site="verdi") == []
    assert numbers(told, verdict="taken back") == [(OTHER, 1)]
    assert numbers(told, verdict="silent") == [(OTHER, 2)]
    assert numbers(told, since=told.runs[OTHER].started.at) == [(OTHER, 1), (OTHER, 2)]
    assert numbers(told, since="2027-01-01T00:00:00.000Z") == []


@given(run=st.sampled_from([None, RUN, OTHER, "no"]), site=st.sampled_from([None, *SITES, "vandal", "no"]),
       verdict=st.sampled_from([None, *VERDICTS]))  # fmt: skip
def test_a_filter_takes_exactly_the_rounds_that_fit_each_of_its_parts(
    run: str | None, site: str | None, verdict: str | None, told: Chronicle
) -> None:
    every = list(rows(told, Wanted()))
    expected = [
        one
        for one in every
        if (run is None or one["run"] == run)
        and (site is None or site in one["verdicts"])
        and (verdict is None or verdict in ([one["verdicts"][site]] if site else one["verdicts"].values()))
    ]
    assert list(rows(told, Wanted(run, site, verdict))) == expected


def test_a_row_says_who_was_averaged_and_who_was_not(told: Chronicle) -> None:
    one = row(RUN, told.runs[RUN].rounds[2])
    assert (one["averaged"], one["left_out"], one["silent"]) == (["bianchi", "verdi"], ["rossi", "vandal"], [])
    assert one["epsilon"] == 3.0
    assert one["verdicts"] == {"bianchi": "admitted", "rossi": "refused", "vandal": "rejected", "verdi": "admitted"}
    assert row(OTHER, told.runs[OTHER].rounds[1])["taken_back"] == ["rossi"]
    assert row(OTHER, told.runs[OTHER].rounds[2])["silent"] == ["verdi"]


def test_csv_reads_back_with_its_names(told: Chronicle) -> None:
    found = list(rows(told, Wanted()))
    read = list(csv.DictReader(io.StringIO(to_csv(found), newline="")))
    assert list(read[0]) == list(COLUMNS)
    assert [one["round"] for one in read] == ["1", "2", "3", "4", "1", "2"]
    assert read[1]["left_out"] == "rossi vandal"
    assert read[3]["adapter"] == ""


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20))
def test_a_text_in_csv_reads_back_and_is_no_formula(text: str) -> None:
    (read,) = csv.reader(io.StringIO(to_csv([{"a": text}], ["a"]).partition("\r\n")[2], newline=""))
    assert read in ([text], [f"'{text}"], [])
    assert not (read and read[0].startswith(("=", "+", "-", "@")))


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-02", "2026-11-02T00:00:00.000Z"),
        ("2026-11-02T09:30", "2026-11-02T09:30:00.000Z"),
        ("2026-11-02T09:30:00+01:00", "2026-11-02T08:30:00.000Z"),
        ("2026-11-02T09:30:00Z", "2026-11-02T09:30:00.000Z"),
    ],
)
def test_a_time_is_read_as_utc_unless_it_says_otherwise(text: str, at: str) -> None:
    assert since(text) == at


@given(text=st.text(max_size=30))
def test_whatever_is_no_time_is_refused_in_words(text: str) -> None:
    try:
        read = since(text)
    except SettingsError:
        return
    assert since(read) == read


def test_a_run_is_found_by_its_id_its_beginning_or_as_the_last(told: Chronicle) -> None:
    assert [find_run(told, text).run for text in (RUN, "20261102", "last")] == [RUN, RUN, OTHER]
    with pytest.raises(SettingsError, match="--since is no time"):
        since("yesterday")
    for text, words in (("2026", "several runs begin so"), ("x", "knows no such run"), ("", "knows no such run")):
        with pytest.raises(LedgerError, match=words):
            find_run(told, text)
    with pytest.raises(LedgerError, match="a record with a run"):
        find_run(Chronicle(), "last")


def test_an_unknown_round_is_said_to_be_so_with_those_there_are(told: Chronicle) -> None:
    assert find_round(told.runs[RUN], 3).number == 3
    with pytest.raises(LedgerError, match=r"expected 1 to 4"):
        find_round(told.runs[RUN], 5)


def test_a_round_is_told_with_every_verdict_and_the_entry_that_says_it(told: Chronicle) -> None:
    facts = round_facts(told.runs[RUN], told.runs[RUN].rounds[1])
    by = {one["site"]: one for one in facts["updates"]}
    assert by["vandal"]["reason"].startswith("stranger than")
    assert (by["vandal"]["standing"], by["vandal"]["check"], by["vandal"]["p_value"]) == ("rejected", 17, 0.004)
    assert by["rossi"]["sealed"] == digest(f"{RUN} 1 rossi")
    entries = [facts["opened_by_entry"], *(one["entry"] for one in facts["updates"]), facts["closed_by_entry"]]
    assert entries == list(range(entries[0], entries[0] + 6))


def test_what_was_taken_back_says_why_and_when_it_was_found(told: Chronicle) -> None:
    facts = round_facts(told.runs[OTHER], told.runs[OTHER].rounds[1])
    back = next(one for one in facts["updates"] if one["site"] == "rossi")
    assert back["taken_back"] == {"found_in": 2, "reason": "it makes the model worse for others"}


def test_everything_about_one_site(told: Chronicle) -> None:
    member = find_site(told, "rossi")
    facts = site_facts(told, member, now=seconds_of(member.lines[-1].entry.at) + 86_400 * 3)
    assert (facts["status"], facts["keys_age_days"], facts["rotations"]) == ("active", 3.0, 0)
    first, second = facts["runs"]
    assert (first["asked"], first["stands"], first["epsilon"]) == (3, {"admitted": 2, "refused": 1}, 4.5)
    assert second["stands"] == {"admitted": 1, "taken back": 1}
    assert [one["words"] for one in facts["history"]] == [
        "rossi is invited by operator anna",
        "rossi belongs to the federation",
    ]
    with pytest.raises(LedgerError, match="bianchi, rossi, vandal, verdi"):
        find_site(told, "nobody")


def test_keys_are_as_old_as_the_last_change_of_them() -> None:
    story = a_story(some_members())
    story.now += 86_400
    rotated = Rotated(at=story.at(), member=story.site("rossi"), serial=1, keys=digest("new"))
    told = chronicle_of([*story.entries, rotated])
    facts = site_facts(told, find_site(told, "rossi"), now=seconds_of(rotated.at))
    assert (facts["keys_since"], facts["keys_age_days"], facts["rotations"]) == (rotated.at, 0.0, 1)


def test_privacy_is_told_by_run_and_site_beside_the_runs_limits(told: Chronicle) -> None:
    found = {(one["run"], one["site"]): one for one in privacy_rows(told)}
    assert len(found) == 4 + 3
    one = found[RUN, "rossi"]
    assert (one["epsilon"], one["limit_epsilon"], one["steps"]) == (4.5, 8.0, 4)
    assert one["epsilon_by_round"] == {"1": 1.5, "3": 4.5}
    assert (found[OTHER, "rossi"]["private"], found[OTHER, "rossi"]["epsilon"]) == (False, None)
    assert [one["site"] for one in privacy_rows(told, RUN, "verdi")] == ["verdi"]


def test_every_kind_of_entry_has_its_sentence(told: Chronicle) -> None:
    story = a_story(some_members())
    extra: list[Entry] = [
        Restored(at=story.at(), roster=3),
        TakenBack(at=story.at(), run=RUN, round=1, found_in=2, sites=["rossi"], reason="harm"),
        Rotated(at=story.at(), member=story.site("rossi"), serial=1, keys=digest("new")),
    ]
    story.reinstate("rossi", "talked to them")
    for entry in [*story.entries, *extra]:
        words = in_words(entry)
        assert words
        assert not words.endswith(".")
        assert "spiffe://studios.test/site" not in words


SETTINGS = [
    RunSettings(),
    RunSettings(privacy=False, detector=False),
    RunSettings(privacy=PrivacySettings(unit="artist")),
    RunSettings(site_privacy=SitePrivacySettings(), detector=False),
    RunSettings.model_validate({"aggregation": {"robust": {"hostile": 0}}}),
    RunSettings.model_validate({"lora": {"method": "core"}, "aggregation": {"optimiser": "adam"}}),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_are_said_in_words_of_every_kind_of_run(settings: RunSettings) -> None:
    terms = {term.about: term.words for term in terms_of(settings.model_dump(mode="json"))}
    assert len(terms) == 9
    private = "none: updates and adapter can tell" if not settings.privacy else "noise that the site adds"
    assert private in terms["Privacy of drawings"]
    assert (terms["Privacy of sites"] == "none") is not bool(settings.site_privacy)
    assert ("none: whatever" in terms["Detector"]) is not bool(settings.detector)


def test_settings_of_another_version_are_shown_as_they_stand() -> None:
    unknown: dict[str, Any] = {"rounds": 3, "qubits": 7}
    assert [(term.about, term.words) for term in terms_of(unknown)] == [("qubits", "7"), ("rounds", "3")]


def test_an_empty_record_has_no_rounds_and_no_privacy() -> None:
    story = Story()
    story.found(b"k" * 32, digest("authority"))
    told = chronicle_of(story.entries)
    assert (list(rows(told, Wanted())), list(privacy_rows(told))) == ([], [])
    with pytest.raises(BottegaError):
        find_site(told, "rossi")
