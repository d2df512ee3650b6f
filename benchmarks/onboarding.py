"""From nothing to a first round of two sites: ``python -m benchmarks.onboarding [--nvflare PYTHON] [--quick]``.

Three ways, each in fresh homes on this machine, each with the commands that a person would type, in turn:

* *bottega*: the seven commands of ``docs/guides/joining.md`` and the look at the words before approving.
* *Flower*: an authority and a certificate by ``openssl``, SuperNode keys by ``ssh-keygen``, ``flower-superlink`` with
  ``--enable-supernode-auth``, ``flwr supernode register``, ``flower-supernode``, ``flwr run``.
* *NVIDIA FLARE*: ``nvflare cert init | request | approve``, ``nvflare package``, the kits' ``start.sh``, ``nvflare job
  submit``. It needs a Python that has ``nvflare``; without ``--nvflare`` this way is left out, and said to be.

What is timed is what the machine does: nobody reads, telephones or carries a file here. Until the sites are connected
the three do comparable things. The first round is told apart: ours measures the adapter on each site's drawings and
trains a step of the embedded base, and the others add one to a number.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from flwr.supercore.control import ControlHttpClient

from benchmarks.onboarding_journey import Journey, online, run, start, wait
from benchmarks.onboarding_others import SITES, by_flower, by_nvflare
from benchmarks.reporting import Bar, finish, table
from common.errors import ProcessError
from common.paths import ServerHome
from deploy.studios import make_studios
from server.applicants import Applicants, Status
from server.ports import read_ports
from server.store import Store

BOTTEGA = [sys.executable, "-P", "-m", "deploy.cli"]
ROOT = Path(__file__).resolve().parents[1]
LOOK = "bottega server sites"
RUN = "rounds = 1\n[privacy]\nsteps = 1\nmultiplicity = 1\n"


def main() -> None:
    """Go each way, print the tables and the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help="each way once instead of three times")
    parser.add_argument("--nvflare", type=Path, help="a Python with nvflare; left out, that way is not gone")
    args = parser.parse_args()
    turns: dict[str, list[Journey]] = {}
    for _ in range(1 if args.quick else 3):
        for journey in _gone(args.nvflare):
            turns.setdefault(journey.name, []).append(journey)
    ours = turns["bottega"][0]
    if not args.json:
        _print(turns)
        if args.nvflare is None:
            print("NVIDIA FLARE was left out: name a Python that has nvflare with --nvflare.")
    figures = {
        f"{name.split(',')[0].lower().replace(' ', '_')}_{what}": value
        for name, journeys in turns.items()
        for what, value in _figures(journeys).items()
    }
    finish([Bar("kinds_of_command", len([kind for kind in ours.kinds if kind != LOOK]), 7)], figures, quiet=args.json)


def _gone(nvflare: Path | None) -> list[Journey]:
    """Go each way once."""
    with tempfile.TemporaryDirectory(prefix="bottega-onboarding-") as name:
        roots = [Path(name) / way for way in ("ours", "flower", "nvflare")]
        for root in roots:
            root.mkdir()
        journeys = [_by_us(roots[0]), by_flower(roots[1])]
        return [*journeys, by_nvflare(roots[2], nvflare.absolute())] if nvflare is not None else journeys


