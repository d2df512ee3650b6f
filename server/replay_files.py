"""What is kept of rounds so that they can be replayed: sealed answers, transcripts, and what the detector knew.

Answers stay as they came, sealed to the server; the rest is encrypted in the home's vault. It is kept for as many days
as ``replay_days`` of the server's settings says, and then removed whole.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from common.adapter_schema import AdapterSchema
from common.errors import BottegaError, LedgerError
from common.paths import ServerHome
from security.vault import Vault
from server.spool import Spool
from server.state import RunState
from server.transcript import Transcript

log = logging.getLogger("bottega.rounds")

_FOLDER = "replay"
_DAY_S = 86_400.0


@dataclass(frozen=True)
class ReplayFiles:
    """What is kept of one run's rounds.

    Attributes:
        home: The server's.
        run: The run's id.
        vault: Of the home.
        days: For how long; 0 keeps nothing.
    """

    home: ServerHome
    run: str
    vault: Vault
    days: float

    @property
    def keeps(self) -> bool:
        """Whether anything is kept."""
        return self.days > 0

    def keep(self, transcript: Transcript, spool: Spool, memory: bytes | None, corrected: RunState | None) -> None:
        """Keep a round that was closed. The run goes on where it cannot be kept: the round is then not replayable.

        Args:
            transcript: The round's.
            spool: Its answers; they are moved.
            memory: What the detector knew before the round; None in a run without.
            corrected: What the round's updates were added to, where updates of the round before were taken out again.
        """
        folder = self._folder(transcript.round)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if memory is not None:
                self._write(transcript.round, "memory", memory)
            if corrected is not None:
                self._write(transcript.round, "corrected", corrected.to_bytes())
            self._write(transcript.round, "transcript", transcript.to_bytes())
            if spool.folder.is_dir():
                shutil.copytree(spool.folder, folder / "answers", dirs_exist_ok=True, copy_function=_linked)
        except (OSError, BottegaError) as why:
            log.warning("round %d cannot be kept for a replay: %s", transcript.round, why)
            shutil.rmtree(folder, ignore_errors=True)

    def transcript(self, number: int) -> Transcript:
        """Return the transcript of a round.

        Raises:
            LedgerError: The round was not kept, or no longer is.
        """
        return Transcript.from_bytes(self._read(number, "transcript"))

    def answers(self, number: int) -> Spool:
        """Return the answers of a round."""
        return Spool(self._folder(number) / "answers")

    def memory(self, number: int) -> bytes | None:
        """Return what the detector knew before a round; None in a run without."""
        return self._read(number, "memory") if self._file(number, "memory").exists() else None

    def corrected(self, number: int, schema: AdapterSchema) -> RunState | None:
        """Return what a round's updates were added to; None where nothing was taken out before."""
        if not self._file(number, "corrected").exists():
            return None
        return RunState.from_bytes(self._read(number, "corrected"), schema)

    def rounds(self) -> list[int]:
        """Return the rounds that are kept, in order."""
        files = self.home.run(self.run).glob(f"round-*/{_FOLDER}/transcript.sealed")
        return sorted(int(file.parent.parent.name.removeprefix("round-")) for file in files)

    def _folder(self, number: int) -> Path:
        return self.home.round(self.run, number) / _FOLDER

    def _file(self, number: int, name: str) -> Path:
        return self._folder(number) / f"{name}.sealed"

    def _what(self, number: int, name: str) -> bytes:
        return f"bottega/v1/replay/{self.run}/{number}/{name}".encode()

    def _write(self, number: int, name: str, content: bytes) -> None:
        self.vault.write(self._file(number, name), content, self._what(number, name))

    def _read(self, number: int, name: str) -> bytes:
        if not self._file(number, name).exists():
            raise LedgerError(
                "this round was not kept for a replay, or no longer is", got=f"round {number} of run {self.run}",
                expected="one that closed in the last `replay_days` of server.toml",
                advice="Its verdicts and digests stand in the ledger all the same: `bottega audit show`.",
            )  # fmt: skip
        return bytes(self.vault.read(self._file(number, name), self._what(number, name)))


def purge(home: ServerHome, days: float) -> None:
    """Remove what is kept of rounds that closed more than so many days ago; all of it with 0 days."""
    for folder in home.runs.glob(f"*/round-*/{_FOLDER}"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > days * _DAY_S:
                shutil.rmtree(folder)


def _linked(source: str, target: str) -> str:
    """Give a spooled answer another name: the spool is cleared later, and nothing is written twice."""
    with contextlib.suppress(FileExistsError):
        Path(target).hardlink_to(source)
    return target
