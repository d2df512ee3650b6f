"""The state between rounds: the adapter, and what the server optimiser remembers; one folder a round.

A round's folder appears whole or not at all, so a crash while it is written leaves the round before as the last.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from common.adapter_schema import Adapter
from common.errors import RunError
from common.export import read_adapter, write_adapter

ADAPTER_FOLDER = "adapter"
OPTIMISER_FILE = "optimiser.safetensors"


@dataclass(frozen=True)
class RunState:
    """What the next round starts from.

    Attributes:
        adapter: Both factors, float32.
        optimiser: The server optimiser's memory as safetensors; empty when it has none.
    """

    adapter: Adapter
    optimiser: bytes = b""


def save_state(folder: Path, state: RunState, base: str) -> str:
    """Write a round's state and return the SHA-256 (hex) of its adapter file.

    Raises:
        RunError: It cannot be written, for example because the disk is full; what was there before is untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        file = write_adapter(fresh, state.adapter, base)
        (fresh / OPTIMISER_FILE).write_bytes(state.optimiser)
        for written in fresh.iterdir():
            with written.open("rb") as open_file:
                os.fsync(open_file.fileno())
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        target = folder / ADAPTER_FOLDER
        if target.exists():  # a try at this round that was cut off before the store heard of it
            shutil.rmtree(target)
        fresh.rename(target)
    except (OSError, SafetensorError) as cause:
        got = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise RunError("the round's adapter cannot be written", got=got) from cause
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # gone already if it was renamed
    return digest


def load_state(folder: Path) -> RunState:
    """Return the state that :func:`save_state` wrote into a round's folder.

    Raises:
        AdapterError: The adapter file is missing or damaged.
    """
    adapter = read_adapter(folder / ADAPTER_FOLDER)
    return RunState(adapter, (folder / ADAPTER_FOLDER / OPTIMISER_FILE).read_bytes())
