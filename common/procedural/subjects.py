"""What is drawn: each subject is a function of a random generator that returns strokes.

``PUBLIC`` is what the embedded base is trained on. ``STUDIO`` is kept from it, so that a federation
has something to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from common.procedural.shapes import Sketch, arc, curve, ellipse, line, polygon

Rng = np.random.Generator
Subject = Callable[[Rng], Sketch]


def house(r: Rng) -> Sketch:
    """A house: walls, roof, door, perhaps a window and a chimney."""
    left, right = 0.5 - r.uniform(0.22, 0.34), 0.5 + r.uniform(0.22, 0.34)
    eaves, peak = r.uniform(0.42, 0.52), r.uniform(0.12, 0.26)
    door = left + (right - left) * r.uniform(0.12, 0.45)
    s = [
        polygon((left, eaves), (right, eaves), (right, 0.88), (left, 0.88)),
        polygon((left - 0.05, eaves), (0.5, peak), (right + 0.05, eaves), tone=r.uniform(0.3, 0.8)),
        polygon((door, 0.64), (door + 0.13, 0.64), (door + 0.13, 0.88), (door, 0.88), tone=r.uniform(0, 0.7)),
    ]
    if r.random() < 0.85:
        w = min(door + 0.2, right - 0.17)
        s.append(polygon((w, 0.57), (w + 0.12, 0.57), (w + 0.12, 0.69), (w, 0.69)))
        s.append(line((w + 0.06, 0.57), (w + 0.06, 0.69)))
    if r.random() < 0.5:
        x = right - 0.12
        s.append(polygon((x, peak + 0.02), (x + 0.08, peak + 0.02), (x + 0.08, eaves - 0.04), (x, eaves - 0.1)))
    return s


def tree(r: Rng) -> Sketch:
    """A tree: a trunk and a round or a pointed crown."""
    w, top = r.uniform(0.04, 0.08), r.uniform(0.52, 0.62)
    trunk = polygon((0.5 - w, top), (0.5 + w, top), (0.5 + w * 1.4, 0.92), (0.5 - w * 1.4, 0.92), tone=0.6)
    if r.random() < 0.4:
        half = r.uniform(0.2, 0.3)
        tone = r.uniform(0.2, 0.6)
        tiers = [polygon((0.5 - half * k, y), (0.5, y - 0.26), (0.5 + half * k, y), tone=tone)
                 for k, y in ((1.0, 0.66), (0.8, 0.5), (0.6, 0.35))]  # fmt: skip
        return [trunk, *tiers]
    cx, cy, rad = 0.5, r.uniform(0.3, 0.38), r.uniform(0.22, 0.3)
    n = int(r.integers(7, 11))
    a = np.linspace(0, 2 * np.pi, n, endpoint=False)
    bump = rad * (1 + r.uniform(-0.14, 0.14, n))
    crown = curve(
        *zip(cx + bump * np.cos(a), cy + bump * np.sin(a), strict=True), closed=True, tone=r.uniform(0.2, 0.7)
    )
    return [trunk, crown]


def face(r: Rng) -> Sketch:
    """A face: head, eyes, nose, mouth, perhaps hair."""
    rx, ry = r.uniform(0.24, 0.32), r.uniform(0.32, 0.4)
    eye, dx, mood = r.uniform(0.4, 0.46), r.uniform(0.1, 0.13), r.uniform(-0.06, 0.08)
    s = [ellipse(0.5, 0.5, rx, ry)]
    for x in (0.5 - dx, 0.5 + dx):
        s += [ellipse(x, eye, 0.045, 0.03), ellipse(x, eye, 0.015, 0.018, tone=1.0)]
        if r.random() < 0.7:
            s.append(arc(x, eye - 0.02, 0.06, 0.05, 210, 330))
    s.append(curve((0.5, eye + 0.02), (0.53, 0.58), (0.48, 0.59)))
    s.append(curve((0.5 - 0.1, 0.7 - mood / 2), (0.5, 0.7 + mood), (0.5 + 0.1, 0.7 - mood / 2)))
    if r.random() < 0.7:
        top = 0.5 - ry
        s.append(curve((0.5 - rx, 0.42), (0.5 - rx, top + 0.02), (0.5, top - 0.06), (0.5 + rx, top + 0.02),
                       (0.5 + rx, 0.42), (0.5 + rx * 0.6, 0.26), (0.5 - rx * 0.6, 0.28), closed=True,
                       tone=r.uniform(0.3, 0.9)))  # fmt: skip
    return s


def boat(r: Rng) -> Sketch:
    """A sailing boat on waves."""
    deck, mast = r.uniform(0.62, 0.7), r.uniform(0.1, 0.2)
    s = [
        polygon((0.16, deck), (0.84, deck), (0.7, deck + 0.15), (0.28, deck + 0.15), tone=r.uniform(0.3, 0.9)),
        line((0.5, deck), (0.5, mast)),
        polygon((0.53, mast + 0.03), (0.53, deck - 0.05), (0.8, deck - 0.05), tone=r.uniform(0, 0.5)),
    ]
    if r.random() < 0.75:
        s.append(polygon((0.47, mast + 0.1), (0.47, deck - 0.05), (0.26, deck - 0.05), tone=r.uniform(0, 0.3)))
    waves = [(x, deck + 0.2 + (0.02 if i % 2 else -0.02)) for i, x in enumerate(np.linspace(0.06, 0.94, 9))]
    return [*s, curve(*waves)]


def fish(r: Rng) -> Sketch:
    """A fish seen from the side."""
    h, tail = r.uniform(0.14, 0.22), r.uniform(0.1, 0.16)
    s = [
        curve((0.14, 0.5), (0.3, 0.5 - h), (0.55, 0.5 - h * 0.8), (0.72, 0.5), (0.55, 0.5 + h * 0.8), (0.3, 0.5 + h),
              closed=True, tone=r.uniform(0, 0.5)),
        polygon((0.71, 0.5), (0.9, 0.5 - tail), (0.85, 0.5), (0.9, 0.5 + tail), tone=r.uniform(0.2, 0.7)),
        ellipse(0.26, 0.46, 0.025, tone=1.0),
        arc(0.3, 0.5, 0.09, h * 0.8, -60, 60),
    ]  # fmt: skip
    s += [arc(x, 0.5, 0.05, 0.06, -70, 70) for x in (0.46, 0.56)]
    return s


def cat(r: Rng) -> Sketch:
    """A cat's head with ears and whiskers."""
    w, ear = r.uniform(0.26, 0.32), r.uniform(0.14, 0.2)
    tone = r.uniform(0, 0.6)
    s = [ellipse(0.5, 0.56, w, r.uniform(0.25, 0.29), tone=tone)]
    for side in (-1, 1):
        x = 0.5 + side * w * 0.72
        s.append(polygon((x - 0.11, 0.4), (x + side * 0.04, 0.38 - ear), (x + 0.11, 0.42), tone=max(tone, 0.3)))
        s.append(ellipse(0.5 + side * 0.12, 0.5, 0.04, 0.05, tone=1.0))
        s += [line((0.5 + side * 0.1, 0.64 + k), (0.5 + side * 0.42, 0.6 + 2.2 * k)) for k in (0.0, 0.03)]
    s.append(polygon((0.46, 0.59), (0.54, 0.59), (0.5, 0.64), tone=1.0))
    s += [arc(0.46, 0.66, 0.04, 0.04, 0, 170), arc(0.54, 0.66, 0.04, 0.04, 10, 180)]
    return s


