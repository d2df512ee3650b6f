"""Runs that wait for a person's word: with ``ask = true`` a site takes no task of a run that nobody there allowed.

What is allowed is what was asked: a record holds all of a run's order but its layers, which follow from base and
settings, and a task that brings another order under the same id is refused. A record is one file a run, changed under
a lock and replaced in one step, so that the agent and a command of :mod:`client.cli_runs` may both be at it, and a
crash leaves the old one or the new one.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from client.policy import RuleError
from common.errors import BottegaError, SettingsError
from common.settings import RunSettings, Settings, parse_json
from security.files import locked, read_private, replace
from security.header import is_run
from security.names import shown
from security.run_order import RunOrder

log = logging.getLogger("bottega.approvals")

LOOK_S = 0.5
"""How often a held task looks whether somebody has decided: the decision comes from another process, as a file."""
MAX_REASON_CHARACTERS = 200

Status = Literal["waiting", "approved", "refused"]


class ApprovalError(BottegaError):
    """A run cannot be approved or refused, or its record cannot be read."""

    advice = "`bottega site runs` lists the runs that asked."


class Wish(Settings):
    """What a run asks, as its operator signed it."""

    operator: str
    base_digest: str
    sites: tuple[str, ...]
    settings: RunSettings
    created_at_ms: int
    """Unix time, milliseconds."""

    @classmethod
    def of(cls, order: RunOrder) -> Wish:
        """Return what an order asks."""
        return cls(
            operator=order.operator.name, base_digest=order.base_digest, sites=order.sites, settings=order.settings,
            created_at_ms=order.created_at_ms,
        )  # fmt: skip


class AskedRun(Settings):
    """A run that asked, and what was said to it."""

    run: str
    wish: Wish
    asked_at_ms: int
    """When its first task came: Unix time, milliseconds."""
    status: Status = "waiting"
    decided_at_ms: int | None = None
    reason: str = ""
    """Why it was refused, for its operator to read."""


class Approvals:
    """The records of a site, in a folder of its home.

    Args:
        folder: Where; made (0700) when the first run asks.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def hold(self, order: RunOrder, until: float) -> None:
        """Return when the run is approved, at once if it was before.

        ========================================= ==========
        the run's record                          answer
        ========================================= ==========
        none                                      made; waits
        waiting                                   waits
        approved, before or meanwhile             returns
        refused, before or meanwhile              refused
        nobody decided in time                    refused
        of another order under the same id        refused
        cannot be read or written                 refused
        ========================================= ==========

        Args:
            order: What the run asks.
            until: When to give up, on :func:`time.monotonic`'s clock.

        Raises:
            RuleError: The run is refused.
        """
        try:
            asked = self._decided(order, until)
        except (ApprovalError, OSError) as why:
            log.error("run %s is refused: %s", order.run, why)  # noqa: TRY400 (its words are for people, a trace is not)
            raise RuleError(
                "the studio's record of this run cannot be used", rule="ask", advice="Ask the studio."
            ) from None
        if asked.status == "refused":
            said = f": {shown(asked.reason)}" if asked.reason else ""
            raise RuleError(
                f"the studio refused this run{said}", rule="ask", advice="Ask the studio, or do without it."
            )
        if asked.status == "waiting":
            raise RuleError(
                "nobody at the studio has decided on this run yet", rule="ask",
                advice="Ask the studio to decide; the next round of the run asks again.",
            )  # fmt: skip

    def list(self) -> Sequence[AskedRun]:
        """Return every run that asked, the latest first.

        Raises:
            ApprovalError: A record cannot be read.
        """
        found = [self._read(file.name.removesuffix(".json")) for file in self._folder.glob("[!.]*.json")]
        return sorted(found, key=lambda asked: asked.asked_at_ms, reverse=True)

    def approve(self, run: str) -> bool:
        """Approve a run for as long as it lasts; one that was refused, too.

        Returns:
            Whether anything was changed: not if it was approved before.

        Raises:
            ApprovalError: No such run has asked, or the record cannot be read or written.
        """
        return self._decide(run, "approved")

    def refuse(self, run: str, reason: str = "") -> bool:
        """Refuse all further tasks of a run; of one that was approved, too.

        Args:
            run: Its id.
            reason: Why; its operator reads it.

        Returns:
            Whether anything was changed: not if it was refused before.

        Raises:
            ApprovalError: No such run has asked, the reason is too long, or the record cannot be read or written.
        """
        if len(reason) > MAX_REASON_CHARACTERS:
            expected = f"at most {MAX_REASON_CHARACTERS} characters"
            raise ApprovalError("the reason is too long", got=len(reason), expected=expected, advice="Shorten it.")
        return self._decide(run, "refused", reason)

    def _decided(self, order: RunOrder, until: float) -> AskedRun:
        """Return the run's record when it is decided, or when the time is over."""
        asked = self._noted(order)
        if asked.status == "waiting":
            log.warning(
                "run %s of operator %s asks to be allowed: bottega site approve-run %s --home %s",
                order.run, asked.wish.operator, order.run, shlex.quote(str(self._folder.parent)),
            )  # fmt: skip
        while asked.status == "waiting" and (left := until - time.monotonic()) > 0:
            time.sleep(min(LOOK_S, left))
            asked = self._read(order.run)
        return asked

    def _noted(self, order: RunOrder) -> AskedRun:
        """Return the run's record, made if there is none."""
        wish = Wish.of(order)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with self._locked():
            if self._file(order.run).exists():
                asked = self._read(order.run)
            else:
                asked = AskedRun(run=order.run, wish=wish, asked_at_ms=_now_ms())
                self._write(asked)
        if asked.wish != wish:
            raise RuleError(
                "the run asks for something else than when it asked first", rule="ask", advice="Start a new run.",
            )  # fmt: skip
        return asked

    def _decide(self, run: str, status: Status, reason: str = "") -> bool:
        if not self._file(run).exists():
            raise ApprovalError("no run of this id has asked", got=run)
        with self._locked():
            asked = self._read(run)
            if asked.status == status:
                return False
            self._write(asked.model_copy(update={"status": status, "decided_at_ms": _now_ms(), "reason": reason}))
        return True

    def _read(self, run: str) -> AskedRun:
        file = self._file(run)
        asked = _parsed(read_private(file, error=ApprovalError))
        if asked is None or asked.run != run:
            raise ApprovalError(
                f"the record {file} cannot be read", advice="Move it away: the run's next task asks again."
            )
        return asked

    def _write(self, asked: AskedRun) -> None:
        content = asked.model_dump_json(indent=1).encode()
        if _parsed(content) != asked:  # a setting that JSON has no word for, such as infinity
            raise ApprovalError("what the run asks cannot be kept", advice="Nothing was written. Have it ask for less.")
        replace(self._file(asked.run), [content], error=ApprovalError)

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self._folder / ".lock", error=ApprovalError)

    def _file(self, run: str) -> Path:
        if not is_run(run):
            raise ApprovalError("this is no run's id", got=shown(run))
        return self._folder / f"{run}.json"


def _parsed(content: bytes) -> AskedRun | None:
    try:
        return parse_json(AskedRun, content.decode(), "the record")
    except (SettingsError, UnicodeDecodeError):
        return None


def _now_ms() -> int:
    return int(time.time() * 1000)
