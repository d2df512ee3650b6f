"""``byzfl``'s aggregators without its package ``__init__``, which wants torchvision, matplotlib and seaborn.

A bare package of the same name and path takes its place, so that its submodules import each other as they always do.
Nothing of them is changed.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def _bare() -> None:
    if "byzfl" in sys.modules:
        return
    spec = importlib.util.find_spec("byzfl")  # finds, and runs nothing
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("byzfl is missing: pip install --no-deps byzfl==0.0.11", name="byzfl")
    package = ModuleType("byzfl")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["byzfl"] = package


def aggregators() -> Any:  # noqa: ANN401  untyped
    """Return the module with ``MultiKrum``, ``NNM`` and the others."""
    _bare()
    return import_module("byzfl.aggregators")