def bird(r: Rng) -> Sketch:
    """A bird standing, seen from the side."""
    body = r.uniform(0.15, 0.2)
    return [
        ellipse(0.48, 0.52, 0.25, body, tone=r.uniform(0.1, 0.5)),
        ellipse(0.74, 0.34, r.uniform(0.09, 0.12)),
        polygon((0.83, 0.31), (0.95, 0.35), (0.83, 0.38), tone=0.8),
        ellipse(0.76, 0.32, 0.016, tone=1.0),
        curve((0.32, 0.48), (0.48, 0.62), (0.62, 0.5), (0.46, 0.44), closed=True, tone=r.uniform(0.3, 0.8)),
        polygon((0.26, 0.5), (0.06, 0.42 + r.uniform(-0.05, 0.05)), (0.1, 0.56), tone=0.5),
        line((0.44, 0.52 + body), (0.43, 0.88), (0.5, 0.88)),
        line((0.54, 0.52 + body), (0.55, 0.88), (0.62, 0.88)),
    ]


def sun(r: Rng) -> Sketch:
    """A sun with rays."""
    rad, n = r.uniform(0.16, 0.22), int(r.integers(8, 15))
    a = np.linspace(0, 2 * np.pi, n, endpoint=False) + r.uniform(0, 1)
    inner, outer = rad + 0.05, r.uniform(0.36, 0.44)
    rays = [
        line((0.5 + inner * np.cos(t), 0.5 + inner * np.sin(t)), (0.5 + outer * np.cos(t), 0.5 + outer * np.sin(t)))
        for t in a
    ]
    return [ellipse(0.5, 0.5, rad, tone=r.uniform(0, 0.6)), *rays]


