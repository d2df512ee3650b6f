"""Help blocks of the README: fenced as ``console``, first line ``$ COMMAND --help``; ``--write`` renews them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"```console\n\$ (?P<command>bottega[^\n]*--help)\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One help block."""

    command: str
    text: str


def blocks(readme: str) -> Iterator[Block]:
    """Yield the help blocks of a README."""
    for match in _BLOCK.finditer(readme):
        yield Block(match["command"], match["text"])


def live_help(command: str) -> str:
    """Return what a command's --help prints on a terminal of 100 columns, without trailing spaces."""
    environment = {**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"}
    words = [sys.executable, "-P", "-m", "deploy.cli", *command.split()[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    text = done.stdout.replace("python -m deploy.cli", "bottega").replace("cli.py", "bottega")
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def main() -> None:
    """Write the live help into the README."""
    file = ROOT / "README.md"
    readme = file.read_text(encoding="utf-8")
    fresh = _BLOCK.sub(lambda m: f"```console\n$ {m['command']}\n{live_help(m['command'])}```", readme)
    file.write_text(fresh, encoding="utf-8")


if __name__ == "__main__" and "--write" in sys.argv:
    main()
