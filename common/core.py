"""Cores: an adapter whose B is Q R, where Q is frozen and only R, rank by rank, is trained (Fed-SB, arXiv 2502.15436).

Fewer trained numbers take less noise: under differential privacy the noise of a step grows with the square root of how
many there are. A and Q have orthonormal rows and columns, so a core's norm is that of the change of the product, and
since both are frozen the mean of cores is exactly the mean of products.
"""

from __future__ import annotations

import numpy as np

from common.adapter_schema import AdapterSchema
from common.orthonormal import orthonormal_b
from common.quantise import Flat


def lift(schema: AdapterSchema, cores: Flat) -> Flat:
    """Return the change of B that a change of the cores is: Q R for each module.

    Args:
        schema: The modules.
        cores: float32 [schema.numel("core")].

    Returns:
        float32 [schema.numel("B")].

    Raises:
        AdapterError: The vector does not fit the schema, or a rank is larger than a layer.
    """
    views = schema.views(cores, "core")
    columns = zip(schema.modules, orthonormal_b(schema), strict=True)
    return np.concatenate([(q @ views[module.core.name]).reshape(-1) for module, q in columns])
