"""The state between rounds: the adapter, and what the server optimiser remembers; one encrypted file a round.

An adapter that was not released is nobody's business who gets hold of the disk (``server/release.py`` makes one
public). A round's file appears whole or not at all, so a crash while it is written leaves the round before as the last.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.adapter_schema import Adapter, AdapterSchema
from common.errors import AdapterError, RunError, VaultError
from common.export import adapter_weights
from common.paths import ServerHome
from security.vault import Vault

STATE_FILE = "state.sealed"


@dataclass(frozen=True)
class RunState:
    """What the next round starts from.

    Attributes:
        adapter: Both factors, float32.
        optimiser: The server optimiser's memory as safetensors; empty when it has none.
    """

    adapter: Adapter
    optimiser: bytes = b""

    def to_bytes(self) -> bytes:
        """Return it as safetensors."""
        adapter = self.adapter
        content: bytes = save({"A": adapter.a, "B": adapter.b, "optimiser": np.frombuffer(self.optimiser, np.uint8)})
        return content

    @classmethod
    def from_bytes(cls, data: bytes, schema: AdapterSchema) -> RunState:
        """Return the state that :meth:`to_bytes` wrote.

        Raises:
            AdapterError: It is none of such an adapter.
        """
        try:
            tensors = load(data)
            adapter = Adapter(schema, tensors["A"].copy(), tensors["B"].copy())
            return cls(adapter, tensors["optimiser"].tobytes())
        except (SafetensorError, KeyError) as cause:
            raise AdapterError("a round's state is not of this run's adapter", got=type(cause).__name__) from None


@dataclass(frozen=True)
class RunStates:
    """The states of one run's closed rounds.

    Args:
        home: The server's.
        run: The run's id.
        vault: Of the home.
    """

    home: ServerHome
    run: str
    vault: Vault

    def save(self, number: int, state: RunState) -> str:
        """Write a round's state and return the SHA-256 (hex) that its adapter has as a file.

        Raises:
            RunError: It cannot be written, for example because the disk is full; what was there before is untouched.
        """
        file = self._file(number)
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.vault.write(file, state.to_bytes(), self._what(number))
        except (OSError, VaultError) as cause:
            got = cause.got if isinstance(cause, VaultError) else cause.strerror
            raise RunError("the round's adapter cannot be written", got=got, advice="Make room on the disk.") from cause
        return hashlib.sha256(adapter_weights(state.adapter)).hexdigest()

    def load(self, number: int, schema: AdapterSchema) -> RunState:
        """Return the state that :meth:`save` wrote.

        Args:
            number: The round's.
            schema: The adapter's layers and ranks, as the run's order has them.

        Raises:
            VaultError: The file is missing, was changed, or is another round's or run's.
            AdapterError: What it holds is no state of such an adapter.
        """
        return RunState.from_bytes(bytes(self.vault.read(self._file(number), self._what(number))), schema)

    def _file(self, number: int) -> Path:
        return self.home.round(self.run, number) / STATE_FILE

    def _what(self, number: int) -> bytes:
        return f"bottega/v1/state/{self.run}/{number}".encode()