def flower(r: Rng) -> Sketch:
    """A flower with a stem and a leaf."""
    n, rad, cy = int(r.integers(5, 9)), r.uniform(0.1, 0.13), 0.34
    tone = r.uniform(0, 0.5)
    a = np.linspace(0, 2 * np.pi, n, endpoint=False)
    petals = [ellipse(0.5 + 0.17 * np.cos(t), cy + 0.17 * np.sin(t), rad * 0.85, tone=tone) for t in a]
    bend = r.uniform(-0.08, 0.08)
    return [
        curve((0.5, cy + 0.1), (0.5 + bend, 0.7), (0.5, 0.94)),
        curve((0.5 + bend, 0.74), (0.66, 0.62), (0.76, 0.64), (0.64, 0.76), closed=True, tone=r.uniform(0.2, 0.6)),
        *petals,
        ellipse(0.5, cy, 0.085, tone=0.8),
    ]


def cup(r: Rng) -> Sketch:
    """A cup with a handle, perhaps steaming."""
    w, top, base = r.uniform(0.22, 0.28), r.uniform(0.38, 0.44), r.uniform(0.13, 0.2)
    s = [
        polygon((0.46 - w, top), (0.46 + w, top), (0.46 + base, 0.82), (0.46 - base, 0.82), tone=r.uniform(0.1, 0.6)),
        ellipse(0.46, top, w, 0.06, tone=r.uniform(0, 0.8)),
        arc(0.46 + w - 0.03, top + 0.16, 0.15, 0.12, -80, 90),
        arc(0.46, 0.86, 0.34, 0.05, 0, 360),
    ]
    if r.random() < 0.6:
        s += [curve((x, 0.3), (x + 0.04, 0.23), (x - 0.03, 0.17), (x + 0.02, 0.1)) for x in (0.38, 0.52)]
    return s


def mountain(r: Rng) -> Sketch:
    """Two or three peaks, perhaps with snow and a sun."""
    a, b = r.uniform(0.14, 0.28), r.uniform(0.3, 0.44)
    x = r.uniform(0.32, 0.42)
    s = [
        polygon((0.4, 0.84), (0.7, b), (0.97, 0.84), tone=r.uniform(0.1, 0.4)),
        polygon((0.04, 0.84), (x, a), (0.72, 0.84), tone=r.uniform(0.3, 0.8)),
        line((x - 0.1, a + 0.2), (x - 0.03, a + 0.15), (x + 0.02, a + 0.21), (x + 0.1, a + 0.18)),
    ]
    if r.random() < 0.5:
        s.append(ellipse(0.84, 0.2, 0.08))
    return s


def car(r: Rng) -> Sketch:
    """A car seen from the side."""
    roof, wheel = r.uniform(0.3, 0.38), r.uniform(0.08, 0.11)
    tone = r.uniform(0, 0.7)
    return [
        polygon((0.08, 0.7), (0.08, 0.54), (0.26, 0.5), (0.76, 0.5), (0.92, 0.56), (0.92, 0.7), tone=tone),
        polygon((0.26, 0.5), (0.36, roof), (0.64, roof), (0.76, 0.5), tone=r.uniform(0, 0.3)),
        line((0.5, roof), (0.5, 0.5)),
        *(ellipse(x, 0.7, wheel, tone=0.9) for x in (0.28, 0.72)),
        *(ellipse(x, 0.7, wheel * 0.4) for x in (0.28, 0.72)),
    ]


