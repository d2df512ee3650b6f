"""The settings of a run, as the operator signed them and the record has them, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from common.errors import SettingsError
from common.settings import AggregationSettings, DetectorSettings, LoraSettings, PrivacySettings, RunSettings, parse

_METHODS = {
    "ffa": "one factor of each layer's adapter (B) is trained at the sites; the other (A) is frozen and shared",
    "both": "both factors of each layer's adapter are trained at the sites",
    "core": "a small matrix between frozen factors is trained in each layer",
}
_RULES = {
    "mean": "the mean", "median": "the median of each coordinate", "trimmed_mean": "the trimmed mean",
    "geometric_median": "the geometric median", "multi_krum": "Multi-Krum", "centred_clipping": "centred clipping",
}  # fmt: skip


class Term(NamedTuple):
    """One thing that a run's settings say.

    Attributes:
        about: What of.
        words: What.
    """

    about: str
    words: str


def terms_of(settings: Mapping[str, Any]) -> list[Term]:
    """Return a run's settings in words. What this version does not know is shown as it stands.

    Args:
        settings: As :class:`~security.entries.RunStarted` has them.
    """
    told = settings_of(settings)
    if told is None:
        return [Term(key, str(value)) for key, value in sorted(settings.items())]
    return list(_terms(told))


def settings_of(settings: Mapping[str, Any]) -> RunSettings | None:
    """Return a run's settings as this version knows them; None where another version wrote what this one does not."""
    try:
        return parse(RunSettings, dict(settings), "the settings of a run")
    except SettingsError:
        return None


def _terms(told: RunSettings) -> Iterator[Term]:
    yield Term("Length", f"{told.rounds} rounds of training, then a last look at the adapter by the sites")
    yield Term("Base model", f"{told.base}; its digest stands with the run")
    yield Term("Adapter", _adapter(told.lora))
    yield Term("Training at a site", _training(told))
    yield Term("Privacy of drawings", privacy_in_words(told.privacy))
    yield Term("Privacy of sites", _site_privacy(told))
    yield Term("Averaging", _averaging(told.aggregation))
    yield Term("Detector", _detector(told.detector))
    yield Term(
        "Closing a round",
        f"a round closes when every site has answered, at the latest after {told.deadline_s:g} s; "
        f"with fewer than {told.quorum} updates to average it changes nothing",
    )


def _adapter(lora: LoraSettings) -> str:
    dropout = f", dropout {lora.dropout:g}" if lora.dropout else ""
    return f"LoRA of rank {lora.rank} in {', '.join(lora.targets)}{dropout}: {_METHODS[lora.method]}"


def _training(told: RunSettings) -> str:
    at = told.training
    if told.privacy:
        private = told.privacy
        return (
            f"{private.steps} noised steps a round, each drawing in a step with a chance of {private.rate:g}, "
            f"learning rate {private.learning_rate:g}"
        )
    return (
        f"{at.steps} steps a round of {at.batch * at.accumulate} drawings, learning rate {at.learning_rate:g} (AdamW)"
    )


def privacy_in_words(private: PrivacySettings | bool) -> str:
    """Return how a run protects drawings, in words."""
    if not isinstance(private, PrivacySettings):
        return "none: updates and adapter can tell of the drawings they were trained on"
    unit = "all drawings of one artist together are" if private.unit == "artist" else "each drawing is"
    return (
        f"{unit} protected by noise that the site adds while it trains (DP-SGD): at most epsilon = {private.epsilon:g} "
        f"at delta = {private.delta:g} for the whole run; gradients clipped to {private.clip:g}, "
        f"{private.multiplicity} draws averaged before the clip. A site may tighten this, never loosen it"
    )


def _site_privacy(told: RunSettings) -> str:
    if not told.site_privacy:
        return "none"
    at = told.site_privacy
    return (
        f"the server clips each update to {at.clip:g} and adds noise to their sum: at most epsilon = {at.epsilon:g} at "
        f"delta = {at.delta:g} for a site that is in every round; no protection from the server"
    )


def _averaging(at: AggregationSettings) -> str:
    if at.robust:
        mixed = " after nearest-neighbour mixing" if at.robust.mixing else ""
        rule = f"{_RULES[at.robust.rule]}{mixed}, against up to {at.robust.hostile} hostile updates a round"
    else:
        rule = f"the mean, weighted by the drawings that sites report, each counted as {at.example_cap} at the most"
    step = "" if at.takes_the_mean else f"; server optimiser {at.optimiser}, rate {at.server_learning_rate:g}"
    return f"{rule}; an update over norm {at.norm_bound:g} is refused{step}"


def _detector(at: DetectorSettings | bool) -> str:
    if not isinstance(at, DetectorSettings):
        return "none: whatever is admitted is averaged"
    unsure = "the adapter stays as it is" if at.unsure == "wait" else "the round closes with what other checks leave"
    sites = (
        f"; sites examine rounds on held-out drawings, and who makes the model worse for others by over "
        f"{at.cross_validation.harm:.0%} is left out"
        if at.cross_validation
        else ""
    )
    return (
        f"{at.kind}, which may reject {at.false_rejections:.1%} of honest updates in each of its two tests; "
        f"where it cannot judge, {unsure}{sites}"
    )
