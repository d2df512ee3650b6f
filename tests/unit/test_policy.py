"""House rules: what a run may ask is the site's own to say. A line of a rule's table is a line here."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import policy
from client.dataset import TrainingSet
from client.policy import Asked, HouseRules, RuleError, Stopwatch, check_hours, check_rules
from client.settings import SiteSettings
from client.training import train
from client.work import asked as asked_by
from common.adapter_schema import AdapterSchema, LoraModule
from common.errors import SettingsError
from common.models import Base, attach_lora
from common.settings import LoraSettings, PrivacySettings, RunSettings, TrainingSettings, parse, read_toml
from security.names import Role, SpiffeId
from security.run_order import RunOrder
from server.start import fresh_state

ROME = ZoneInfo("Europe/Rome")
NOW = dt.datetime(2026, 11, 23, 12, 0, tzinfo=ROME)  # a Monday
BASE, OTHER = "b" * 64, "0" * 64
ASKED = Asked("anna", 2, BASE, LoraSettings(), TrainingSettings(), PrivacySettings())


def asking(
    *,
    operator: str = "anna",
    sites: int = 2,
    base: str = BASE,
    lora: LoraSettings | None = None,
    training: TrainingSettings | None = None,
    privacy: PrivacySettings | Literal[False] | None = None,
) -> Asked:
    return Asked(
        operator, sites, base, lora or LoraSettings(), training or TrainingSettings(),
        PrivacySettings() if privacy is None else privacy,
    )  # fmt: skip


def onto(*targets: str) -> Asked:
    return asking(lora=LoraSettings(targets=targets))


def training(**settings: float) -> Asked:
    """Without privacy: with it neither batches nor measurements are as these settings say."""
    return asking(training=TrainingSettings.model_validate(settings), privacy=False)


def private(**settings: float | str) -> Asked:
    return asking(privacy=PrivacySettings.model_validate(settings))


OPEN = partial(HouseRules, without_privacy=True)


TWENTY_STEPS = training(steps=20, batch=8, accumulate=4)

PASSES: dict[str, tuple[HouseRules, Asked]] = {
    "no rule": (HouseRules(), ASKED),
    "any operator": (HouseRules(), asking(operator="somebody")),
    "the operator": (HouseRules(operators=("ann", "anna")), ASKED),
    "any base": (HouseRules(), asking(base=OTHER)),
    "one of several bases": (HouseRules(bases=(OTHER, BASE)), ASKED),
    "any layers": (HouseRules(), onto("anything", "at.all")),
    "the layers": (HouseRules(targets=("to_q",)), onto("to_q")),
    "fewer layers": (HouseRules(targets=("to_q",)), onto("attn1.to_q")),
    "either method": (HouseRules(), asking(lora=LoraSettings(method="both"))),
    "the method": (HouseRules(methods=("ffa",)), asking(lora=LoraSettings(method="ffa"))),
    "just the rank": (HouseRules(most_rank=8), asking(lora=LoraSettings(rank=8))),
    "just the steps": (OPEN(most_steps=20), TWENTY_STEPS),
    "just the private steps": (HouseRules(most_steps=2), private(steps=2)),
    "just the batch": (OPEN(most_batch=32), TWENTY_STEPS),
    "just the examples": (OPEN(most_examples=640), TWENTY_STEPS),
    "just the measured": (OPEN(most_measured=256), training(held_out_most=64, held_out_draws=4)),
    "a private run measures nothing": (HouseRules(most_measured=1), ASKED),
    "just the learning rate": (OPEN(most_learning_rate=0.01), training(learning_rate=0.01)),
    "without privacy, where that is allowed": (OPEN(), asking(privacy=False)),
    "any epsilon": (HouseRules(), private(epsilon=1000.0)),
    "just the epsilon": (HouseRules(most_epsilon=8), private(epsilon=8.0)),
    "each artist where each drawing is enough": (HouseRules(), private(unit="artist")),
    "each artist": (HouseRules(protect="artist"), private(unit="artist")),
    "just the draws": (HouseRules(most_draws=4), private(multiplicity=4)),
    "any sites": (HouseRules(), asking(sites=1)),
    "just the sites": (HouseRules(least_sites=3), asking(sites=3)),
}

REFUSED: dict[str, tuple[HouseRules, Asked, str]] = {
    "operators": (HouseRules(operators=("ann",)), ASKED, "runs of this operator (rules.operators); got anna"),
    "operators: not known": (HouseRules(operators=("anna",)), asking(operator=""), "got nobody; expected anna"),
    "bases": (HouseRules(bases=(OTHER,)), ASKED, f"got {BASE[:16]}; expected {OTHER[:16]}"),
    "targets: more layers": (HouseRules(targets=("attn1.to_q",)), onto("to_q"), "got 'to_q'; expected attn1.to_q"),
    "targets: a part of a name": (HouseRules(targets=("to_q",)), onto("proj_to_q"), "got 'proj_to_q'; expected to_q"),
    "targets: one of two": (HouseRules(targets=("to_q",)), onto("to_q", "ff.net.2"), "got 'ff.net.2'; expected to_q"),
    "methods": (HouseRules(methods=("ffa",)), asking(lora=LoraSettings(method="both")), "got both; expected ffa"),
    "most_rank": (HouseRules(most_rank=8), asking(lora=LoraSettings(rank=9)), "got 9; expected at most 8"),
    "most_steps": (OPEN(most_steps=19), TWENTY_STEPS, "got 20; expected at most 19"),
    "most_steps: private": (HouseRules(most_steps=1), private(steps=2), "got 2; expected at most 1"),
    "most_batch": (OPEN(most_batch=32), training(batch=8, accumulate=5), "got 40; expected at most 32"),
    "most_examples": (OPEN(most_examples=639), TWENTY_STEPS, "got 640; expected at most 639"),
    "without_privacy": (HouseRules(), asking(privacy=False), "got privacy = false; expected privacy"),
    "most_epsilon": (HouseRules(most_epsilon=8), private(epsilon=8.1), "got 8.1; expected at most 8"),
    "protect": (HouseRules(protect="artist"), ASKED, "got each drawing; expected each artist"),
    "most_draws": (HouseRules(most_draws=3), private(multiplicity=4), "got 4; expected at most 3"),
    "most_measured": (
        OPEN(most_measured=256), training(held_out_most=64, held_out_draws=5), "got 320; expected at most 256",
    ),
    "most_learning_rate": (OPEN(most_learning_rate=0.01), training(learning_rate=0.011), "got 0.011; expected"),
    "least_sites": (HouseRules(least_sites=3), ASKED, "got 2; expected at least 3"),
    "least_sites: not known": (HouseRules(), asking(sites=0), "got 0; expected at least 1"),
}  # fmt: skip


def key_of(line: str) -> str:
    return line.partition(":")[0]


@pytest.mark.parametrize("line", PASSES)
def test_what_is_within_a_rule_passes(line: str) -> None:
    rules, asked = PASSES[line]
    check_rules(rules, asked, NOW)


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_beyond_a_rule_is_refused_by_its_name(line: str) -> None:
    rules, asked, words = REFUSED[line]
    with pytest.raises(RuleError) as caught:
        check_rules(rules, asked, NOW)
    assert caught.value.rule == f"rules.{key_of(line)}"
    assert f"({caught.value.rule})" in str(caught.value)
    assert words in str(caught.value)


def test_every_setting_but_those_of_asking_time_and_the_last_look_has_a_line_that_refuses() -> None:
    elsewhere = {"ask", "hours", "timezone", "most_seconds", "most_copied", "ballots"}
    assert {key_of(line) for line in REFUSED} == set(HouseRules.model_fields) - elsewhere


def test_a_rule_without_a_number_to_compare_refuses() -> None:
    no_number = dataclasses.replace(
        asking(privacy=False), training=TrainingSettings.model_construct(learning_rate=float("nan"))
    )
    with pytest.raises(RuleError, match=r"rules\.most_learning_rate"):
        policy.check_learning_rate(HouseRules(), no_number)


def test_all_rules_that_are_broken_are_named_at_once() -> None:
    rules = HouseRules(most_rank=4, most_steps=5, hours=("Sun",), timezone="Europe/Rome")
    with pytest.raises(RuleError) as caught:
        check_rules(rules, TWENTY_STEPS, NOW)
    assert caught.value.rule == "rules.most_rank, rules.most_steps, rules.without_privacy, rules.hours"
    for words in ("got 8, expected at most 4", "got 20, expected at most 5", "got Mon 12:00, expected Sun"):
        assert words in str(caught.value)


def test_words_of_an_operator_are_shown_as_words() -> None:
    with pytest.raises(RuleError) as caught:
        check_rules(HouseRules(targets=("to_q",)), onto("to_k\n\x1b[31mall is well", "x" * 5000), NOW)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@given(broken=st.sets(st.sampled_from(sorted(REFUSED))), order=st.permutations(policy.RULES))
def test_the_order_of_rules_decides_nothing(broken: set[str], order: list[Callable[[HouseRules, Asked], None]]) -> None:
    # Of the lines about one key, one counts.
    chosen = {key_of(line): REFUSED[line][0] for line in sorted(broken)}
    tight = {key: getattr(rules, key) for key, rules in chosen.items()}
    rules = HouseRules.model_validate(tight)
    with pytest.MonkeyPatch.context() as patch:
        before = verdict(rules)
        patch.setattr(policy, "RULES", tuple(order))
        assert verdict(rules) == before


def verdict(rules: HouseRules) -> frozenset[str]:
    try:
        check_rules(rules, TWENTY_STEPS, NOW)
    except RuleError as why:
        return frozenset(why.rule.split(", "))
    return frozenset()


@given(steps=st.integers(1, 5000), most=st.integers(1, 5000))
def test_no_run_ever_gets_more_steps_than_the_house_allows(steps: int, most: int) -> None:
    try:
        check_rules(OPEN(most_steps=most), training(steps=steps, batch=1), NOW)
    except RuleError:
        assert steps > most
    else:
        assert steps <= most


def test_of_an_orders_sites_those_count_without_which_a_round_changes_nothing() -> None:
    order = RunOrder(
        "r1", SpiffeId("fed.example", Role.OPERATOR, "anna"), RunSettings(quorum=2), BASE,
        AdapterSchema((LoraModule("mid.attn.to_q", 6, 5, 2),)), ("bianchi", "rossi", "verdi"), 0,
    )  # fmt: skip
    assert asked_by(order) == Asked(
        "anna", 2, BASE, order.settings.lora, order.settings.training, order.settings.privacy
    )


# Time


def at(day: int, clock: str, fold: int = 0, month: int = 11) -> dt.datetime:
    """Return a time in Rome; 23 November 2026 is a Monday."""
    return dt.datetime.fromisoformat(f"2026-{month:02}-{day:02}T{clock}").replace(tzinfo=ROME, fold=fold)


NIGHTS = ("Mon-Fri 19:00-07:00",)


@pytest.mark.parametrize(
    ("hours", "now", "works"),
    [
        ((), at(23, "12:00"), True),
        (NIGHTS, at(27, "19:00"), True),
        (NIGHTS, at(28, "06:59"), True),
        (NIGHTS, at(28, "07:00"), False),
        (NIGHTS, at(23, "06:59"), False),
        ((*NIGHTS, "Mon 05:00-12:00"), at(23, "06:59"), True),
        (("02:00-03:00",), at(25, "02:30", month=10), True),
        (("02:00-03:00",), at(25, "02:30", fold=1, month=10), True),
    ],
    ids=["none", "friday night", "saturday morning", "its end", "monday morning", "the second of two", "once", "twice"],
)
def test_a_site_works_within_its_hours(hours: tuple[str, ...], now: dt.datetime, works: bool) -> None:
    rules = HouseRules(hours=hours, timezone="Europe/Rome") if hours else HouseRules()
    asked_at = now.astimezone(dt.UTC)  # as the agent tells the time: the rule finds the wall's own
    if works:
        check_hours(rules, asked_at)
        return
    with pytest.raises(RuleError, match=r"work at this hour \(rules\.hours\); got ... 0\d:\d\d; expected Mon-Fri"):
        check_hours(rules, asked_at)


class Clock:
    """Seconds and time, as a test says."""

    def __init__(self, now: dt.datetime = NOW) -> None:
        self.seconds, self.began = 100.0, now

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> dt.datetime:
        return self.began + dt.timedelta(seconds=self.seconds - 100)


def test_work_goes_on_for_just_the_seconds_allowed() -> None:
    clock = Clock()
    watch = Stopwatch(HouseRules(most_seconds=10), clock, clock.now)
    clock.seconds += 10
    watch()
    clock.seconds += 0.5
    with pytest.raises(RuleError, match=r"\(rules\.most_seconds\); got more; expected at most 10") as caught:
        watch()
    assert caught.value.rule == "rules.most_seconds"


def test_work_without_a_limit_goes_on() -> None:
    clock = Clock()
    watch = Stopwatch(HouseRules(), clock, clock.now)
    clock.seconds += 10**9
    watch()


def test_work_ends_with_the_hours() -> None:
    clock = Clock(at(28, "06:59"))
    watch = Stopwatch(HouseRules(hours=NIGHTS, timezone="Europe/Rome"), clock, clock.now)
    watch()
    clock.seconds += 60
    with pytest.raises(RuleError, match=r"\(rules\.hours\); got Sat 07:00"):
        watch()


def test_training_is_given_up_when_its_time_is_over(base: Base, latents: Callable[[int], TrainingSet]) -> None:
    clock, lora = Clock(), LoraSettings()
    watch, steps = Stopwatch(HouseRules(most_seconds=2), clock, clock.now), []

    def after_step() -> None:
        clock.seconds += 1
        steps.append(clock.seconds)
        watch()

    adapter = fresh_state(attach_lora(base.unet, lora), RunSettings(lora=lora)).adapter
    data, few = latents(4), TrainingSettings(steps=9, batch=2)
    with pytest.raises(RuleError, match="most_seconds"):
        train(base, adapter, data, lora, few, 0, after_step)
    assert len(steps) == 3, "two steps are in time, the third is not, and there is no fourth"
    again = train(base, adapter, data, lora, few, 0).delta
    assert np.array_equal(again, train(base, adapter, data, lora, few, 0).delta), "what was given up leaves no trace"


# site.toml


def site_toml(tmp_path: Path, rules: str) -> SiteSettings:
    file = tmp_path / "site.toml"
    file.write_text(f'federation = "f"\nname = "n"\nserver = "s:1"\ndata = "d"\n[rules]\n{rules}\n', encoding="utf-8")
    return read_toml(SiteSettings, file)


def test_rules_are_read_from_a_sites_settings(tmp_path: Path) -> None:
    written = f"""
        operators = ["anna"]
        bases = ["{BASE}"]
        targets = ["to_q"]
        most_seconds = 900
        least_sites = 3
        hours = ["Mon-Fri 19:00-07:00", "Sat,Sun"]
        timezone = "Europe/Rome"
        ask = true
    """
    assert site_toml(tmp_path, written).rules == HouseRules(
        operators=("anna",), bases=(BASE,), targets=("to_q",), most_seconds=900, least_sites=3,
        hours=("Mon-Fri 19:00-07:00", "Sat,Sun"), timezone="Europe/Rome", ask=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("most_step = 5", "'rules.most_step' is not a setting; expected 'most_steps'"),
        ("hour = ['Sat']", "'rules.hour' is not a setting; expected 'hours'"),
        ("operators = []", "'rules.operators' does not fit"),
        ("operators = 'anna'", "'rules.operators' does not fit"),
        ("methods = []", "'rules.methods' does not fit"),
        ("methods = ['all']", "'rules.methods.0' does not fit"),
        ("bases = ['the embedded one']", "'rules.bases.0' does not fit"),
        ("most_rank = 0", "'rules.most_rank' does not fit"),
        ("most_seconds = inf", "'rules.most_seconds' does not fit"),
        ("most_learning_rate = nan", "'rules.most_learning_rate' does not fit"),
        ("hours = ['nights']", "'rules.hours' does not fit"),
        ("timezone = 'Europe/Rom'", "'rules.timezone' does not fit; got 'Europe/Rom'"),
        ("timezone = '../../etc/passwd'", "'rules.timezone' does not fit"),
        ("timezone = 'Europe'", "'rules.timezone' does not fit"),
        ("timezone = ''", "'rules.timezone' does not fit"),
        ("ask = 'sometimes'", "'rules.ask' does not fit"),
    ],
)
def test_a_rule_that_cannot_be_read_is_one_clear_error(tmp_path: Path, written: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        site_toml(tmp_path, written)
    assert f"site.toml: {words}" in str(caught.value)


def test_the_rules_of_a_site_that_wrote_none_are_these() -> None:
    assert parse(HouseRules, {}, "site.toml") == HouseRules()
    check_rules(HouseRules(), ASKED, NOW)
