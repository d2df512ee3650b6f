"""``bottega demo``: a whole federation on one machine, from keys to a report."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.drawings import Drawing, Drawings, load_drawings
from client.evaluation import domain_fid
from client.settings import SiteSettings
from common.errors import DrawingsError, RunError
from common.export import read_adapter
from common.interrupts import Interrupts
from common.models import Base, attach_lora, load_adapter, load_base
from common.procedural import STUDIOS
from common.processes import Supervisor
from common.sampling import sample
from common.settings import RunSettings, read_toml
from deploy.demo_audit import audited
from deploy.federation import Premises, prepare, start_server, start_sites, tear_down, wait_for_sites
from deploy.measuring import loss_curves
from deploy.montage import write_montage
from deploy.progress import Progress
from deploy.releasing import check_round
from deploy.report import SiteGallery, write_report
from deploy.studios import StudioFolder, find_studios, make_studios, make_vandal, public_like_studios
from deploy.vandal import check_attack
from security.run_order import read_order
from server.consent import against_release, deciding_check
from server.house import open_house
from server.planning import start_run
from server.release import release
from server.store import Store

log = logging.getLogger("bottega.demo")

SHOWN = 8
"""Pictures a row of the report."""

JUDGED = 24
"""Pictures a site that are generated for the distance."""

STEPS = 25
GUIDANCE = 4.0
"""Denoising steps and guidance of the demo's pictures: half the steps of `bottega draw`, since it draws two hundred."""


@dataclass(frozen=True)
class DemoSettings:
    """What a person may choose about a demo."""

    home: Path
    data: Path | None
    sites: int | None
    seed: int
    run: RunSettings
    keep: bool
    poison: Mapping[str, str] = field(default_factory=dict)
    """Which sites are hostile, ``{site: attack}``; who is no studio is added to them."""


@dataclass
class Samples:
    """Pictures of every site drawn with one state of the model."""

    by_site: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    def all(self) -> NDArray[np.uint8]:
        """Return the pictures of all sites."""
        return np.concatenate(list(self.by_site.values()))


def run_demo(settings: DemoSettings, progress: Progress, interrupts: Interrupts) -> dict[str, Any]:
    """Run the demo and return its result: what ``--json`` prints.

    Every process that is started is stopped again, whatever happens.

    Raises:
        BottegaError: Something did not work; the home keeps the logs.
    """
    began = time.monotonic()
    clock = Clock(progress, interrupts)
    premises = prepare(settings.home.absolute())
    studios = _studios(settings, premises)
    everybody = [*studios, *_vandals(settings, premises, studios)]
    progress.open([s.name for s in everybody], settings.run.rounds)
    with Supervisor(look=interrupts.check) as supervisor:
        with clock.stage("founding the federation and starting its processes"):
            start_server(premises, supervisor, everybody, settings.run)
            start_sites(premises, supervisor, everybody, settings.poison)
        with clock.stage("drawing with the base, before any training"):
            _check_measurable(premises, studios)
            drawings = {s.name: _drawings(premises, s) for s in studios}
            base = load_base(settings.run.base)
            before = _samples(base, drawings, settings.seed)
        with clock.stage("waiting for the sites"):
            wait_for_sites(premises, supervisor, everybody)
        with clock.stage("federated rounds"):
            run = start_run(premises.server, settings.run)
            _watched(premises, supervisor, run, progress)
    with clock.stage("drawing with the federation's adapter"):
        adapter = _released(premises, run, settings)
        attach_lora(base.unet, settings.run.lora)
        load_adapter(base.unet, read_adapter(adapter))
        after = _samples(base, drawings, settings.seed)
    with clock.stage("measuring the rounds, as only a demo can"):
        curves = _measured(premises, run, base, studios)
    with clock.stage("verifying the record, and doing every round again from it"):
        audit = audited(premises, run)
    facts = _facts(premises, run, adapter, base, drawings, before, after, curves)
    facts["audit"] = audit
    galleries = [_gallery(s.name, drawings[s.name], before, after) for s in studios]
    facts["poison"], facts["defended"] = dict(settings.poison), bool(settings.run.detector)
    facts["timings"], facts["seconds"] = clock.took, round(time.monotonic() - began, 1)
    facts["report"] = str(premises.root / "report.html")
    write_report(premises.root / "report.html", facts, galleries)
    write_montage(premises.root / "pictures.png", galleries)
    if not settings.keep:
        tear_down(premises)
    return facts


class Clock:
    """Times the stages of the demo."""

    def __init__(self, progress: Progress, interrupts: Interrupts) -> None:
        self.took: dict[str, float] = {}
        self._progress, self._interrupts = progress, interrupts

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
        self._interrupts.check()
        self._progress.stage(name)
        began = time.monotonic()
        yield
        self.took[name] = round(time.monotonic() - began, 1)


def _studios(settings: DemoSettings, premises: Premises) -> list[StudioFolder]:
    if settings.data is not None:
        return find_studios(settings.data, settings.sites)
    return make_studios(premises.drawings, 4 if settings.sites is None else settings.sites, settings.seed)


def _vandals(settings: DemoSettings, premises: Premises, studios: Sequence[StudioFolder]) -> list[StudioFolder]:
    """Make the hostile sites that are no studios.

    Raises:
        RunError: An attack is not known.
    """
    for attack in settings.poison.values():
        check_attack(attack)
    named = {studio.name for studio in studios}
    return [make_vandal(premises.drawings, name, settings.seed) for name in settings.poison if name not in named]


def _drawings(premises: Premises, studio: StudioFolder) -> list[Drawing]:
    found = _found(premises, studio)
    return [*found.held_out, *found.train]


