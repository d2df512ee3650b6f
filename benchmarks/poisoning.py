"""What hostile sites can do to a run, and who stops them: ``python -m benchmarks.poisoning --data DIR --cells FOLDER``.

Twelve simulated sites (:mod:`deploy.simulation`), every fourth hostile in every round. Drawings are dealt by alphabet
and by who drew them (*unlike*) or by chance (*alike*); runs are without privacy (six rounds of four steps) or at
epsilon 8 (four rounds of two noised steps of one draw a drawing). Each cell is one whole run: which drawings, private
or not, an attack of the zoo (`deploy/zoo.py`, and `deploy/poisons.py` for those through data), a defence.

Two rows are no attacks: *none*, and *outsider*, where one of twelve honest sites draws in negative.

A cell holds the held-out loss at the honest sites, and for bottega who was rejected when. *Harm* is the share of the
improvement of the run of the honest sites alone that is lost; below 0 the run with hostile sites was better. Hostile
sites know everything: all honest updates, the detector and the round's secrets.

The whole table takes a night: `--minutes` ends a run early, the next one goes on, and `--part` names cells to begin
with (`unlike/plain/`, `unlike/private/scaling`). Bars are taken over the cells that there are, and the line of JSON
counts those that are missing. `byzfl`'s rules have no column: ours are held to them number by number in
`tests/unit/robust`. Flower's Bulyan has none: it wants 4 f + 3 = 15 sites, and does nothing below.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from statistics import mean

import torch

from benchmarks.cells import Cells, Facts
from benchmarks.defences import Defence, OthersRule, defences
from benchmarks.poisoned_data import Deal, by_chance, by_drawer
from benchmarks.reporting import Bar, finish, table
from client.dataset import TrainingSet, encode
from common.models import Base, attach_lora, load_base
from common.settings import LoraSettings, PrivacySettings, RunSettings, TrainingSettings
from deploy.poisons import DATA, marked
from deploy.rehearsing import rehearse
from deploy.simulation import Hostile, SimulatedSite, Simulation, losses
from deploy.zoo import WIRE, scaled
from security.rehearsal import Rehearsal
from server.start import fresh_state

SITES = 12
EVERY = 4
OUTSIDER = "outsider"
"""No attack: everybody is honest, and one site draws as nobody else does, in negative."""

CLAIMED = 1_000_000
"""Drawings that a site which pads its count says it has."""

PLAIN = RunSettings(
    rounds=6, quorum=1, privacy=False, lora=LoraSettings(rank=4),
    training=TrainingSettings(steps=4, batch=8, held_out_most=40),
)  # fmt: skip
PRIVATE = PLAIN.model_copy(update={"rounds": 4, "privacy": PrivacySettings(multiplicity=1)})

ATTACKS = (*WIRE, "padding", *DATA)
PEERS_MEET = ("none", "sign-flip-3", "scaling", "alie", "min-max", "adaptive", "inverted")
"""The attacks that every defence meets; the others are met by bottega and by no defence."""

WORTH = 0.02
"""What an attack must cost an undefended run, as a share of its improvement, to count."""


def main() -> None:
    """Measure what is missing, print the tables and the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of folders of drawings, with drawers")
    parser.add_argument("--cells", type=Path, help="a folder for what is measured")
    parser.add_argument("--minutes", type=float, default=55, help="begin no cell after so many (55)")
    parser.add_argument("--part", default="", help="measure only cells whose names begin with this")
    parser.add_argument("--quick", action="store_true", help="three attacks on unlike sites without privacy")
    parser.add_argument("--json", action="store_true", help="print only the last line")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(args.cells, args.minutes, args.part)
    base = load_base()
    arenas = [Arena(base, args.data, "unlike", "plain", cells)]
    attacks: Sequence[str] = ("scaling", "sign-flip-3", "inverted") if args.quick else ATTACKS
    if not args.quick:
        arenas += [Arena(base, args.data, *where, cells) for where in _WHERE[1:]]
    grids = {arena.name: arena.grid(attacks, everybody=not args.quick) for arena in arenas}
    if not args.json:
        for name, grid in grids.items():
            _tell(name, grid)
    finish(_bars(grids), {"missing_cells": len(cells.missing)}, quiet=args.json)


_WHERE = (("unlike", "plain"), ("unlike", "private"), ("alike", "plain"), ("alike", "private"))

