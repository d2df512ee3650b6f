"""Settings: frozen, with units in their names, unknown keys refused with the nearest known one.

Settings are public: they travel in tasks and stand in reports. Nothing that is derived from a drawing
is ever a setting.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.errors import SettingsError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

EMBEDDED_BASE = "embedded"
"""The name of the base model that ships with bottega."""

Encoding = Literal["fp32", "fp16", "bf16", "int8"]
Method = Literal["ffa", "both", "core"]
RuleName = Literal["mean", "median", "trimmed_mean", "geometric_median", "multi_krum", "centred_clipping"]
DetectorName = Literal["autoencoder", "copod", "ecod", "iforest", "knn", "lof", "pca"]
Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


CLIP_STEPS = 3
"""Of centred clipping: one is enough where it begins at the last round's result (arXiv 2012.10333), from zero not."""

_TRAINED: Mapping[Method, Literal["B", "both", "core"]] = {"ffa": "B", "both": "both", "core": "core"}

NO_SITE_PRIVACY_FOR_BOTH = (
    'site privacy bounds what is added to B, and `method = "both"` adds nothing that could be bounded so: '
    'use `method = "ffa"`, or leave `site_privacy` out'
)

NO_DROPOUT_IN_PRIVATE = (
    "dropout takes its masks from a generator that the drawings of a batch share, so that one drawing would change "
    "another's gradient: set `lora.dropout = 0`, or `privacy = false`"
)

NO_OPTIMISER_FOR_BOTH = (
    'the server optimiser steps in B\'s coordinates, which `method = "both"` has none of: '
    "leave `optimiser`, `momentum` and `server_learning_rate` as they are"
)


class Settings(BaseModel):
    """Base of all settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Settings)


class LoraSettings(Settings):
    """Which layers of the U-Net carry an adapter, and how large it is (LoRA, arXiv 2106.09685).

    ``alpha`` is always the rank: diffusers' writer drops any other value, and the learning rate says the same.
    """

    method: Method = "ffa"
    """``ffa``: A frozen and shared, B trained (FFA-LoRA, arXiv 2403.12313). ``both``: A and B are trained. ``core``: a
    matrix of rank by rank is trained between frozen columns of B and A (Fed-SB, arXiv 2502.15436)."""
    rank: Positive = 8
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Ends of module names inside the U-Net."""

    @property
    def trained(self) -> Literal["B", "both", "core"]:
        """Which factors sites train, and so what an update holds."""
        return _TRAINED[self.method]


class TrainingSettings(Settings):
    """How a site trains in one round. The server proposes them in the task; house rules may refuse."""

    steps: Positive = 12
    batch: Positive = 16
    accumulate: Positive = 1
    """Batches whose gradients are added up before a step."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-2
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    caption_dropout: Share = 0.1
    """Share of captions left empty, so that guidance has something to guide away from (arXiv 2207.12598)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16`` autocasts on a GPU; on a CPU it is slower and refused."""
    held_out_draws: Positive = 4
    """Fixed draws of noise and timestep per held-out drawing."""
    held_out_most: Positive = 64
    """Held-out drawings measured at the most."""

    @model_validator(mode="after")
    def _batch_is_reachable(self) -> Self:
        if self.batch * self.accumulate > 65_536:
            raise ValueError("batch times accumulate is over 65536")
        return self


class PrivacySettings(Settings):
    """How the drawings of each site are protected while a run trains on them (DP-SGD, arXiv 1607.00133).

    A site may tighten this by its budget and its house rules; nobody can loosen it.
    """

    epsilon: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 8.0
    """What the whole run may cost a unit at a site. The noise is calibrated from it, there."""
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-4
    unit: Literal["drawing", "artist"] = "drawing"
    """What is protected as one: a drawing, or all drawings of one artist."""
    steps: Positive = 2
    """Noised steps a round, in place of `training.steps`; `training.batch` and `accumulate` are of no effect."""
    rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
    """The chance of each unit to be in a step, on its own (Poisson sampling)."""
    multiplicity: Positive = 4
    """Draws of noise and timestep a unit, averaged before the clip (DPDM, arXiv 2210.09929): they cost no privacy."""
    clip: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1e-3
    """Largest L2 norm of one unit's gradient; small enough that most are clipped."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.05
    """In place of `training.learning_rate`: with few steps, each must go further."""


class SitePrivacySettings(Settings):
    """How a site as a whole is protected from who gets the adapter (DP-FedAvg, arXiv 1710.06963).

    The server clips each update and adds noise to their sum. It sees the updates: this is no protection from it.
    """

    epsilon: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 8.0
    """What the whole run may cost a site that takes part in every round."""
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-3
    """Below one over the number of sites that the run asks; an order with another is refused."""
    clip: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    """Largest L2 norm of one site's update."""


