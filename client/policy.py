"""House rules: what a site lets a run ask of it. They are the site's own; the server cannot change them.

A rule is a small function: it passes, or raises a :class:`RuleError` that names its key in ``site.toml``. A run keeps
to the policy when it keeps to every rule (:data:`RULES`); one more rule is one more function there and one setting.
All rules that are broken are reported together: a refusal costs the site a round, so who asks too much should hear
once how much less to ask.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from client.hours import read_hours, zone_of
from common.errors import BottegaError
from common.settings import LoraSettings, Method, Positive, PrivacySettings, Settings, Share, TrainingSettings
from security.names import shown

Some = Field(min_length=1)
"""Of a list that allows anything when it is left out: written empty it could mean all or none, so it is refused."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class RuleError(BottegaError):
    """A run asks for something that the house rules do not allow.

    Args:
        what: As in every error.
        rule: The key under ``[rules]`` in ``site.toml``: ``most_steps``; of several, all, with commas between.
        got: What was asked.
        expected: What is allowed.
        advice: The next step, where it is another than the usual one.

    Attributes:
        rule: The key as it is called in full: ``rules.most_steps``.
    """

    advice = "The studio can widen `[rules]` in its site.toml and start the site again; a new run can ask for less."

    def __init__(
        self, what: str, *, rule: str, got: object = None, expected: object = None, advice: str | None = None
    ) -> None:
        self.rule = ", ".join(f"rules.{key}" for key in rule.split(", "))
        super().__init__(f"{what} ({self.rule})", got=got, expected=expected, advice=advice)


class HouseRules(Settings):
    """What a run may ask for: ``[rules]`` in ``site.toml``."""

    operators: Annotated[tuple[str, ...], Some] = ()
    """Names of the operators whose runs are taken; any active one's when left out."""
    bases: Annotated[tuple[Digest, ...], Some] = ()
    """Digests of the bases that may be trained on (`bottega site status` shows the site's); any when left out."""
    targets: Annotated[tuple[str, ...], Some] = ()
    """Ends of the names of the layers that may be adapted; any when left out."""
    methods: Annotated[tuple[Method, ...], Some] = ("ffa", "both", "core")
    most_rank: Positive = 128
    most_steps: Positive = 1000
    """Optimiser steps a round."""
    most_batch: Positive = 1024
    """Drawings a step, accumulation counted in."""
    most_examples: Positive = 1_000_000
    """Drawings a round: steps times drawings a step."""
    most_measured: Positive = 10_000
    """Held-out drawings measured a round, each draw of noise counted."""
    most_seconds: PositiveFloat | None = None
    """Of training a round: what is not done by then is given up, and nothing of it leaves. No limit when left out."""
    most_learning_rate: PositiveFloat = 0.1
    without_privacy: bool = False
    """Take runs that train without differential privacy."""
    most_epsilon: PositiveFloat | None = None
    """What a private run may ask for; the site's budget (`[privacy]`) limits it in any case."""
    protect: Literal["drawing", "artist"] = "drawing"
    """What a private run must at least protect as one: a drawing, or all drawings of one artist."""
    most_draws: Positive = 64
    """Draws of noise a drawing in each step of a private run: what bounds the time of a step."""
    ballots: bool = True
    """Say in rounds that sites examine how far others' updates brought the held-out drawings (noised in private runs).
    A site that does not still trains."""
    most_copied: Share | None = None
    """Share of drawn pictures that may repeat a drawing of the site before it objects to the release of an adapter; the
    site does not look when left out."""
    least_sites: Positive = 1
    """Sites without whose updates a round changes nothing."""
    hours: Annotated[tuple[str, ...], Some] = ()
    """When the site works: `Mon-Fri 19:00-07:00`, `Sat,Sun`, `22:00-06:00`; always when left out."""
    timezone: str | None = None
    """Of `hours`: an IANA name, such as `Europe/Rome`; this machine's own when left out."""
    ask: bool = False
    """Hold each new run until `bottega site approve-run RUN`."""

    @field_validator("hours")
    @classmethod
    def _hours_can_be_read(cls, hours: tuple[str, ...]) -> tuple[str, ...]:
        for text in hours:
            read_hours(text)
        return hours

    @field_validator("timezone")
    @classmethod
    def _zone_is_known(cls, name: str | None) -> str | None:
        zone_of(name)
        return name


