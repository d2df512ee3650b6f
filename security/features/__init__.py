"""Features: what is peculiar about an update among the others of its round, in about 30 numbers with names.

A detector that is to learn from tens of updates cannot look at a million numbers each. So each update leaves an
:class:`~security.features.imprint.Imprint` of constant size when it is opened (one pass, linear in its length), and
when the round is complete the imprints make the features (:func:`~security.features.judged.features_of`). What every
feature says, in words, is in :mod:`~security.features.catalogue`.

**What is looked at is the product B·A**, never the factors apart: updates can be made whose A and whose B look benign
and whose product is not (gradient assembly poisoning, arXiv 2601.00566).

**Nothing refers to the round's mean**, which two hostile sites of ten can move where they like: the reference is the
coordinate median of the others, and what earlier rounds did.
"""

from security.features.catalogue import FEATURES, Feature
from security.features.imprint import Frame, Imprint, unit
from security.features.judged import NoiseModel, RoundFeatures, features_of

__all__ = ["FEATURES", "Feature", "Frame", "Imprint", "NoiseModel", "RoundFeatures", "features_of", "unit"]
