"""A site as a witness: it sees that its federation's ledger only grows, and says so by its signature.

Every checkpoint that reaches the site, with a task or from the registry, is held against the last one that it saw
(RFC 6962 consistency). A ledger that shows two histories, or has lost one, is caught here: the site keeps both
checkpoints as evidence, trains on nothing more, and says so until its operator decides. What it has seen it co-signs
(C2SP tlog-cosignature), so that others can tell how many sites saw the same.

The first checkpoint is believed as it is: there is nothing to hold it against.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import BottegaError, LedgerError
from security.checkpoint import Checkpoint, cosign, open_checkpoint
from security.files import read_private, replace
from security.identity import Identity
from security.keys import VerifyKey
from security.ledger_names import cosigner_of, origin_of
from security.merkle import verify_consistency

log = logging.getLogger("bottega.witness")

_NO_PROOF = "it cannot be checked that the federation's ledger only grew"
_TRY_AGAIN = "Nothing was trained. The site asks the registry again; a server that was restored from a backup says so."

Proof = Sequence[bytes]

Prove = Callable[[int, int], Proof]
"""Asks the registry for the consistency proof between two sizes of the ledger.

Raises:
    BottegaError: There is none to be had.
"""


@dataclass(frozen=True)
class Seen:
    """A checkpoint, and the note that it came in."""

    checkpoint: Checkpoint
    note: bytes


class Witness:
    """What one site has seen of its federation's ledger. Safe to use from several threads.

    Args:
        folder: Where it is kept.
        me: The site's own keys; they co-sign.
        server: Returns the key that the federation's server signs with.
        prove: Asks the registry where what came is not enough; None where there is no registry.
    """

    def __init__(self, folder: Path, me: Identity, server: Callable[[], VerifyKey], prove: Prove | None = None) -> None:
        self._folder, self._me, self._server, self._prove = folder, me, server, prove
        self._lock = threading.Lock()

    @property
    def last(self) -> Seen | None:
        """The largest checkpoint that the site has seen; None when it has seen none.

        Raises:
            LedgerError: The file cannot be read, or is no checkpoint of the server's.
        """
        file = self._folder / "latest.note"
        if not file.exists():
            return None
        note = read_private(file, error=LedgerError)
        return Seen(self._opened(note), note)

    @property
    def distrust(self) -> str:
        """Why the site believes its federation's ledger no more; empty when it does."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads((self._folder / "distrust.json").read_text(encoding="utf-8"))["why"])
        return "what the witness wrote down cannot be read" if (self._folder / "distrust.json").exists() else ""

    def see(self, note: bytes, growths: Mapping[int, Proof]) -> bytes:
        """Hold a checkpoint against the last one, remember it, and return the site's line on it.

        Args:
            note: A checkpoint, from anywhere.
            growths: By size, proofs that the checkpoint's ledger holds the ledger of that size.

        Raises:
            LedgerError: It is not the server's, its ledger does not hold what the site saw before, or that cannot be
                checked. Nothing of it may be used.
        """
        with self._lock:
            if why := self.distrust:
                raise LedgerError(
                    "this site trusts its federation's ledger no more", got=why,
                    advice="Nothing was trained. Speak with the operator of the federation; the evidence is in the "
                    "site's home, in `witness`. `bottega site ledger forget` begins anew.",
                )  # fmt: skip
            fresh = Seen(self._opened(note), bytes(note))
            if (last := self.last) is not None:
                self._compare(last, fresh, growths)
            if last is None or fresh.checkpoint.size > last.checkpoint.size:
                self._keep(fresh)
            return cosign(note, cosigner_of(self._me.id), self._me.signing, int(time.time()))

    def forget(self) -> None:
        """Begin anew: the next checkpoint is believed as it is. The evidence stays."""
        with self._lock:
            for name in ("latest.note", "distrust.json"):
                (self._folder / name).unlink(missing_ok=True)

    def _opened(self, note: bytes) -> Checkpoint:
        return open_checkpoint(note, origin_of(self._me.id.federation), self._server())

    def _compare(self, last: Seen, fresh: Seen, growths: Mapping[int, Proof]) -> None:
        """Pass where the smaller of two ledgers is the beginning of the larger."""
        old, new = sorted((last, fresh), key=lambda seen: seen.checkpoint.size)
        sizes = (old.checkpoint.size, new.checkpoint.size)
        if sizes[0] == sizes[1]:
            proof: Proof = ()
        elif old is last and sizes[0] in growths:
            proof = growths[sizes[0]]
        else:
            proof = self._fetched(*sizes)
        try:
            verify_consistency(*sizes, proof, old.checkpoint.root, new.checkpoint.root)
        except LedgerError:
            self._turn_away(last, fresh)
            raise LedgerError(
                "the federation's ledger does not hold what this site saw of it before",
                got=f"{fresh.checkpoint.size} entries", expected=f"the {last.checkpoint.size} entries seen, and more",
                advice="Nothing was trained, and nothing will be: entries were changed or lost. Both checkpoints are "
                "kept in the site's home, in `witness`. Speak with the operator of the federation; a server that was "
                "restored from a backup says so. `bottega site ledger forget` begins anew.",
            ) from None  # fmt: skip

    def _fetched(self, old: int, new: int) -> Proof:
        try:
            if self._prove is not None:
                return self._prove(old, new)
        except BottegaError as why:
            raise LedgerError(
                _NO_PROOF, got=f"{new} and {old} entries, and no proof: {why.what}", advice=_TRY_AGAIN
            ) from None  # fmt: skip
        raise LedgerError(_NO_PROOF, got=f"{new} and {old} entries, and no proof", advice=_TRY_AGAIN)

    def _turn_away(self, last: Seen, fresh: Seen) -> None:
        """Keep both checkpoints as evidence, and believe nothing more."""
        sizes = f"{last.checkpoint.size}-{fresh.checkpoint.size}"
        self._write(f"evidence-{sizes}-seen.note", last.note)
        self._write(f"evidence-{sizes}-shown.note", fresh.note)
        why = f"a checkpoint of {fresh.checkpoint.size} entries does not hold the {last.checkpoint.size} seen before"
        self._write("distrust.json", json.dumps({"why": why, "at": int(time.time())}).encode())
        log.error("the federation's ledger was changed: %s", why)

    def _keep(self, seen: Seen) -> None:
        self._write("latest.note", seen.note)

    def _write(self, name: str, content: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace(self._folder / name, [content], error=LedgerError)