def _check_measurable(premises: Premises, studios: Sequence[StudioFolder]) -> None:
    if not any(_found(premises, studio).held_out for studio in studios):
        raise DrawingsError(
            "no studio holds a drawing out, so there is nothing to measure on", got=f"{len(studios)} studios",
            advice="Add drawings: which are held out follows from what is in them.",
        )  # fmt: skip


def _found(premises: Premises, studio: StudioFolder) -> Drawings:
    site = read_toml(SiteSettings, premises.site(studio.name).settings)
    return load_drawings(studio.folder, site.drawings)


def _measured(premises: Premises, run: str, base: Base, studios: Sequence[StudioFolder]) -> dict[str, dict[int, float]]:
    held_out = {s.name: _found(premises, s).held_out for s in studios}
    with Store(premises.server.database) as store:
        return loss_curves(open_house(premises.server), store, run, base, {k: v for k, v in held_out.items() if v})


def _samples(base: Base, drawings: dict[str, list[Drawing]], seed: int) -> Samples:
    samples = Samples()
    for i, (site, own) in enumerate(drawings.items()):
        samples.by_site[site] = sample(
            base, _prompts(own), seed=seed + 1000 * i, steps=STEPS, guidance=GUIDANCE, batch=JUDGED
        )
    return samples


def _prompts(own: Sequence[Drawing]) -> list[str]:
    captions = sorted({d.caption for d in own})
    return [captions[i % len(captions)] for i in range(JUDGED)]


def _watched(premises: Premises, supervisor: Supervisor, run: str, progress: Progress) -> None:
    """Follow the run in the store until it ends.

    Raises:
        RunError: It failed.
        ProcessError: A process died.
    """
    with Store(premises.server.database) as store:
        while True:
            supervisor.check()
            progress.show(rounds(store, run))
            row = store.run(run)
            if row.status != "running":
                break
            time.sleep(0.3)
    if row.status != "finished":
        raise RunError(f"the run {row.status}: {row.error}", advice=f"The logs are in {premises.root}.")


def _released(premises: Premises, run: str, settings: DemoSettings) -> Path:
    """Check the last round's adapter, release it beside the report, and return its weights file.

    A demo shows what came of it, good or bad, and what is shown stays with whoever asked for it.
    """
    house = open_house(premises.server)
    alike = None if settings.data else partial(public_like_studios, settings.sites or len(STUDIOS))
    with Store(premises.server.database) as store:
        check_round(house, store, run, alike=alike)
        why = "a demo, to see what came of it" if against_release(store, run, store.last_closed(run)) else ""
        return release(house, store, run, premises.root / "adapter", despite=why).weights


def rounds(store: Store, run: str) -> list[dict[str, Any]]:
    """Return the training rounds of a run as ``--json`` shows them; what was not measured is None."""
    shown = []
    for row in store.rounds(run):
        if row.work != "train":
            continue
        verdicts, told = store.verdicts(run, row.round), store.metrics(run, row.round)
        shown.append(
            {
                "round": row.round,
                "outcome": row.outcome,
                "admitted": sum(v.admitted for v in verdicts),
                "refused": [{"site": v.site, "check": v.check, "reason": v.reason} for v in verdicts if not v.admitted],
                "cut_down": [{"site": v.site, "reason": v.reason} for v in verdicts if v.admitted and v.reason],
                "unsure": store.unsure(run, row.round) or None,
                "epsilon": {site: told[site]["epsilon"] for site in sorted(told) if "epsilon" in told[site]},
                "held_out_loss": None,
                "seconds": round((row.closed_at or time.time()) - row.opened_at, 2),
            }
        )
    return shown


def _facts(
    premises: Premises,
    run: str,
    adapter: Path,
    base: Base,
    drawings: dict[str, list[Drawing]],
    before: Samples,
    after: Samples,
    curves: dict[str, dict[int, float]],
) -> dict[str, Any]:
    with Store(premises.server.database) as store:
        shown, order = rounds(store, run), read_order(store.run(run).order)
        check = deciding_check(store, run, store.last_closed(run))
    means = {number: float(np.mean([c[number] for c in curves.values()])) for number in next(iter(curves.values()))}
    for row in shown:
        row["held_out_loss"] = means.get(row["round"])
    real = np.stack([d.pixels for own in drawings.values() for d in own])
    return {
        "run": run,
        "sites": list(drawings),
        "rounds": shown,
        "privacy": _privacy(order.settings, shown),
        "held_out_loss_before": means[0],
        "held_out_loss_after": means[max(means)],
        "curves": curves,
        "check": {"words": check.words(), "worse": check.worse} if check else None,
        "fid_before": domain_fid(before.all(), real),
        "fid_after": domain_fid(after.all(), real),
        "fid_generated": len(after.all()),
        "fid_real": len(real),
        "adapter": str(adapter),
        "adapter_folder": str(adapter.parent),
        "adapter_digest": hashlib.sha256(adapter.read_bytes()).hexdigest(),
        "base_digest": order.base_digest,
        "base": base.source,
        "prompts": [_prompts(own)[0] for own in drawings.values()],
    }


def _privacy(settings: RunSettings, shown: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return what protects the drawings, and what each site spent; None of a run without."""
    if not settings.privacy:
        return None
    spent: dict[str, float] = {}
    for row in shown:
        spent |= row["epsilon"]
    return {**settings.privacy.model_dump(mode="json"), "spent": spent}


def _gallery(site: str, own: Sequence[Drawing], before: Samples, after: Samples) -> SiteGallery:
    real = np.stack([d.pixels for d in own[:SHOWN]])
    return SiteGallery(
        site, len(own), real, before.by_site[site][:SHOWN], after.by_site[site][:SHOWN], _prompts(own)[:SHOWN]
    )
