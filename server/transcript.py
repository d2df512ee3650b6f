"""The transcript of a round: what decided it besides the answers themselves, so that it can be done again.

Answers are kept as they came. What else went into a round's verdicts is here: which tasks they answer, when they came,
how the detector looked at them, and what sites had said of rounds before. It lies encrypted in the home for as long as
the operator wants rounds to be replayable (:mod:`server.replay_files`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import LedgerError

Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AskedSite(_Part):
    """One site that was sent a task."""

    nonce: Hex  # of the task
    verify: Hex  # the Ed25519 key that the roster had of the site


class Came(_Part):
    """One answer that was brought."""

    site: str
    at_ms: int  # Unix time
    kept: bool  # whether the spool has it


class Heard(_Part):
    """What ballots told of one group of updates."""

    group: tuple[str, ...]
    effect: float
    deviation: float


class Past(_Part):
    """An adapter that updates were held against: what a round ended with (0: what the run began with).

    ``corrected`` means what that round began with after updates of the round before it had been taken out again.
    """

    round: int
    corrected: bool = False


class Transcript(_Part):
    """Of one round."""

    run: str
    round: int
    trains: bool
    opened_at_ms: int
    closes_at_ms: int
    asked: dict[str, AskedSite]
    came: tuple[Came, ...]
    revoked: tuple[str, ...] = ()  # after their updates were admitted
    seed: int | None = None  # of the detector's look at the updates; None in a run without
    past: tuple[Past, ...] = ()  # that updates were held against, the latest last
    ballot: int = 0  # numbers that were asked for
    groups: tuple[tuple[str, ...], ...] = ()  # of the round before, that the ballots are about
    evidence: tuple[tuple[Heard, ...], ...] = ()  # of rounds before, as heard until then
    averaged: tuple[str, ...] = ()
    shares: dict[str, float] = Field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return it as JSON."""
        return self.model_dump_json().encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Transcript:
        """Return the transcript that :meth:`to_bytes` wrote.

        Raises:
            LedgerError: It is none.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError:
            raise LedgerError(
                "the transcript of a round cannot be read", advice="The round cannot be replayed."
            ) from None