def star(r: Rng) -> Sketch:
    """A five- or six-pointed star."""
    n, inner = int(r.integers(5, 7)), r.uniform(0.16, 0.2)
    a = np.arange(2 * n) * np.pi / n - np.pi / 2
    rad = np.where(np.arange(2 * n) % 2 == 0, 0.4, inner)
    return [polygon(*zip(0.5 + rad * np.cos(a), 0.5 + rad * np.sin(a), strict=True), tone=r.uniform(0, 0.7))]


def spiral(r: Rng) -> Sketch:
    """Abstract: one spiralling stroke."""
    t = np.linspace(0, 1, 40)
    a = t * 2 * np.pi * r.uniform(2.2, 3.6) * r.choice([-1, 1])
    rad = 0.04 + 0.36 * t
    return [curve(*zip(0.5 + rad * np.cos(a), 0.5 + rad * np.sin(a), strict=True))]


def strokes(r: Rng) -> Sketch:
    """Abstract: a few free strokes across the sheet."""
    sketch = []
    for _ in range(int(r.integers(3, 6))):
        knots = np.cumsum(r.normal(0, 0.2, (4, 2)), axis=0)
        knots = 0.5 + (knots - knots.mean(0)) + r.uniform(-0.22, 0.22, 2)
        sketch.append(curve(*(tuple(k) for k in np.clip(knots, 0.06, 0.94))))
    return sketch


def lighthouse(r: Rng) -> Sketch:
    """A striped lighthouse on a rock."""
    w, top = r.uniform(0.09, 0.12), r.uniform(0.24, 0.3)
    at = [top + (0.84 - top) * k for k in (0.0, 0.25, 0.5, 0.75, 1.0)]
    half = [w * (0.75 + 0.6 * k) for k in (0.0, 0.25, 0.5, 0.75, 1.0)]
    s = [polygon((0.5 - half[i], at[i]), (0.5 + half[i], at[i]), (0.5 + half[i + 1], at[i + 1]),
                 (0.5 - half[i + 1], at[i + 1]), tone=0.8 * (i % 2)) for i in range(4)]  # fmt: skip
    s.append(polygon((0.5 - w, top), (0.5 + w, top), (0.5 + w * 0.8, top - 0.1), (0.5 - w * 0.8, top - 0.1)))
    s.append(polygon((0.5 - w, top - 0.1), (0.5, top - 0.19), (0.5 + w, top - 0.1), tone=0.9))
    s += [
        line((0.5 + side * 0.14, top - 0.06), (0.5 + side * 0.42, top - 0.06 + k))
        for side in (-1, 1)
        for k in (-0.08, 0.06)
    ]
    return [*s, curve((0.16, 0.92), (0.3, 0.83), (0.5, 0.86), (0.7, 0.82), (0.86, 0.92))]


def windmill(r: Rng) -> Sketch:
    """A tower mill with four sails."""
    turn, reach = r.uniform(0, np.pi / 2), r.uniform(0.3, 0.36)
    s = [polygon((0.4, 0.42), (0.6, 0.42), (0.68, 0.9), (0.32, 0.9), tone=r.uniform(0.1, 0.5)),
         polygon((0.38, 0.42), (0.5, 0.28), (0.62, 0.42), tone=0.8)]  # fmt: skip
    for k in range(4):
        d = np.array([np.cos(turn + k * np.pi / 2), np.sin(turn + k * np.pi / 2)])
        n = np.array([-d[1], d[0]]) * 0.08
        hub, tip = np.array([0.5, 0.38]) + d * 0.05, np.array([0.5, 0.38]) + d * reach
        s.append(line((0.5, 0.38), tuple(tip)))
        s.append(polygon(tuple(hub), tuple(tip), tuple(tip + n), tuple(hub + n), tone=0.2))
    return s