@dataclass(frozen=True)
class Asked:
    """What a run asks, as far as house rules look at it.

    Attributes:
        operator: Name of who ordered the run; empty when that is not known.
        sites: The fewest sites that a round of it averages; 0 when that is not known.
        base_digest: SHA-256 over the base's weights, hex.
    """

    operator: str
    sites: int
    base_digest: str
    lora: LoraSettings
    training: TrainingSettings
    privacy: PrivacySettings | Literal[False]

    @property
    def steps(self) -> int:
        """Optimiser steps a round."""
        return self.privacy.steps if self.privacy else self.training.steps

    @property
    def learning_rate(self) -> float:
        """Of the optimiser."""
        return self.privacy.learning_rate if self.privacy else self.training.learning_rate

    @property
    def batch(self) -> int:
        """Drawings a step. Of a private run it is not known: it is a matter of chance, and of how many there are."""
        return 1 if self.privacy else self.training.batch * self.training.accumulate


def check_rules(rules: HouseRules, asked: Asked, now: dt.datetime) -> None:
    """Pass what a run asks, or say which rules forbid it.

    The whole order is checked whatever a task of it asks for: who may not train here may not measure here either.

    Args:
        rules: The house's.
        asked: What is asked.
        now: The time, with its zone.

    Raises:
        RuleError: A rule is broken; of several, each is named.
    """
    checks = (*(partial(rule, rules, asked) for rule in RULES), partial(check_hours, rules, now))
    broken = [why for check in checks if (why := _broken(check)) is not None]
    if len(broken) == 1:
        raise broken[0]
    if broken:
        words = "; ".join(f"{why.what}, got {why.got}, expected {why.expected}" for why in broken)
        raise RuleError(words, rule=", ".join(why.rule.removeprefix("rules.") for why in broken))


