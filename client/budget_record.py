"""The record of a site's budget: entries that are written once, encrypted, each bound to the digest of all before it.

One file an entry, numbered, never written again. An entry that was changed, left out or put in another's place does not
open; then nothing is spent. The digest over all entries (the *head*) goes out with every update, so that a record that
was turned back is found out. So each entry holds 32 random bytes: without them, who knows all drawings but one could
make the digest again, and see whether that one is here. And each call writes one entry, whatever comes of it: how many
there are must not hang on whether drawings are new, or there at all.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import BottegaError
from security.files import locked
from security.vault import Vault

_FIRST_HEAD = hashlib.sha256(b"bottega/v1/budget\x00").hexdigest()

Part = dict[str, Any]
"""Of an entry: something that a call did, as JSON."""


class BudgetError(BottegaError):
    """The privacy budget does not allow it, or its record cannot be believed."""

    advice = "Nothing was trained. `bottega site budget` shows what is left."


@dataclass(frozen=True)
class Head:
    """How far a record goes: its number of entries, and the digest of them all, hex."""

    entries: int
    digest: str


class Record:
    """The entries in a folder.

    Args:
        folder: Where; made if it is not there.
        vault: Encrypts them.
        take: Called with each part of each entry, in order, when it is read or appended.
        forget: Called when what was taken does not hold: everything is read again then.
    """

    def __init__(self, folder: Path, vault: Vault, take: Callable[[Part], None], forget: Callable[[], None]) -> None:
        self._folder, self._vault, self._take, self._forget = folder, vault, take, forget
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._heads = [_FIRST_HEAD]
        self._parts: list[Part] = []

    @property
    def head(self) -> Head:
        """How far it was read or written."""
        return Head(len(self._heads) - 1, self._heads[-1])

    def holds(self, told: Head) -> bool:
        """Return whether the record is, or once was, what was told of it."""
        return told.entries < len(self._heads) and self._heads[told.entries] == told.digest

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Read what others wrote, keep them out, and write what is appended meanwhile as one entry, refused or not."""
        with locked(self._folder / "lock", error=BudgetError):  # for runs that overlap
            self.read_on()
            self._parts = []
            try:
                yield
            finally:
                self._write()

    def append(self, part: Part) -> None:
        """Do something in this turn. It counts when the turn is over."""
        self._parts.append(part)
        self._take(part)

    def read_on(self) -> None:
        """Take in the entries that were written since the last look, by whomever.

        Raises:
            BudgetError: One does not open, or one is missing.
        """
        while (file := self._file(len(self._heads))).exists():
            try:
                plain = bytes(self._vault.read(file, self._place()))
            except BottegaError as why:
                raise BudgetError(
                    "the budget's record cannot be believed", got=why.what,
                    advice="It was changed, or a part of it is missing. These drawings must not be trained on again.",
                ) from None  # fmt: skip
            for part in _parts_of(plain):
                self._take(part)
            self._chain(plain)
        if beyond := [file for file in self._folder.glob("*.entry") if file > self._file(len(self._heads))]:
            raise BudgetError("an entry of the budget's record is missing", got=f"{len(beyond)} entries after it")

    def _write(self) -> None:
        plain = json.dumps({"parts": self._parts, "salt": secrets.token_hex(32)}, sort_keys=True).encode()
        try:
            self._vault.write(self._file(len(self._heads)), plain, self._place())
        except BaseException:
            self._heads = [_FIRST_HEAD]  # what was not written did not happen; the next call reads it all again
            self._forget()
            raise
        self._chain(plain)

    def _chain(self, plain: bytes) -> None:
        self._heads.append(hashlib.sha256(self._heads[-1].encode() + plain).hexdigest())

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:08d}.entry"

    def _place(self) -> bytes:
        return f"budget/{len(self._heads)}/{self._heads[-1]}".encode()


def _parts_of(plain: bytes) -> list[Part]:
    try:
        parts: list[Part] = json.loads(plain)["parts"]
    except KeyError:
        raise BudgetError(
            "the budget's record is by an earlier version of bottega", advice="Go on with the version that wrote it."
        ) from None
    return parts
