"""The features by name: what each says, and what to tell a person when it is unusual."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """One number about an update.

    Attributes:
        name: Group and member, such as ``direction.middle``.
        says: What the number is, in a sentence.
        high: What to say of an update whose number is unusually high; goes on after "the update of X".
        low: The same for a number that is unusually low.
        floor: The least spread that is counted as one: honest rounds may agree better than this by luck.
        absolute: Whether it is counted from 0 in floors, not from the round's median in the round's own spread.
    """

    name: str
    says: str
    high: str
    low: str
    floor: float
    absolute: bool = False


_SIZE = (
    Feature(
        "size.whole", "How large the update is, against the round's median (logarithm of the norm of the product).",
        "is larger than the others", "is smaller than the others", 0.05,
    ),
    Feature(
        "size.early", "Which share of the update lies in the early (down) blocks (logarithm).",
        "changes the early blocks more than the others do", "leaves the early blocks more alone than the others do",
        0.05,
    ),
    Feature(
        "size.middle", "Which share of the update lies in the middle block (logarithm).",
        "changes the middle block more than the others do", "leaves the middle block more alone than the others do",
        0.05,
    ),
    Feature(
        "size.late", "Which share of the update lies in the late (up) blocks (logarithm).",
        "changes the late blocks more than the others do", "leaves the late blocks more alone than the others do",
        0.05,
    ),
    Feature(
        "size.evenness", "How evenly the update is spread over the layers (entropy, 1 when all layers change alike).",
        "is spread more evenly over the layers than the others", "sits in fewer layers than the others", 0.005,
    ),
    Feature(
        "size.profile", "How far the layers' sizes are from the others' median sizes (mean of absolute logarithms).",
        "changes other layers than the others do", "is closer to the others' usual sizes than is natural", 0.02,
    ),
    Feature(
        "size.claimed", "How large the update is for the drawings that the site claims (logarithm).",
        "is large for the few drawings it claims", "claims many drawings for so small an update", 0.5,
    ),
)  # fmt: skip

_DIRECTION = (
    Feature(
        "direction.whole", "Cosine to the coordinate median of the others.",
        "is closer to the middle of the others than is natural", "points away from the others", 0.02,
    ),
    Feature(
        "direction.early", "Cosine to the others' median in the early (down) blocks.",
        "is closer to the others in the early blocks than is natural",
        "points away from the others in the early blocks", 0.03,
    ),
    Feature(
        "direction.middle", "Cosine to the others' median in the middle block.",
        "is closer to the others in the middle block than is natural",
        "points away from the others in the middle block", 0.04,
    ),
    Feature(
        "direction.late", "Cosine to the others' median in the late (up) blocks.",
        "is closer to the others in the late blocks than is natural", "points away from the others in the late blocks",
        0.03,
    ),
    Feature(
        "direction.against", "Share of the layers that point against the others' median.",
        "points against the others in many layers", "goes with the others in more layers than is natural", 0.03,
    ),
    Feature(
        "direction.signs", "Share of the numbers that have the sign of the others' median.",
        "agrees with the others' signs more than is natural", "has other signs than the others", 0.01,
    ),
    Feature(
        "direction.strong_signs", "The same, each number counted by how far the others' median is from 0.",
        "agrees with the others, where they agree, more than is natural", "disagrees with what the others agree on",
        0.02,
    ),
)  # fmt: skip

_PAIRS = (
    Feature(
        "pairs.median", "Median of the cosines to each of the others.",
        "is like most of the others, more than is natural", "is unlike most of the others", 0.02,
    ),
    Feature(
        "pairs.highest", "Highest cosine to one of the others.",
        "is very much like one of the others", "is like none of the others", 0.03,
    ),
    Feature(
        "pairs.lowest", "Lowest cosine to one of the others.",
        "is against none of the others, which is unusual", "is further from one of the others than is natural", 0.03,
    ),
    Feature(
        "pairs.spread", "Spread of the cosines to the others (median absolute deviation).",
        "is much like some of the others and unlike the rest", "is equally like all of the others", 0.01,
    ),
    Feature(
        "pairs.copy", "How nearly the update copies another (leading nines of the highest cosine, after the first).",
        "is nearly a copy of another update", "is like none of the others", 0.3, absolute=True,
    ),
)  # fmt: skip

_PAST = (
    Feature(
        "past.last", "Cosine to what the last round did to the adapter.",
        "repeats what the last round did", "does not go on with what the last round did", 0.05, absolute=True,
    ),
    Feature(
        "past.recent", "Cosine to what the last three rounds did, each counted alike.",
        "repeats what the last rounds did", "does not go on with what the last rounds did", 0.05, absolute=True,
    ),
    Feature(
        "past.copy", "How nearly the update copies an earlier round (leading nines of the cosine, after the first).",
        "is nearly a copy of an earlier round", "has nothing of the earlier rounds", 0.3, absolute=True,
    ),
)  # fmt: skip

_SHAPE = (
    Feature(
        "shape.zeros", "Share of the numbers that are exactly 0.",
        "leaves many numbers as they were", "leaves fewer numbers as they were than the others do", 0.01,
    ),
    Feature(
        "shape.tails", "How heavy the tails of the numbers are (logarithm of the kurtosis).",
        "has a few numbers that are far larger than the rest", "has numbers that are all about as large", 0.05,
    ),
    Feature(
        "shape.peak", "Share of the whole that the largest hundredth of the numbers makes up.",
        "rests on a few large numbers", "rests on no large numbers", 0.01,
    ),
    Feature(
        "shape.balance", "Share of the numbers above 0 less the share below.",
        "has more numbers above 0 than the others", "has more numbers below 0 than the others", 0.01,
    ),
    Feature(
        "spectrum.top", "Share of a layer's change in its strongest direction, over the layers.",
        "changes each layer in fewer directions than the others", "changes each layer without a main direction", 0.01,
    ),
    Feature(
        "spectrum.rank", "How many directions a layer's change has (effective rank over the rank, over the layers).",
        "changes each layer in more directions than the others", "has too few directions in each layer", 0.01,
    ),
    Feature(
        "projection.distance", "Distance to the others' median in a secret random projection, in their median size.",
        "is far from the others in a random view", "is nearer to the others in a random view than is natural", 0.05,
    ),
    Feature(
        "projection.direction", "Cosine to the others' median in a secret random projection.",
        "goes with the others in a random view more than is natural", "points away from the others in a random view",
        0.04,
    ),
)  # fmt: skip

_NOISE = (
    Feature(
        "noise.size", "How far the norm is from that of the prescribed noise, in standard deviations.",
        "is larger than its noise explains", "holds less noise than the run prescribes", 1.0, absolute=True,
    ),
    Feature(
        "noise.pairs", "Median of the cosines to the others, either way, in standard deviations of independent noise.",
        "hangs together with the others more than independent noise can",
        "hangs together with the others less than independent noise would", 1.0, absolute=True,
    ),
    Feature(
        "noise.tails", "How far the kurtosis is from the normal law's, in its standard deviations.",
        "has other noise than the run prescribes: its tails are heavy",
        "has other noise than the run prescribes: its tails are light", 1.0, absolute=True,
    ),
)  # fmt: skip

FEATURES: tuple[Feature, ...] = (*_SIZE, *_DIRECTION, *_PAIRS, *_PAST, *_SHAPE, *_NOISE)
"""All of them, in the order of a row."""