Grid = Mapping[tuple[str, str], Facts]
"""Cells by attack and defence; ``none`` and ``clean`` is the run of honest sites alone, ``base`` no run."""


@dataclass(frozen=True)
class Arena:
    """All runs on the same drawings, private or not.

    Args:
        base: The base.
        data: A folder of folders of drawings.
        dealt: ``unlike`` or ``alike``.
        kind: ``plain`` or ``private``.
        cells: What was measured before.
    """

    base: Base
    data: Path
    dealt: str
    kind: str
    cells: Cells

    @property
    def name(self) -> str:
        """The beginning of the names of its cells."""
        return f"{self.dealt}/{self.kind}"

    @property
    def run(self) -> RunSettings:
        """What all runs have in common."""
        return PRIVATE if self.kind == "private" else PLAIN

    @cached_property
    def deals(self) -> Mapping[str, Deal]:
        """Every site's drawings."""
        deal = by_drawer if self.dealt == "unlike" else by_chance
        return deal(self.data, self.base.pixels, SITES)

    @cached_property
    def hostile(self) -> frozenset[str]:
        """Who is hostile."""
        return frozenset(sorted(self.deals)[1::EVERY])

    @cached_property
    def sites(self) -> Mapping[str, SimulatedSite]:
        """Everybody as honest sites."""
        return {n: SimulatedSite(n, encode(self.base, d.train), self._held_out(d)) for n, d in self.deals.items()}

    @cached_property
    def honest(self) -> list[SimulatedSite]:
        """The honest sites."""
        return [site for name, site in self.sites.items() if name not in self.hostile]

    @cached_property
    def rehearsal(self) -> Rehearsal:
        """What bottega's detector begins with: simulated sites, none of these drawings."""
        settings = defences(len(self.hostile))["bottega"].settings(self.run)
        made = self.cells.kept(
            f"{self.kind}/rehearsal", lambda: rehearse(self.base, settings, SITES, drawings=(150, 250)).to_bytes()
        )
        return Rehearsal.from_bytes(made)

    def grid(self, attacks: Sequence[str], *, everybody: bool) -> Grid:
        """Return the cells of some attacks; ``everybody`` for all defences in place of bottega and none."""
        wanted = [("none", "base"), ("none", "clean")]
        columns = defences(SITES // EVERY)
        ours = list(columns)[:2]
        wanted += [(attack, defence) for attack in ("none", OUTSIDER, *attacks) for defence in ours]
        if everybody:
            wanted += [(attack, defence) for attack in PEERS_MEET for defence in columns if defence not in ours]
        found = {(a, d): self.cells.cell(f"{self.name}/{a}/{d}", partial(self._measure, a, d)) for a, d in wanted}
        return {place: facts for place, facts in found.items() if facts is not None}

    def _measure(self, attack: str, defence: str) -> Facts:
        if defence == "base":
            settings = self.run
            adapter = fresh_state(attach_lora(self.base.unet, settings.lora), settings).adapter
            return {"loss": losses(self.base, adapter, self.honest, settings)["mean"]}
        if defence == "clean":
            run = self._simulation(self.honest, None, Defence())
        else:
            crowd, hostile = self._crowd(attack)
            run = self._simulation(crowd, hostile, defences(len(self.hostile))[defence])
        adapter = run.run()
        bad: Collection[str] = () if attack in {"none", OUTSIDER} else self.hostile
        facts = {"loss": losses(self.base, adapter, self.honest, self.run)["mean"], **self._rejections(run, bad)}
        if attack == "trigger" or defence == "clean":
            seen = [SimulatedSite(s.name, s.training, self._marked(self.deals[s.name])) for s in self.honest]
            facts["marked"] = losses(self.base, adapter, seen, self.run)["mean"]
        return facts

    def _simulation(self, crowd: Sequence[SimulatedSite], hostile: Hostile | None, defence: Defence) -> Simulation:
        settings = defence.settings(self.run)
        if defence.rule:
            others = OthersRule(self.base, crowd, settings, hostile)
            others.rule, others.hostile = defence.rule, len(self.hostile)
            return others
        return Simulation(self.base, crowd, settings, hostile, self.rehearsal if defence.detector else None)

    def _crowd(self, attack: str) -> tuple[list[SimulatedSite], Hostile | None]:
        """Return who takes part, and what the hostile do on the wire."""
        if attack in DATA:
            victim = self.deals[self.honest[0].name].train[0].caption
            poison = DATA[attack]
            bad = {
                name: SimulatedSite(name, encode(self.base, poison(self.deals[name].train, victim)), site.held_out)
                for name, site in self.sites.items()
                if name in self.hostile
            }
            return [bad.get(name, site) for name, site in self.sites.items()], None
        everybody = list(self.sites.values())
        if attack == "none":
            return everybody, None
        if attack == OUTSIDER:
            odd = min(self.hostile)
            training = encode(self.base, DATA["inverted"](self.deals[odd].train, ""))
            return [replace(site, training=training) if site.name == odd else site for site in everybody], None
        if attack == "padding":
            return everybody, Hostile(self.hostile, scaled(-1.0), CLAIMED)
        return everybody, Hostile(self.hostile, WIRE[attack])

    def _rejections(self, run: Simulation, bad: Collection[str]) -> dict[str, object]:
        """Return how much of what was sent was refused or rejected, and for how long at a time."""
        rounds = sorted(run.found)
        out = {
            name: [run.found[number].get(name) in {"refused", "rejected", "harmful"} for number in rounds]
            for name in self.deals
        }
        good = [name for name in out if name not in bad]
        return {
            "hostile_out": mean(float(one) for name in bad for one in out[name]) if bad else 0.0,
            "honest_out": mean(float(one) for name in good for one in out[name]),
            "consecutive": max(_longest(out[name]) for name in good),
        }

    def _held_out(self, deal: Deal) -> TrainingSet:
        return encode(self.base, deal.held_out)

    def _marked(self, deal: Deal) -> TrainingSet:
        return encode(self.base, marked(deal.held_out))


def _longest(out: Sequence[bool]) -> int:
    """Return how many rounds in a row somebody was out at the most."""
    return max((sum(1 for _ in rounds) for was_out, rounds in groupby(out) if was_out), default=0)


def _harm(grid: Grid, attack: str, defence: str) -> float | None:
    """Return the share of the improvement of the honest alone that is lost; None where a cell is missing."""
    start, clean, cell = grid.get(("none", "base")), grid.get(("none", "clean")), grid.get((attack, defence))
    if start is None or clean is None or cell is None:
        return None
    return float((cell["loss"] - clean["loss"]) / (start["loss"] - clean["loss"]))


def _tell(name: str, grid: Grid) -> None:
    columns = list(dict.fromkeys(defence for _, defence in grid if defence not in {"base", "clean"}))
    rows = []
    for attack in dict.fromkeys(attack for attack, _ in grid):
        told = [_percent(_harm(grid, attack, defence)) for defence in columns]
        cell = grid.get((attack, "bottega"), {})
        rows.append((attack, *told, _percent(cell.get("hostile_out")), _percent(cell.get("honest_out"))))
    table(f"{name}: harm", ("attack", *columns, "hostile out", "honest out"), rows)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _bars(grids: Mapping[str, Grid]) -> list[Bar]:
    held = list(_held(grids))
    ours = [facts for grid in grids.values() for (_, defence), facts in grid.items() if defence == "bottega"]
    peace = [cost for grid in grids.values() if (cost := _cost_of_peace(grid)) is not None]
    return [
        Bar("attacks_held", mean(map(float, held)) if held else float("nan"), 1.0, at_least=True),
        Bar("false_rejections", mean(f["honest_out"] for f in ours) if ours else float("nan"), 0.02),
        Bar("consecutive", max((f["consecutive"] for f in ours), default=float("nan")), 2),
        Bar("peace", max(peace, default=float("nan")), 0.01),
    ]


def _cost_of_peace(grid: Grid) -> float | None:
    """Return what judging costs where nobody is hostile, as a share of the improvement."""
    ours, undefended = _harm(grid, "none", "bottega"), _harm(grid, "none", "none")
    return None if ours is None or undefended is None else ours - undefended


def _held(grids: Mapping[str, Grid]) -> Iterator[bool]:
    """Yield for each attack that hurts an undefended run whether bottega's ends where the honest alone end."""
    for grid in grids.values():
        for attack in ATTACKS:
            undefended, ours = _harm(grid, attack, "none"), _harm(grid, attack, "bottega")
            if undefended is not None and ours is not None and undefended > WORTH:
                yield ours <= 0.05


if __name__ == "__main__":
    main()