class RobustSettings(Settings):
    """Which rule makes one update of many, and how many of them may be hostile (``server/robust``).

    Updates weigh alike. How many drawings a site has is its own word, and a rule that weighs by it can be bought.
    """

    rule: RuleName = "trimmed_mean"
    hostile: Annotated[int, Field(ge=0)]
    """The most updates of a round that may be hostile, f. It is an assumption, so it has no default."""
    mixing: bool = True
    """Nearest-neighbour mixing before the rule (arXiv 2302.01772): with unlike sites it costs less to be robust."""
    clip_radius: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """Of centred clipping; left out, the median distance from the centre."""
    clip_steps: Positive = CLIP_STEPS
    """Of centred clipping."""

    @property
    def fewest(self) -> int:
        """The fewest updates with which the rule withstands ``hostile`` of them.

        2 f + 1, since no rule can do with less (arXiv 2302.01772); 2 f + 3 for Multi-Krum (Blanchard et al. 2017).
        """
        return 2 * self.hostile + (3 if self.rule == "multi_krum" else 1)

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.rule == "mean" and self.hostile:
            raise ValueError('`rule = "mean"` withstands no hostile update, mixed or not: `hostile` must be 0')
        if self.rule != "centred_clipping" and (self.clip_radius is not None or self.clip_steps != CLIP_STEPS):
            raise ValueError('`clip_radius` and `clip_steps` belong to `rule = "centred_clipping"`')
        return self


class CrossValidationSettings(Settings):
    """How sites tell whose updates make the model worse on their drawings (``server/cross_validation.py``)."""

    drawings: Annotated[int, Field(ge=8)] = 24
    """Held-out drawings that a site compares groups of updates on, about so many."""
    harm: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Sites are left out where a round goes less far by more than this share because of them."""
    epsilon: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 4.0
    """What all ballots of a private run may cost a held-out drawing; no more than the run's own epsilon."""


class DetectorSettings(Settings):
    """How updates that are unlike honest ones are found (``security/judgement.py``), and harmful ones."""

    kind: DetectorName = "autoencoder"
    """Which of PyOD's detectors looks at the features of an update."""
    false_rejections: Annotated[float, Field(gt=0.0, le=0.5)] = 0.01
    """The share of honest updates that each of its two tests may reject. The rehearsal must be long enough for it."""
    unsure: Literal["go_on", "wait"] = "go_on"
    """Where it cannot judge (no rehearsal, too few updates): ``go_on`` closes the round with what the other checks
    leave and the rule of aggregation; ``wait`` leaves the adapter as it is."""
    cross_validation: CrossValidationSettings | Literal[False] = CrossValidationSettings()
    """Of six sites or more. It takes updates of one factor, and in a private run ``privacy.unit = "drawing"``."""


class AggregationSettings(Settings):
    """How the server turns the admitted updates of a round into the next adapter."""

    example_cap: Annotated[int, Field(gt=0, le=2**28)] = 1000
    """A site's weight is the smaller of this and the examples it reports: the report is not to be trusted far."""
    norm_bound: Annotated[float, Field(gt=0.0)] = 100.0
    """Largest L2 norm of an update that is admitted."""
    refresh_every: Annotated[int, Field(ge=0)] = 1
    """Rounds between SVD refreshes of A (FedSVD, arXiv 2505.12805); 0: never. Of no effect under ``both``."""
    robust: RobustSettings | Literal[False] = False
    """A rule that stays near the honest updates although some are hostile, in place of the weighted mean."""
    optimiser: Literal["sgd", "adam"] = "sgd"
    """Server optimiser (FedOpt, arXiv 2003.00295)."""
    server_learning_rate: Annotated[float, Field(gt=0.0)] = 1.0
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0

    @property
    def takes_the_mean(self) -> bool:
        """Whether the mean update is added as it is (plain FedAvg)."""
        return self.optimiser == "sgd" and self.momentum == 0 and self.server_learning_rate == 1


