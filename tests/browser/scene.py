"""A federation for the dashboard's tests: a real server's home, with a record that real entries tell."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from common.paths import ServerHome
from common.procedural import STUDIOS, studio_drawings
from common.settings import RunSettings
from security.authority import load_certificate
from security.enrolment import MemberKeys
from security.entries import Entry, PrivacyApplied, TakenBack
from security.identity import Identity
from security.names import Role, SpiffeId
from server.founding import add_site, found
from server.house import open_house
from server.operating import load_operator
from server.settings import ServerSettings
from tests.ledgers import CLIPPED, LATE, REJECTED, Members, Story, write_ledger

FEDERATION = "studios.example"
SITES = ("bellini", "carpaccio", "giorgione", "lotto", "tiziano", "vandal")
PRIVATE = "20261103-101500-7f3a"
PUBLIC = "20261117-090000-c21d"
GOING = "20261126-143000-e84b"
COPIED = {
    "verdict": "rejected", "check": 16, "check_name": "copy", "p_value": 0.31,
    "reason": "the same as the update of another site of this round, up to rounding",
}  # fmt: skip
_AVERAGED = {"admitted", "clipped"}


@dataclass
class Scene:
    """A federation's home, and everybody's keys."""

    home: ServerHome
    members: Members
    story: Story
    written: int = 0
    _chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def write(self, *, sign_every: int = 12) -> None:
        """Write what was told and is not yet written; the honest sites co-sign."""
        entries: list[Entry] = self.story.entries[self.written :]
        write_ledger(self.home.database, self.members, entries, sign_every, [s for s in SITES if s != "vandal"])
        self.written = len(self.story.entries)

    def begin(self, run: str, sites: tuple[str, ...], settings: RunSettings) -> None:
        self.story.start(run, sites, settings)

    def open(self, run: str, number: int, sites: tuple[str, ...]) -> None:
        self.story.open_round(run, number, sites)

    def answer(self, run: str, number: int, site: str, settings: RunSettings, **other: object) -> None:
        """Tell a site's answer; as it would be, but for what is given."""
        place = SITES.index(site)
        strange = 0.02 + 0.96 * float(self._chance.random())
        told: dict[str, object] = {
            "weight": 1 / 5, "norm": round(0.42 + 0.03 * place + 0.05 * float(self._chance.random()), 4),
            "p_value": round(strange, 4), "examples": 40 + 11 * place, "privacy": None,
        }  # fmt: skip
        if settings.privacy:
            told["privacy"] = PrivacyApplied(
                epsilon=round(settings.privacy.epsilon * (number / settings.rounds) ** 0.62 * (0.97 - 0.05 * place), 4),
                delta=1e-4, unit="drawing", multiplier=1.1, clip=1e-3, rate=0.25, steps=2, multiplicity=4,
            )  # fmt: skip
        else:
            loss = 0.305 + 0.052 * np.exp(-number / 3.2) + 0.004 * place + 0.0015 * float(self._chance.normal())
            told["metrics"] = {"held_out_loss": round(float(loss), 5)}
        told |= other
        if told.get("verdict") == "refused":
            told |= {"metrics": None}
        self.story.update(run, number, site, **told)

    def play(
        self, run: str, sites: tuple[str, ...], settings: RunSettings, out: dict[tuple[int, str], dict[str, object]]
    ) -> None:
        """Tell a whole run."""
        self.begin(run, sites, settings)
        for number in range(1, settings.rounds + 1):
            self.open(run, number, sites)
            for site in sites:
                self.answer(run, number, site, settings, **out.get((number, site), {}))
            averaged = [s for s in sites if out.get((number, s), {}).get("verdict", "admitted") in _AVERAGED]
            self.story.close_round(run, number, averaged)
        self.story.end(run)

    def picture(self, run: str, number: int) -> None:
        """Draw what a server may draw after a round: a grid of samples, the worse the earlier."""
        folder = self.home.run(run) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for studio in list(STUDIOS.values())[:3]:
            drawings = [np.asarray(one.picture, dtype=np.float32) for one in studio_drawings(studio, 8, 7)]
            noise = self._chance.normal(0, 90 / number, (len(drawings), *drawings[0].shape))
            rows.append(np.hstack([np.clip(d + n, 0, 255) for d, n in zip(drawings, noise, strict=True)]))
        Image.fromarray(np.vstack(rows).astype(np.uint8)).save(folder / f"round-{number:04d}.png")


def found_scene(folder: Path) -> Scene:
    """Found a federation of six sites in a folder; nothing was trained yet."""
    home = ServerHome(folder / "server")
    found(home, ServerSettings(federation=FEDERATION, operator="anna"), ["127.0.0.1", "localhost"])
    keys = {name: MemberKeys.generate(SpiffeId(FEDERATION, Role.SITE, name)) for name in SITES}
    for one in keys.values():
        add_site(home, one.public)
    story = Story(FEDERATION, now=time.time())
    return Scene(home, _members(home, {name: one.identity for name, one in keys.items()}), story)


def full_scene(folder: Path) -> Scene:
    """Tell of three runs: a private one with a vandal, one without privacy, and one that goes on now."""
    scene = found_scene(folder)
    eight = RunSettings(rounds=8)
    out: dict[tuple[int, str], dict[str, object]] = {(n, "vandal"): {**REJECTED} for n in range(1, 9)}
    out |= {(2, "vandal"): {}, (6, "vandal"): {**COPIED}, (4, "lotto"): {**LATE}, (5, "carpaccio"): {**CLIPPED}}
    scene.play(PRIVATE, SITES, eight, out)
    scene.story.entries.append(
        TakenBack(
            at=scene.story.at(),
            run=PRIVATE,
            round=2,
            found_in=3,
            sites=["vandal"],
            reason="five of five ballots say that the model is worse with it",
        )
    )
    scene.story.check(PRIVATE, 8)
    scene.story.release(PRIVATE, 8)
    scene.write()
    who = SpiffeId(FEDERATION, Role.SITE, "vandal")
    house = open_house(scene.home)
    house.publish(lambda roster: roster.with_revocation(who, "sent noise for a month", int(time.time() * 1000)))
    scene.members.roster = house.roster
    honest = SITES[:-1]
    scene.play(PUBLIC, honest, RunSettings(rounds=12, privacy=False), {(7, "giorgione"): {**LATE}})
    scene.story.release(PUBLIC, 12, "bellini had no time for a last look")
    scene.begin(GOING, honest, eight)
    for number in (1, 2, 3):
        scene.open(GOING, number, honest)
        for site in honest:
            scene.answer(GOING, number, site, eight)
        scene.story.close_round(GOING, number, honest)
    scene.open(GOING, 4, honest)
    for site in honest[:2]:
        scene.answer(GOING, 4, site, eight)
    scene.write()
    for number in range(1, 9):
        scene.picture(PRIVATE, number)
    return scene


def _members(home: ServerHome, sites: dict[str, Identity]) -> Members:
    house = open_house(home)
    return Members(
        server=house.identity, operator=load_operator(home.operator).identity, sites=sites, roster=house.roster,
        authority=load_certificate(home.authority_certificate),
    )  # fmt: skip