class Stopwatch:
    """Holds work that goes on for long to the rules about time: called after each step.

    ============================== ==========
    after                          answer
    ============================== ==========
    any time, no limit             passes
    just the seconds allowed       passes
    more                           refused
    the end of the hours           refused
    ============================== ==========

    Args:
        rules: The house's.
        clock: Seconds that never go backwards.
        now: Tells the time, with its zone.
    """

    def __init__(
        self,
        rules: HouseRules,
        clock: Callable[[], float],
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._rules, self._clock, self._now, self._began = rules, clock, now, clock()

    def __call__(self) -> None:
        """Pass while there is time.

        Raises:
            RuleError: There is none left.
        """
        most = self._rules.most_seconds
        if most is not None and self._clock() - self._began > most:
            raise _forbidden("most_seconds", "so many seconds of training", "more", f"at most {most:g}")
        check_hours(self._rules, self._now())


def check_operator(rules: HouseRules, asked: Asked) -> None:
    """Pass if the operator who signed the order may start runs here.

    ============================== ============== ==========
    signed by                      ``operators``  answer
    ============================== ============== ==========
    anybody                        left out       passes
    ``anna``                       ``anna``       passes
    ``anna``                       ``ann``        refused
    not known                      ``anna``       refused
    ============================== ============== ==========
    """
    if rules.operators and asked.operator not in rules.operators:
        raise _forbidden("operators", "runs of this operator", asked.operator or "nobody", _listed(rules.operators))


def check_base(rules: HouseRules, asked: Asked) -> None:
    """Pass if the base may be trained on.

    ============================== ============== ==========
    asked                          ``bases``      answer
    ============================== ============== ==========
    any                            left out       passes
    one of them                    several        passes
    another                        one            refused
    ============================== ============== ==========
    """
    if rules.bases and asked.base_digest not in rules.bases:
        expected = _listed(base[:16] for base in rules.bases)
        raise _forbidden("bases", "this base", asked.base_digest[:16], expected)


def check_targets(rules: HouseRules, asked: Asked) -> None:
    """Pass if no layers are asked for but those whose names end as allowed.

    An end of a name is whole parts between dots, as PEFT takes it. What is asked may be longer than what is allowed,
    and so mean fewer layers, but never shorter.

    ============================== ============== ==========
    asked                          ``targets``    answer
    ============================== ============== ==========
    any                            left out       passes
    ``to_q``                       ``to_q``       passes
    ``attn1.to_q``                 ``to_q``       passes
    ``to_q``                       ``attn1.to_q`` refused
    ``proj_to_q``                  ``to_q``       refused
    ``to_q`` and ``ff.net.2``      ``to_q``       refused
    ============================== ============== ==========
    """
    ends = tuple(f".{end}" for end in rules.targets)
    others = [target for target in asked.lora.targets if not f".{target}".endswith(ends)]
    if ends and others:
        # An operator wrote these words, and a log shows them.
        raise _forbidden("targets", "adapters on these layers", shown(", ".join(others)), _listed(rules.targets))


def check_method(rules: HouseRules, asked: Asked) -> None:
    """Pass if the factors may be trained so.

    ============================== ============== ==========
    asked                          ``methods``    answer
    ============================== ============== ==========
    either                         left out       passes
    ``ffa``                        ``ffa``        passes
    ``both``                       ``ffa``        refused
    ============================== ============== ==========
    """
    if asked.lora.method not in rules.methods:
        raise _forbidden("methods", "this method", asked.lora.method, _listed(rules.methods))


def check_rank(rules: HouseRules, asked: Asked) -> None:
    """Pass if the adapter's rank is at most ``most_rank``."""
    _at_most("most_rank", "so large a rank", asked.lora.rank, rules.most_rank)


def check_steps(rules: HouseRules, asked: Asked) -> None:
    """Pass if a round has at most ``most_steps``."""
    _at_most("most_steps", "so many steps a round", asked.steps, rules.most_steps)


def check_batch(rules: HouseRules, asked: Asked) -> None:
    """Pass if a step takes no more drawings.

    ============================== ============== ==========
    asked                          ``most_batch`` answer
    ============================== ============== ==========
    a batch of 8, 4 accumulated    32             passes
    a batch of 8, 5 accumulated    32             refused
    ============================== ============== ==========
    """
    _at_most("most_batch", "so many drawings a step", asked.batch, rules.most_batch)


def check_examples(rules: HouseRules, asked: Asked) -> None:
    """Pass if the steps of a round together take no more drawings.

    ============================== ================== ==========
    asked                          ``most_examples``  answer
    ============================== ================== ==========
    20 steps of 8, 4 accumulated   640                passes
    20 steps of 8, 4 accumulated   639                refused
    ============================== ================== ==========
    """
    _at_most("most_examples", "so many drawings a round", asked.steps * asked.batch, rules.most_examples)


def check_measured(rules: HouseRules, asked: Asked) -> None:
    """Pass if a round measures no more: drawings at the most, times draws of noise for each.

    ============================== ================== ==========
    asked                          ``most_measured``  answer
    ============================== ================== ==========
    64 drawings, 4 draws           256                passes
    64 drawings, 5 draws           256                refused
    anything, in a private run     any                passes
    ============================== ================== ==========
    """
    measured = 0 if asked.privacy else asked.training.held_out_most * asked.training.held_out_draws
    _at_most("most_measured", "so many measured drawings a round", measured, rules.most_measured)


def check_learning_rate(rules: HouseRules, asked: Asked) -> None:
    """Pass if the learning rate is at most ``most_learning_rate``."""
    _at_most("most_learning_rate", "so large a learning rate", asked.learning_rate, rules.most_learning_rate)


def check_privacy(rules: HouseRules, asked: Asked) -> None:
    """Pass if the run is private enough.

    ============================== =================================== ==========
    asked                          rules                               answer
    ============================== =================================== ==========
    without privacy                left out                            refused
    without privacy                ``without_privacy = true``          passes
    epsilon 8                      ``most_epsilon`` left out           passes
    epsilon 8                      ``most_epsilon = 8``                passes
    epsilon 8.1                    ``most_epsilon = 8``                refused
    each drawing protected         ``protect = "drawing"``             passes
    each artist protected          ``protect = "drawing"``             passes
    each drawing protected         ``protect = "artist"``              refused
    ============================== =================================== ==========
    """
    if not asked.privacy:
        if not rules.without_privacy:
            raise _forbidden("without_privacy", "training without privacy", "privacy = false", "privacy")
        return
    if rules.most_epsilon is not None:
        _at_most("most_epsilon", "so large an epsilon", asked.privacy.epsilon, rules.most_epsilon)
    if rules.protect == "artist" and asked.privacy.unit != "artist":
        raise _forbidden("protect", "so little protection", f"each {asked.privacy.unit}", "each artist")


def check_draws(rules: HouseRules, asked: Asked) -> None:
    """Pass if a private run draws each unit at most ``most_draws`` times a step."""
    if asked.privacy:
        _at_most("most_draws", "so many draws a step", asked.privacy.multiplicity, rules.most_draws)


def check_sites(rules: HouseRules, asked: Asked) -> None:
    """Pass if no round averages fewer sites.

    ============================== ================ ==========
    a round averages               ``least_sites``  answer
    ============================== ================ ==========
    at least 1                     left out         passes
    at least 3                     3                passes
    at least 2                     3                refused
    not known                      left out         refused
    ============================== ================ ==========
    """
    if asked.sites < rules.least_sites:
        raise _forbidden("least_sites", "rounds of so few sites", asked.sites, f"at least {rules.least_sites}")


def check_hours(rules: HouseRules, now: dt.datetime) -> None:
    """Pass if the site works at this time, as a clock on its wall shows it.

    ============================== ========================= ==========
    now                            ``hours``                 answer
    ============================== ========================= ==========
    any                            left out                  passes
    Friday 19:00                   ``Mon-Fri 19:00-07:00``   passes
    Saturday 06:59                 ``Mon-Fri 19:00-07:00``   passes
    Saturday 07:00                 ``Mon-Fri 19:00-07:00``   refused
    Monday 06:59                   ``Mon-Fri 19:00-07:00``   refused
    in the second of two           two                       passes
    02:30, for the second time     ``02:00-03:00``           passes
    ============================== ========================= ==========
    """
    local = now.astimezone(zone_of(rules.timezone))
    if rules.hours and not any(read_hours(text).contain(local) for text in rules.hours):
        raise _forbidden("hours", "work at this hour", f"{local:%a %H:%M}", _listed(rules.hours))


RULES: tuple[Callable[[HouseRules, Asked], None], ...] = (
    check_operator, check_base, check_targets, check_method, check_rank, check_steps, check_batch, check_examples,
    check_measured, check_learning_rate, check_privacy, check_draws, check_sites,
)  # fmt: skip
"""Every rule about what is asked, as reported. The time is a rule of its own (:func:`check_hours`): it goes on."""


def _broken(check: Callable[[], None]) -> RuleError | None:
    try:
        check()
    except RuleError as why:
        return why
    return None


def _at_most(key: str, what: str, asked: float, most: float) -> None:
    if not asked <= most:  # so that what is no number is refused
        raise _forbidden(key, what, asked, f"at most {most}")


def _forbidden(key: str, what: str, got: object, expected: object) -> RuleError:
    return RuleError(f"the house rules forbid {what}", rule=key, got=got, expected=expected)


def _listed(names: Iterable[str]) -> str:
    return " or ".join(names)