class RunSettings(Settings):
    """One run: everything a round needs to know."""

    rounds: Positive = 6
    base: str = EMBEDDED_BASE
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    encoding: Encoding = "fp16"
    """How updates are written on the wire."""
    quorum: Positive = 2
    """Admitted updates without which a round changes nothing."""
    deadline_s: Annotated[float, Field(gt=0.0)] = 600.0
    """A round closes when every site has answered, or this many seconds after its tasks were sent."""
    patience: Annotated[float, Field(ge=0.0)] = 3.0
    """Once a quorum is admitted, the other sites get this many times as long as that took (and 10 s), then the round
    closes: one dead site must not hold up the living."""
    gather_s: Annotated[float, Field(gt=0.0)] = 120.0
    """How long a round waits for a quorum of sites to be online before the run stops."""
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    privacy: PrivacySettings | Literal[False] = PrivacySettings()
    """`privacy = false` trains without; each studio must allow that in its house rules."""
    site_privacy: SitePrivacySettings | Literal[False] = False
    """On, each site counts as one, and the server adds noise to the mean of their updates."""
    aggregation: AggregationSettings = AggregationSettings()
    detector: DetectorSettings | Literal[False] = DetectorSettings()
    """`detector = false` averages whatever is admitted."""

    @property
    def steps(self) -> int:
        """Optimiser steps a round."""
        return self.privacy.steps if self.privacy else self.training.steps

    @property
    def cross_validation(self) -> CrossValidationSettings | None:
        """How sites judge each other's work; None where the run has no detector or cannot have it.

        Under ``both`` groups of updates have no coordinates in common. And an artist may have drawings in both splits,
        so that a ballot would cost what training has spent.
        """
        by_artist = self.privacy and self.privacy.unit == "artist"
        if not self.detector or self.lora.method == "both" or by_artist:
            return None
        return self.detector.cross_validation or None

    @model_validator(mode="after")
    def _method_fits(self) -> Self:
        if self.lora.method == "both" and not self.aggregation.takes_the_mean:
            raise ValueError(NO_OPTIMISER_FOR_BOTH)
        if self.lora.method == "both" and self.site_privacy:
            raise ValueError(NO_SITE_PRIVACY_FOR_BOTH)
        if self.lora.dropout and self.privacy:
            raise ValueError(NO_DROPOUT_IN_PRIVATE)
        return self

    @model_validator(mode="after")
    def _detector_fits(self) -> Self:
        if self.site_privacy and self.detector:
            raise ValueError(
                "`site_privacy` promises that one site changes little, and a detector lets each have a say in who else "
                "is averaged: set `detector = false`"
            )
        return self

    @model_validator(mode="after")
    def _robust_rule_fits(self) -> Self:
        robust = self.aggregation.robust
        if not robust:
            return self
        if self.lora.method == "both":
            raise ValueError('a robust rule compares updates of one factor: use `method = "ffa"` or `"core"`')
        if self.site_privacy:
            raise ValueError("`site_privacy` noises a sum, and a robust rule takes none: leave one of the two out")
        if self.quorum < robust.fewest:
            raise ValueError(f"with `hostile = {robust.hostile}` a round needs `quorum` of {robust.fewest} or more")
        return self


class MemberSettings(Settings):
    """An operator or auditor who works from a home of their own: ``member.toml``."""

    federation: str
    role: Literal["operator", "auditor"]
    name: str
    registry: str
    """Host and port of the server's registry, such as ``server.example:8441``."""


def parse(model: type[S], values: object, where: str) -> S:
    """Return ``values`` as settings.

    Args:
        model: The class of settings.
        values: A mapping, as read from TOML, JSON or the command line.
        where: What is being read, for the error.

    Raises:
        SettingsError: A key is unknown (the nearest known one is named) or a value does not fit.
    """
    try:
        return model.model_validate(values)
    except ValidationError as cause:
        raise _explained(model, cause, where) from None


def parse_json(model: type[S], text: str, where: str) -> S:
    """Return the settings written in ``text`` as JSON; see :func:`parse`."""
    try:
        return model.model_validate_json(text)
    except ValidationError as cause:
        raise _explained(model, cause, where) from None


def read_toml(model: type[S], file: Path) -> S:
    """Return the settings kept in a TOML file; see :func:`parse`."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as cause:
        raise SettingsError(f"{file.name} cannot be read", got=str(cause)) from None
    return parse(model, values, file.name)


def _explained(model: type[Settings], cause: ValidationError, where: str) -> SettingsError:
    # A misspelt key first: that the right one is missing then follows from it.
    errors = sorted(cause.errors(include_url=False, include_context=False), key=_is_other_than_unknown)
    first = errors[0]
    key = ".".join(str(part) for part in first["loc"] if part not in _CLASSES and part != "literal[False]")
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _keys(model), n=1)
        known = f"'{near[0]}'" if near else "one of " + ", ".join(sorted(_keys(model)))
        return SettingsError(f"{where}: '{key}' is not a setting", expected=known)
    if first["type"] == "missing":
        return SettingsError(f"{where}: '{key}' is missing")
    got, wanted = repr(first.get("input"))[:60], "a table" if first["type"] == "model_type" else first["msg"]
    return SettingsError(f"{where}: '{key or 'the whole'}' does not fit", got=got, expected=wanted)


def _is_other_than_unknown(error: ErrorDetails) -> bool:
    return error["type"] != "extra_forbidden"


def _keys(model: type[BaseModel]) -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(name)
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys += _keys(inner)
    return keys


_CLASSES = frozenset(
    one.__name__
    for one in (PrivacySettings, SitePrivacySettings, RobustSettings, DetectorSettings, CrossValidationSettings)
)
"""What pydantic puts into the place of an error, for a table that may also be `false`."""
