"""How a person says whether they believe a federation's authority, when no invitation carried its fingerprint."""

from __future__ import annotations

from collections.abc import Callable

import typer

from security.fingerprint import Fingerprint


def believed(authority: str | None) -> Callable[[Fingerprint], bool]:
    """Return what decides whether an authority is believed: all of its fingerprint, or a person who reads its words."""

    def by_hex(seen: Fingerprint) -> bool:
        return seen.digest.hex() == (authority or "").replace(" ", "").lower()

    def by_words(seen: Fingerprint) -> bool:
        typer.echo(f"the federation's authority says these words:\n{seen.words}", err=True)
        return typer.confirm("Are they the words that the operator told you by another way?")

    return by_words if authority is None else by_hex
