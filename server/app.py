"""The ServerApp that Flower runs: opens the house, finds the run it was started for, and runs its rounds."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import BottegaError, RunError
from common.flower_pace import quicken_pulls
from common.paths import ServerHome
from security.run_order import open_order
from server.house import open_house
from server.rounds import Run, SealedRounds
from server.start import starting_state
from server.store import Store

HOME_VARIABLE = "BOTTEGA_SERVER_HOME"
"""Tells the ServerApp, which Flower starts, which home it belongs to."""

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run the run that the run configuration names."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    quicken_pulls()
    home = _home()
    store = Store(home.database)
    run_id = str(context.run_config["run"])
    try:
        _run(grid, home, store, run_id)
    except BottegaError as why:
        store.end_run(run_id, "failed", str(why))
        raise
    except BaseException as cause:
        store.end_run(run_id, "failed", f"the round loop stopped: {type(cause).__name__}")
        raise
    finally:
        store.close()


def _run(grid: Grid, home: ServerHome, store: Store, run_id: str) -> None:
    row = store.run(run_id)
    house = open_house(home)
    # Believed anew at each start: whose operator was revoked since does not go on.
    run = Run(open_order(row.order, house.roster), row.order, house, store)
    first, state = starting_state(home, store, run_id, run.settings, run.schema)
    SealedRounds(run, state, first).start(grid)
    store.end_run(run_id, "finished")


def _home() -> ServerHome:
    try:
        return ServerHome(Path(os.environ[HOME_VARIABLE]))
    except KeyError:
        raise RunError(
            "the ServerApp was started outside a server", expected=f"{HOME_VARIABLE} in its environment"
        ) from None
