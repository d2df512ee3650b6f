"""Receipts: what the federation's ledger says of a site's own answers, with the proof that it says so.

A receipt is an entry, its place, an RFC 6962 inclusion proof and the checkpoint that the server signed. The site keeps
each as a file, so what it was told can be shown to anybody, offline, for as long as the server's key is known.

What the site sent, it remembers by digest. So an entry that tells of another answer than the site gave is found out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import LedgerError
from security.checkpoint import open_checkpoint
from security.entries import Update, read_entry
from security.files import read_private, replace
from security.keys import VerifyKey
from security.ledger_names import origin_of
from security.merkle import leaf_hash, verify_inclusion
from security.names import SpiffeId

log = logging.getLogger("bottega.witness")


@dataclass(frozen=True)
class Receipt:
    """What the ledger says of one answer of a site.

    Attributes:
        checkpoint: A signed note, exact bytes.
        index: The entry's place, from 0.
        entry: Its exact bytes.
        inclusion: RFC 6962 proof that it is there, in the checkpoint's ledger.
    """

    checkpoint: bytes
    index: int
    entry: bytes
    inclusion: tuple[bytes, ...]

    def verified(self, federation: str, server: VerifyKey) -> Update:
        """Return the entry, if the server signed a ledger that holds it.

        Args:
            federation: Whose ledger it is.
            server: The key of its server.

        Raises:
            LedgerError: It is no such receipt.
        """
        checkpoint = open_checkpoint(self.checkpoint, origin_of(federation), server)
        verify_inclusion(leaf_hash(self.entry), self.index, checkpoint.size, self.inclusion, checkpoint.root)
        entry = read_entry(self.entry)
        if not isinstance(entry, Update):
            raise LedgerError("a receipt is of no answer", got=entry.kind, expected="an update")
        return entry

    def to_bytes(self) -> bytes:
        """Return it as JSON."""
        told = {
            "index": self.index,
            "entry": self.entry.decode(),
            "inclusion": [one.hex() for one in self.inclusion],
            "checkpoint": self.checkpoint.decode(),
        }
        return json.dumps(told, indent=1, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Receipt:
        """Return the receipt that :meth:`to_bytes` wrote.

        Raises:
            LedgerError: It is none.
        """
        try:
            told = json.loads(data)
            inclusion = tuple(bytes.fromhex(one) for one in told["inclusion"])
            return cls(told["checkpoint"].encode(), int(told["index"]), told["entry"].encode(), inclusion)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise LedgerError(
                "this is no receipt", expected="JSON with checkpoint, index, entry and inclusion"
            ) from None


class Receipts:
    """The receipts of one site, and what it remembers of its answers.

    Args:
        folder: Where they are kept.
        me: The site.
    """

    def __init__(self, folder: Path, me: SpiffeId) -> None:
        self._folder, self._me = folder, me

    def sent(self, run: str, number: int, sealed: bytes) -> None:
        """Remember an answer by SHA-256 of its sealed body, before it is sent.

        Raises:
            LedgerError: It cannot be written.
        """
        known = self._sent()
        known[f"{run}/{number}"] = [*known.get(f"{run}/{number}", []), sealed.hex()]
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace(self._folder / "sent.json", [json.dumps(known).encode()], error=LedgerError)

    def take(self, receipts: Iterable[Receipt], server: VerifyKey) -> None:
        """Check and keep receipts.

        Raises:
            LedgerError: One does not hold, is of another site, or tells of an answer that this site did not give.
        """
        for receipt in receipts:
            entry = self.check(receipt, server)
            name = f"{entry.run}-{entry.round:04d}-{receipt.index}.json"
            if not (self._folder / name).exists():
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                replace(self._folder / name, [receipt.to_bytes()], error=LedgerError)
                log.info(
                    "round %d of run %s: %s, by the ledger's entry %d",
                    entry.round,
                    entry.run,
                    entry.verdict,
                    receipt.index,
                )

    def check(self, receipt: Receipt, server: VerifyKey) -> Update:
        """Return the entry of a receipt that holds and tells of an answer of this site.

        Raises:
            LedgerError: It does not.
        """
        entry = receipt.verified(self._me.federation, server)
        self._check_own(entry)
        return entry

    def kept(self) -> Sequence[Receipt]:
        """Return all receipts in the order of the ledger.

        Raises:
            LedgerError: A file is none.
        """
        kept = [Receipt.from_bytes(read_private(file, error=LedgerError)) for file in self._files()]
        return sorted(kept, key=lambda receipt: receipt.index)

    @property
    def next_index(self) -> int:
        """The index after that of the last receipt."""
        return 1 + max((int(file.stem.rpartition("-")[2]) for file in self._files()), default=-1)

    def _files(self) -> list[Path]:
        files = self._folder.glob("*-*.json") if self._folder.is_dir() else ()
        return [file for file in files if file.stem.rpartition("-")[2].isdecimal()]

    def _check_own(self, entry: Update) -> None:
        if entry.site != self._me.name:
            raise LedgerError("a receipt is of another site", got=entry.site, expected=self._me.name)
        given = self._sent().get(f"{entry.run}/{entry.round}", [])
        if entry.sealed is not None and entry.sealed not in given:
            raise LedgerError(
                "the federation's ledger tells of an answer that this site did not give",
                got=f"round {entry.round} of run {entry.run}: {entry.sealed[:16]}…",
                expected="the digest of an answer of ours" if given else "no answer",
                advice="Stop the site, and speak with the operator of the federation: somebody answered in its name.",
            )  # fmt: skip

    def _sent(self) -> dict[str, list[str]]:
        file = self._folder / "sent.json"
        if not file.exists():
            return {}
        try:
            told = json.loads(read_private(file, error=LedgerError))
            return {str(place): [str(one) for one in digests] for place, digests in told.items()}
        except (ValueError, AttributeError, TypeError, RecursionError):
            raise LedgerError("what this site remembers of its answers cannot be read", got=file.name) from None
