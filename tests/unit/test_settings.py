"""Settings: frozen, unknown keys refused with the nearest known one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.errors import SettingsError
from common.settings import MemberSettings, RunSettings, TrainingSettings, parse, parse_json, read_toml


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(SettingsError, match=r"'training.stepps' is not a setting; expected 'steps'"):
        parse(RunSettings, {"training": {"stepps": 3}}, "run.toml")


def test_a_value_that_does_not_fit_is_named() -> None:
    with pytest.raises(SettingsError, match=r"run.toml: 'rounds' does not fit; got -1"):
        parse(RunSettings, {"rounds": -1}, "run.toml")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            {"privacy": {"epsilon": 0}},
            "run.toml: 'privacy.epsilon' does not fit; got 0; expected Input",
        ),
        ({"privacy": {"epsilon": float("nan")}}, "'privacy.epsilon' does not fit; got nan"),
        ({"privacy": {"epsilom": 3.0}}, "'privacy.epsilom' is not a setting; expected 'epsilon'"),
        ({"privacy": True}, "'privacy' does not fit; got True; expected a table"),
        ({"site_privacy": {"clip": -1}}, "'site_privacy.clip' does not fit"),
    ],
    ids=str,
)
def test_a_table_that_may_also_be_false_is_named_as_it_was_written(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        parse(RunSettings, wrong, "run.toml")


def test_a_misspelt_key_is_told_before_the_one_that_is_missing_for_it() -> None:
    whole = {"federation": "a.b", "role": "operator", "name": "anna", "registri": "a:1"}
    with pytest.raises(SettingsError, match="'registri' is not a setting; expected 'registry'"):
        parse(MemberSettings, whole, "member.toml")
    del whole["registri"]
    with pytest.raises(SettingsError, match="'registry' is missing"):
        parse(MemberSettings, whole, "member.toml")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        RunSettings().rounds = 7


def test_settings_survive_json() -> None:
    settings = RunSettings(rounds=3, training=TrainingSettings(steps=2, batch=4))
    assert parse_json(RunSettings, settings.model_dump_json(), "x") == settings


@given(st.text(max_size=40))
def test_any_text_is_settings_or_a_clear_error(text: str) -> None:
    try:
        settings = parse_json(RunSettings, text, "the file")
    except SettingsError as why:
        message = str(why)
    else:
        message = f"the file holds {settings}"
    assert message.startswith("the file")


def test_a_toml_file_that_is_no_toml_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(b"rounds = \xff")
    with pytest.raises(SettingsError, match=r"run.toml cannot be read"):
        read_toml(RunSettings, file)


def test_a_batch_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(SettingsError, match="65536"):
        parse(TrainingSettings, {"batch": 65_536, "accumulate": 2}, "task")


@pytest.mark.parametrize("chosen", [{"optimiser": "adam"}, {"momentum": 0.5}, {"server_learning_rate": 0.5}])
def test_a_server_optimiser_with_both_factors_is_refused_before_the_run_starts(chosen: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match='which `method = "both"` has none of'):
        parse(RunSettings, {"lora": {"method": "both"}, "aggregation": chosen}, "the run")


def test_a_cap_whose_weights_would_not_be_exact_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"aggregation.example_cap.*less than or equal to 268435456"):
        parse(RunSettings, {"aggregation": {"example_cap": 2**28 + 1}}, "the run")


def test_dropout_and_the_privacy_of_drawings_do_not_go_together() -> None:
    with pytest.raises(SettingsError, match="does not fit") as caught:
        parse(RunSettings, {"lora": {"dropout": 0.1}}, "run.toml")
    assert "one drawing would change" in str(caught.value.expected)
    assert parse(RunSettings, {"lora": {"dropout": 0.1}, "privacy": False}, "run.toml").lora.dropout == 0.1
