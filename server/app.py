"""The ServerApp that Flower runs: opens the house, finds the run it was started for, and runs its rounds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import BottegaError, RunError
from common.flower_pace import quicken_pulls
from common.logs import set_up_logs
from common.paths import ServerHome
from common.tether import end_with
from common.tracing import end_traces, name_service
from security.run_order import open_order
from server.house import open_house
from server.rounds import SealedRounds
from server.run import Run
from server.start import starting_state
from server.store import Store

HOME_VARIABLE = "BOTTEGA_SERVER_HOME"
"""Tells the ServerApp, which Flower starts, which home it belongs to."""

SERVER_VARIABLE = "BOTTEGA_SERVER_PID"
"""Tells it which process it works for. Flower does not end a ServerApp whose SuperLink was killed."""

PATIENCE_S = 60.0

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run the run that the run configuration names."""
    set_up_logs(json_=True)  # the server that started this reads the lines and puts them into its own stream
    quicken_pulls()
    name_service("bottega-server")
    home = _home()
    end_with(int(os.environ[SERVER_VARIABLE]))
    store = Store(home.database)
    run_id, flower = str(context.run_config["run"]), int(context.run_id)
    try:
        with alone(home.run(run_id)):
            # Said here too: a run may be at work before whoever submitted it has heard its number.
            store.submitted(run_id, flower)
            _run(grid, home, store, run_id)
        store.end_run(run_id, flower, "finished")
    except BottegaError as why:
        store.end_run(run_id, flower, "failed", str(why))
        raise
    except BaseException as cause:
        store.end_run(run_id, flower, "failed", f"the round loop stopped: {type(cause).__name__}")
        raise
    finally:
        store.close()
        end_traces()


def _run(grid: Grid, home: ServerHome, store: Store, run_id: str) -> None:
    row = store.run(run_id)
    house = open_house(home)
    # Believed anew at each start: whose operator was revoked since does not go on.
    run = Run(open_order(row.order, house.roster), row.order, house, store)
    first, state = starting_state(run.states, store, run.settings, run.schema)
    SealedRounds(run, state, first).start(grid)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a run for one round loop: one that was stopped may still be writing its last round.

    Raises:
        RunError: Another holds it and does not let go.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise RunError("another round loop holds the run", advice="Stop it, then resume the run.") from None
                time.sleep(0.2)
        yield


def _home() -> ServerHome:
    try:
        return ServerHome(Path(os.environ[HOME_VARIABLE]))
    except KeyError:
        raise RunError(
            "the ServerApp was started outside a server", expected=f"{HOME_VARIABLE} in its environment"
        ) from None
