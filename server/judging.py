"""Judging the rounds of a run, one after the other, and learning from those that were judged.

Each update is looked at once, when it is admitted (a :class:`Sitting`); when the round is complete they are judged
together (:mod:`security.judgement`). What was accepted teaches the detector, which is kept encrypted beside the states
of rounds, so a run that is resumed judges on as before. If that file is damaged, the detector begins again with its
rehearsal.

The detector and what it learned with take seconds to import. They are imported where they are used, and
:func:`import_ahead` lets a thread do it while sites train.
"""

from __future__ import annotations

import importlib
import logging
import secrets
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from common.adapter_schema import Adapter
from common.errors import BottegaError, VaultError
from common.quantise import Flat
from common.settings import DetectorSettings
from security.features import Frame, Imprint
from security.features.imprint import Part
from security.vault import Vault

if TYPE_CHECKING:
    from security.admission import AdmittedUpdate
    from security.judgement import Judgement
    from server.learning import Learning

log = logging.getLogger("bottega.rounds")

REMEMBERED = 3
"""Earlier rounds whose direction an update is held against."""


class Sitting:
    """The updates of one round as they come.

    Args:
        number: The round.
        frame: How they are looked at.
        past: What earlier rounds did to the adapter, in this frame, the latest last.
    """

    def __init__(self, number: int, frame: Frame, past: Sequence[Flat]) -> None:
        self.number, self.frame, self.past = number, frame, past
        self._imprints: dict[str, Imprint] = {}

    @classmethod
    def open(cls, number: int, adapters: Sequence[Adapter], part: Part, seed: int | None = None) -> Sitting:
        """Return the sitting of a round.

        Args:
            number: The round.
            adapters: What this round starts from, last, and before it what up to :data:`REMEMBERED` others did.
            part: What updates hold.
            seed: The round's secret; drawn when left out.
        """
        frame = Frame(adapters[-1], part, secrets.randbits(63) if seed is None else seed)
        return cls(number, frame, frame.moves(adapters))

    def see(self, update: AdmittedUpdate) -> None:
        """Look at an update that was admitted; what is kept of it is small."""
        self._imprints[update.site] = self.frame.imprint(update.delta, update.examples, update.energies)

    def of(self, sites: Collection[str]) -> Mapping[str, Imprint]:
        """Return what was kept of the updates of some sites."""
        return {site: imprint for site, imprint in self._imprints.items() if site in sites}


class Judging:
    """Judges the rounds of one run.

    Args:
        settings: The run's.
        rehearsal: The file that the run was started with; None when there is none.
        memory: What an earlier round loop of this run had learned; None when there is nothing.
    """

    def __init__(self, settings: DetectorSettings, rehearsal: bytes | None, memory: bytes | None = None) -> None:
        self._settings, self._rehearsal, self._memory = settings, rehearsal, memory
        self._learning: Learning | None = None
        self._thread = ThreadPoolExecutor(1, "learning")
        self._aside: Future[None] | None = None

    def judge(self, sitting: Sitting, sites: Collection[str]) -> Judgement:
        """Return what is done with the updates of some sites of a round."""
        from security.judgement import judge  # noqa: PLC0415 (as the module says)

        self.wait()
        learning = self._learned(sitting.number)
        return judge(sitting.of(sites), sitting.frame, sitting.past, learning.measure(self._settings))

    def learn(self, number: int, judgement: Judgement) -> bytes:
        """Learn from what was accepted in a round that is closed; return what to remember."""
        learning = self._learned(number)
        if judgement.accepted is not None:
            learning.add(number, judgement.accepted)
        return learning.to_bytes()

    def learn_aside(self, number: int, judgement: Judgement, keep: Callable[[bytes], None]) -> None:
        """Learn in a thread, while sites train; the next judging waits for it.

        Args:
            number: The round, which is closed.
            judgement: What was accepted in it.
            keep: Is given what to remember.
        """
        self.wait()
        self._aside = self._thread.submit(lambda: keep(self.learn(number, judgement)))

    def wait(self) -> None:
        """Wait until what was learned last is learned and kept; whatever broke then breaks here."""
        aside, self._aside = self._aside, None
        if aside is not None:
            aside.result()

    def _learned(self, number: int) -> Learning:
        """Return what was learned from rounds before one."""
        if self._learning is None:
            from server.learning import Learning  # noqa: PLC0415 (as the module says)

            self._learning = Learning.begin(self._settings.kind, self._rehearsal, self._memory, before=number)
        return self._learning


class JudgingFiles:
    """Where the judging of a run is kept.

    Args:
        folder: The run's.
        run: Its id.
        vault: Of the home.
    """

    def __init__(self, folder: Path, run: str, vault: Vault) -> None:
        self._folder, self._run, self._vault = folder, run, vault

    def judging(self, settings: DetectorSettings) -> Judging:
        """Return the judging of the run as it stands."""
        return Judging(settings, self._read("rehearsal"), self._read("detector"))

    @property
    def memory(self) -> bytes | None:
        """What was learned so far; None when there is nothing."""
        return self._read("detector")

    @property
    def rehearsal(self) -> bytes | None:
        """The rehearsal that the run was started with; None when there is none."""
        return self._read("rehearsal")

    def keep_rehearsal(self, rehearsal: bytes) -> None:
        """Keep the rehearsal that a run was started with.

        Raises:
            VaultError: It cannot be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write("rehearsal", rehearsal)

    def keep(self, memory: bytes) -> None:
        """Keep what was learned; a run goes on where it cannot be kept."""
        try:
            self._write("detector", memory)
        except VaultError as why:
            log.warning("what the detector has learned cannot be kept: %s", why)

    def _write(self, name: str, content: bytes) -> None:
        self._vault.write(self._folder / f"{name}.sealed", content, self._what(name))

    def _read(self, name: str) -> bytes | None:
        file = self._folder / f"{name}.sealed"
        if not file.exists():
            return None
        try:
            return bytes(self._vault.read(file, self._what(name)))
        except VaultError as why:
            log.warning("the file of the run's %s is of no use, and the detector goes on without: %s", name, why)
            return None

    def _what(self, name: str) -> bytes:
        return f"bottega/v1/judging/{self._run}/{name}".encode()


def import_ahead() -> None:
    """Import what judging takes, in a thread."""
    threading.Thread(target=_imported, name="import", daemon=True).start()


def _imported() -> None:
    try:
        importlib.import_module("server.learning")
    except (ImportError, BottegaError):
        log.warning("the detector cannot be imported")  # whoever uses it first meets the error
