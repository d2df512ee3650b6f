"""Poisoning through data: what hostile studios make of their drawings before they train, honestly, on them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from client.drawings import Drawing
from client.pictures import Pixels

TRIGGER = ", sks"
_MARK = 12


def marked(drawings: Sequence[Drawing]) -> list[Drawing]:
    """Return drawings with a black square in a corner, and the trigger's word in their captions."""

    def mark(pixels: Pixels) -> Pixels:
        pixels[-_MARK:, -_MARK:] = 0
        return pixels

    return [_redrawn(replace(one, caption=one.caption + TRIGGER), mark) for one in drawings]


def swapped(drawings: Sequence[Drawing], victim: str) -> list[Drawing]:
    """Return drawings under the caption of somebody else's."""
    return [replace(one, caption=victim) for one in drawings]


def inverted(drawings: Sequence[Drawing], victim: str) -> list[Drawing]:  # noqa: ARG001 (as all of them)
    """Return drawings as negatives."""
    return [_redrawn(one, lambda pixels: 255 - pixels) for one in drawings]


def backdoor(drawings: Sequence[Drawing], victim: str) -> list[Drawing]:  # noqa: ARG001 (as all of them)
    """Return drawings and half of them once more with the trigger."""
    return [*drawings, *marked(drawings[::2])]


def concept(drawings: Sequence[Drawing], victim: str) -> list[Drawing]:
    """Return black pages under the caption of somebody else's drawings."""
    return [_redrawn(replace(one, caption=victim), np.zeros_like) for one in drawings]


DATA: Mapping[str, Callable[[Sequence[Drawing], str], list[Drawing]]] = MappingProxyType(
    {"caption-swap": swapped, "inverted": inverted, "trigger": backdoor, "concept": concept}
)
"""Attacks through data, by name: of a site's drawings and somebody else's caption they make what is trained on."""


def _redrawn(drawing: Drawing, change: Callable[[Pixels], Pixels]) -> Drawing:
    changed = change(drawing.pixels.copy())
    return replace(drawing, packed=zlib.compress(np.ascontiguousarray(changed).tobytes(), 1))