def bridge(r: Rng) -> Sketch:
    """A stone bridge of two or three arches over water."""
    deck, n = r.uniform(0.4, 0.48), int(r.integers(2, 4))
    w = 0.86 / n
    s = [polygon((0.05, deck), (0.95, deck), (0.95, deck + 0.08), (0.05, deck + 0.08), tone=r.uniform(0.2, 0.6))]
    for i in range(n):
        x = 0.07 + w * (i + 0.5)
        s.append(arc(x, 0.8, w * 0.38, 0.8 - deck - 0.13, 180, 360))
    s += [line((0.07 + w * i, deck + 0.08), (0.07 + w * i, 0.82)) for i in range(n + 1)]
    return [*s, *(curve((0.05, y), (0.3, y + 0.02), (0.6, y - 0.02), (0.95, y)) for y in (0.84, 0.9))]


def butterfly(r: Rng) -> Sketch:
    """A butterfly with open wings."""
    up, low = r.uniform(0.3, 0.38), r.uniform(0.22, 0.28)
    tone = r.uniform(0.2, 0.7)
    s = [ellipse(0.5, 0.54, 0.03, 0.2, tone=0.9)]
    for k in (-1, 1):
        s.append(curve((0.5 + k * 0.03, 0.48), (0.5 + k * up, 0.18),
                       (0.5 + k * (up + 0.06), 0.36), (0.5 + k * 0.2, 0.54),
                       closed=True, tone=tone))  # fmt: skip
        s.append(curve((0.5 + k * 0.03, 0.56), (0.5 + k * low, 0.58), (0.5 + k * low, 0.78), (0.5 + k * 0.1, 0.74),
                       closed=True, tone=tone * 0.6))  # fmt: skip
        s.append(ellipse(0.5 + k * up * 0.75, 0.34, 0.04))
        s.append(curve((0.5, 0.36), (0.5 + k * 0.06, 0.24), (0.5 + k * 0.12, 0.2)))
    return s


def snail(r: Rng) -> Sketch:
    """A snail with a spiral shell."""
    t = np.linspace(0, 1, 26)
    a = t * 2 * np.pi * r.uniform(1.8, 2.4) + np.pi / 2
    rad = 0.03 + 0.2 * t
    return [
        curve(
            (0.1, 0.82),
            (0.5, 0.84),
            (0.82, 0.8),
            (0.9, 0.56),
            (0.8, 0.56),
            (0.74, 0.7),
            (0.4, 0.74),
            closed=True,
            tone=0.25,
        ),
        ellipse(0.44, 0.52, 0.25, 0.24, tone=r.uniform(0.1, 0.5)),
        curve(*zip(0.44 + rad * np.cos(a), 0.52 + rad * np.sin(a), strict=True)),
        line((0.86, 0.57), (0.84, 0.4)),
        line((0.89, 0.57), (0.94, 0.42)),
    ]


def owl(r: Rng) -> Sketch:
    """An owl on a branch."""
    w = r.uniform(0.22, 0.27)
    s = [curve((0.5 - w, 0.3), (0.5, 0.2), (0.5 + w, 0.3), (0.5 + w, 0.62), (0.5, 0.82), (0.5 - w, 0.62), closed=True,
               tone=r.uniform(0.1, 0.4))]  # fmt: skip
    for k in (-1, 1):
        s += [ellipse(0.5 + k * 0.1, 0.38, 0.09), ellipse(0.5 + k * 0.1, 0.38, 0.035, tone=1.0)]
        s.append(polygon((0.5 + k * w, 0.3), (0.5 + k * (w - 0.02), 0.12), (0.5 + k * 0.08, 0.24), tone=0.6))
    s.append(polygon((0.47, 0.44), (0.53, 0.44), (0.5, 0.51), tone=0.9))
    s += [arc(x, y, 0.05, 0.04, 0, 180) for y in (0.58, 0.66) for x in (0.42, 0.52, 0.6)]
    return [*s, line((0.08, 0.84), (0.92, 0.8))]


