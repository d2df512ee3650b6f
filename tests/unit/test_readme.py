"""The README's help blocks are the live --help."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.readme_help import ROOT, blocks, live_help

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [b.command for b in blocks(README)], ids=lambda c: c.replace(" ", "-"))
def test_a_help_block_is_what_the_command_says(command: str) -> None:
    block = next(b for b in blocks(README) if b.command == command)
    assert block.text == live_help(command), "run `make readme`"


def test_there_are_help_blocks() -> None:
    assert {"bottega --help", "bottega demo --help"} <= {b.command for b in blocks(README)}


def test_the_tree_in_the_readme_names_what_is_there() -> None:
    for line in README.splitlines():
        name = line.split()[0] if line.strip() else ""
        if line.startswith(("common/", "security/", "client/", "server/", "deploy/", "tests/", "benchmarks/", "docs/")):
            assert Path(ROOT, name).exists(), name
