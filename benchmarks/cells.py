"""What long benchmarks have measured so far: one JSON file a cell, so that a run that is cut off goes on where it was.

A cell is measured once. It is measured anew only when its file is deleted, so a folder belongs to one version of the
program and one set of data: give every run its own, and keep it while it is unfinished.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]
"""What one cell holds, as JSON holds it."""


class Cells:
    """The cells of one benchmark.

    Args:
        folder: Where they are; made when needed. None keeps nothing.
        minutes: After so many no further cell is begun.
        part: Only cells whose names begin with this are measured; of the others only those that were before are known.
    """

    def __init__(self, folder: Path | None, minutes: float = float("inf"), part: str = "") -> None:
        self._folder, self._part, self._until = folder, part, time.monotonic() + 60 * minutes
        self.missing: list[str] = []
        """Cells that nobody has measured."""

    def cell(self, name: str, measure: Callable[[], Facts]) -> Facts | None:
        """Return a cell, measured now if it was not before; None when it is not to be measured now.

        Args:
            name: Of the cell.
            measure: Measures it. What it returns must be JSON.
        """
        file = self._file(name)
        if file and file.is_file():
            return dict(json.loads(file.read_text(encoding="utf-8")))
        if time.monotonic() > self._until or not name.startswith(self._part):
            self.missing.append(name)
            return None
        start = time.monotonic()
        facts = {**measure(), "seconds": round(time.monotonic() - start, 1)}
        if file:
            self._write(file, json.dumps(facts))
        print(f"{name}: {facts}", file=sys.stderr, flush=True)
        return facts

    def kept(self, name: str, make: Callable[[], bytes]) -> bytes:
        """Return what takes long to make and is no figure, made now if it was not before."""
        file = self._file(name, ".bin")
        if file and file.is_file():
            return file.read_bytes()
        content = make()
        if file:
            self._write(file, content)
        return content

    def _file(self, name: str, suffix: str = ".json") -> Path | None:
        return self._folder / (re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") + suffix) if self._folder else None

    def _write(self, file: Path, content: str | bytes) -> None:
        """Write a file whole or not at all: a run may be cut off here too."""
        file.parent.mkdir(parents=True, exist_ok=True)
        half = file.with_suffix(".part")
        half.write_bytes(content.encode() if isinstance(content, str) else content)
        half.replace(file)