def teapot(r: Rng) -> Sketch:
    """A teapot with spout, handle and lid."""
    w = r.uniform(0.24, 0.28)
    return [
        ellipse(0.48, 0.58, w, 0.21, tone=r.uniform(0.1, 0.6)),
        curve((0.48 + w - 0.04, 0.62), (0.82, 0.54), (0.86, 0.38), (0.94, 0.36)),
        curve((0.48 + w - 0.03, 0.5), (0.78, 0.46), (0.82, 0.34), (0.94, 0.36)),
        arc(0.48 - w, 0.56, 0.14, 0.15, 70, 290),
        arc(0.48, 0.4, 0.15, 0.07, 180, 360),
        ellipse(0.48, 0.3, 0.035, tone=0.8),
        line((0.34, 0.8), (0.62, 0.8)),
    ]


def guitar(r: Rng) -> Sketch:
    """A guitar standing upright."""
    tone = r.uniform(0.1, 0.5)
    return [
        curve((0.5, 0.46), (0.66, 0.5), (0.62, 0.64), (0.73, 0.8), (0.5, 0.94), (0.27, 0.8), (0.38, 0.64),
              (0.34, 0.5), closed=True,
              tone=tone),
        ellipse(0.5, 0.66, r.uniform(0.06, 0.08), tone=0.95),
        polygon((0.47, 0.46), (0.47, 0.14), (0.53, 0.14), (0.53, 0.46), tone=0.7),
        polygon((0.45, 0.14), (0.46, 0.04), (0.54, 0.04), (0.55, 0.14), tone=0.4),
        line((0.42, 0.82), (0.58, 0.82)),
        *(line((x, 0.14), (x, 0.82)) for x in (0.49, 0.51)),
    ]  # fmt: skip


def lamp(r: Rng) -> Sketch:
    """A table lamp with a shade."""
    w = r.uniform(0.2, 0.26)
    return [
        polygon(
            (0.5 - w * 0.55, 0.16), (0.5 + w * 0.55, 0.16), (0.5 + w, 0.48), (0.5 - w, 0.48), tone=r.uniform(0.1, 0.5)
        ),
        line((0.5, 0.48), (0.5, 0.62)),
        curve((0.44, 0.62), (0.56, 0.62), (0.6, 0.76), (0.5, 0.84), (0.4, 0.76), closed=True, tone=0.7),
        polygon((0.36, 0.86), (0.64, 0.86), (0.66, 0.91), (0.34, 0.91), tone=0.9),
        *(line((0.5 + k * (w + 0.05), 0.5), (0.5 + k * (w + 0.14), 0.58)) for k in (-1, 1)),
    ]


def rocket(r: Rng) -> Sketch:
    """A rocket taking off."""
    w = r.uniform(0.1, 0.13)
    return [
        curve(
            (0.5, 0.06),
            (0.5 + w, 0.3),
            (0.5 + w, 0.66),
            (0.5 - w, 0.66),
            (0.5 - w, 0.3),
            closed=True,
            tone=r.uniform(0, 0.3),
        ),
        ellipse(0.5, 0.36, 0.05, tone=0.9),
        *(polygon((0.5 + k * w, 0.5), (0.5 + k * (w + 0.13), 0.72), (0.5 + k * w, 0.68), tone=0.8) for k in (-1, 1)),
        curve((0.44, 0.72), (0.4, 0.84), (0.5, 0.95), (0.6, 0.84), (0.56, 0.72)),
        line((0.5, 0.74), (0.5, 0.86)),
    ]


def anchor(r: Rng) -> Sketch:
    """A ship's anchor."""
    w = r.uniform(0.26, 0.32)
    return [
        ellipse(0.5, 0.15, 0.06),
        line((0.5, 0.21), (0.5, 0.88)),
        line((0.34, 0.32), (0.66, 0.32)),
        arc(0.5, 0.6, w, 0.28, 0, 180),
        *(
            polygon((0.5 + k * w, 0.54), (0.5 + k * (w + 0.07), 0.68), (0.5 + k * (w - 0.1), 0.66), tone=0.9)
            for k in (-1, 1)
        ),
    ]


def _table(*subjects: Subject) -> Mapping[str, Subject]:
    return MappingProxyType({f.__name__: f for f in subjects})


PUBLIC = _table(house, tree, face, boat, fish, cat, bird, sun, flower, cup, mountain, car, star, spiral, strokes)
STUDIO = _table(lighthouse, windmill, bridge, butterfly, snail, owl, teapot, guitar, lamp, rocket, anchor)