def _by_us(root: Path) -> Journey:
    journey = Journey("bottega", by_hand=1)  # run.toml
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    home = ServerHome(root / "server")
    make_studios(root / "drawings", len(SITES), seed=0, each=90)
    drawings = dict(zip(SITES, sorted((root / "drawings").iterdir()), strict=True))
    (root / "run.toml").write_text(RUN, "utf-8")
    with ExitStack() as ended:
        with journey.typed("bottega server init"):
            run([*BOTTEGA, "server", "init", "--name", "studios.example"], root, environment)
        _let_the_system_choose_ports(home)
        with journey.typed("bottega server start"):
            start([*BOTTEGA, "server", "start"], root / "server.out", root, environment, ended)
            wait("the server", home.ports.exists)
        for site in SITES:
            _join(journey, root, environment, home, site, drawings[site], ended)
        client = ControlHttpClient(f"http://127.0.0.1:{read_ports(home)['control']}")
        ended.callback(client.close)
        for number, site in enumerate(SITES, 1):
            with journey.typed("bottega site start"):
                start([*BOTTEGA, "site", "start", "--home", site], root / f"{site}.out", root, environment, ended)
                wait("a site", lambda wanted=number: online(client) == wanted)  # type: ignore[misc]
        journey.connected_s = journey.so_far_s
        with journey.typed("bottega run start"):
            run_id = json.loads(run([*BOTTEGA, "run", "start", "run.toml", "--json"], root, environment))["run"]
            wait("our round", lambda: _closed(home, run_id))
        journey.round_s = journey.steps[-1][1]
    return journey


def _join(
    journey: Journey, root: Path, environment: dict[str, str], home: ServerHome, site: str, data: Path, ended: ExitStack
) -> None:
    """Invite a site, have it ask, look at the words, and approve; its own command ends by itself."""
    journey.carried += 2  # the invitation to the site, the words between the two
    with journey.typed("bottega server invite"):
        token = json.loads(run([*BOTTEGA, "server", "invite", site, "--json"], root, environment))["token"]
    with journey.typed("bottega site join"):
        words = ["site", "join", token, "--data", str(data), "--home", site]
        start([*BOTTEGA, *words], root / f"{site}-join.out", root, environment, ended)
        wait("a request to join", lambda: _waits(home, site))
    with journey.typed(LOOK):
        listed = json.loads(run([*BOTTEGA, "server", "sites", "--json"], root, environment))
    seen = next(row["words"] for row in listed if row["name"] == site)
    if seen not in (root / f"{site}-join.out").read_text("utf-8"):
        raise ProcessError("operator and site do not see the same words", got=site)
    with journey.typed("bottega server approve"):
        run([*BOTTEGA, "server", "approve", site], root, environment)
        wait("the end of the site's command", (root / site / "site.toml").exists)


def _let_the_system_choose_ports(home: ServerHome) -> None:
    text = home.settings.read_text("utf-8").replace("0.0.0.0", "127.0.0.1")  # noqa: S104 (what `init` wrote)
    home.settings.write_text(re.sub(r"_port = \d+", "_port = 0", text), "utf-8")


def _waits(home: ServerHome, site: str) -> bool:
    return any((one.name, one.status) == (site, Status.WAITING) for one in Applicants(home.database).all())


def _closed(home: ServerHome, run_id: str) -> bool:
    with Store(home.database) as store:
        if store.run(run_id).status not in ("running", "finished"):
            raise ProcessError("our run did not finish", got=store.run(run_id).error)
        return any(row.work == "train" and row.outcome == "aggregated" for row in store.rounds(run_id))


def _figures(journeys: list[Journey]) -> dict[str, float]:
    one = journeys[0]
    return {
        "commands": len(one.steps),
        "kinds": len(one.kinds),
        "files_by_hand": one.by_hand,
        "carried": one.carried,
        "connected_s": median(j.connected_s for j in journeys),
        "first_round_s": median(j.round_s for j in journeys),
    }


def _print(turns: dict[str, list[Journey]]) -> None:
    table(
        "two sites, from nothing; human steps take no time here",
        ("way", "commands", "kinds", "written by hand", "handed over", "connected, s", "then first round, s"),
        [
            (name, *(f"{value:.1f}" if what.endswith("_s") else str(value) for what, value in _figures(ways).items()))
            for name, ways in turns.items()
        ],
    )
    for name, ways in turns.items():
        per_kind = [(kind, [s for way in ways for k, s in way.steps if k == kind]) for kind in ways[0].kinds]
        table(
            name,
            ("command", "times", "s each"),
            [(kind, str(len(took) // len(ways)), f"{median(took):.2f}") for kind, took in per_kind],
        )


if __name__ == "__main__":
    main()
