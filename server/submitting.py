"""Starting a run: its settings are fixed and stored, then Flower is asked to run the ServerApp for it."""

from __future__ import annotations

import datetime as dt
import secrets

from common.errors import RunError
from common.models import attach_lora, load_base
from common.paths import ServerHome
from common.settings import RunSettings, parse_json
from server.bundle import submit_run
from server.ports import read_ports
from server.store import Store


def start_run(home: ServerHome, settings: RunSettings) -> str:
    """Store a new run and submit it; return its id.

    The base is loaded here once, for its digest and the adapter's schema: the round loop itself needs neither
    PyTorch nor weights.

    Raises:
        BaseModelError: The base cannot be loaded or carries no such adapter.
        ProcessError: The server does not run, or Flower refuses the run.
    """
    ports = read_ports(home)
    base = load_base(settings.base)
    digest = base.digest
    schema = attach_lora(base.unet, settings.lora)
    run = f"{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    with Store(home.database) as store:
        store.start_run(run, settings.model_dump_json(), digest, schema.to_json())
    submit_run(f"127.0.0.1:{ports['control']}", {"run": run})
    return run


def resume_run(home: ServerHome, run: str) -> None:
    """Submit a stored run again; it goes on after its last closed round.

    Raises:
        RunError: There is no such run, or it has finished or is running.
        ProcessError: The server does not run, or Flower refuses the run.
    """
    ports = read_ports(home)
    with Store(home.database) as store:
        row = store.run(run)
        if row.status == "finished":
            raise RunError("the run has finished", got=run, advice="Start a new run with `bottega run start`.")
        parse_json(RunSettings, row.settings, "the run's settings")
        store.start_run(run, row.settings, row.base_digest, row.schema)
    submit_run(f"127.0.0.1:{ports['control']}", {"run": run})
