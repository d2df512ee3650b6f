"""The entries of the ledger: what is written down of a federation, each kind with its fields and no others.

An entry is one JSON object in canonical form (:mod:`security.canonical`, RFC 8785), so that people can read it and any
program can hash it. What it may hold is decided here: names of members and runs, digests, decisions and their reasons,
settings that operators signed, and numbers about whole updates. Never a drawing, a caption, a file name, or a number
of one drawing: no field could carry one, but for reasons, which are words of operators and of our own errors.

A field that a later version adds is optional and left out where it has no value, so entries written before still read
and are written the same.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
)

from common.errors import LedgerError
from security.canonical import canonical, parse_canonical

MOST_ENTRY_BYTES = 2**19
"""The longest entry: 512 KiB, room for the settings of a run and the names of some thousands of sites."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256, hex."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""Of a site or an operator, as their SPIFFE id ends."""

Member = Annotated[str, Field(pattern=r"^spiffe://[a-z0-9.-]+/(site|operator|auditor|server)/[a-z0-9-]+$")]
"""A SPIFFE id."""

Moment = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]
"""RFC 3339, UTC, milliseconds."""

MOST_WORDS = 1000
"""The longest text in an entry, characters."""

Words = Annotated[str, Field(max_length=MOST_WORDS)]
RunId = Annotated[str, Field(max_length=64)]
Number = Annotated[int, Field(ge=1, le=2**31)]
Real = Annotated[float, Field(allow_inf_nan=False)]

VerdictWord = Literal["admitted", "clipped", "rejected", "refused"]
"""``refused`` by a check of its own, ``rejected`` beside the others; ``clipped`` is averaged, cut down."""


WorkWord = Literal["train", "evaluate"]


class _Entry(BaseModel):
    """What all entries have: when the server wrote it, by the server's clock, which may be set back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: Moment

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class Founded(_Entry):
    """The federation begins, or a server that was there before the ledger begins to keep one."""

    kind: Literal["founded"] = "founded"
    server: Member
    authority: Digest  # of the certificate of the federation's authority, DER
    key: Digest  # the server's Ed25519 key, 32 bytes, hex
    software: Words


class Invited(_Entry):
    """Somebody was invited."""

    kind: Literal["invited"] = "invited"
    member: Member
    until: Moment
    by: Member
    approved_ahead: bool


class Denied(_Entry):
    """Somebody who asked, or was invited, was refused."""

    kind: Literal["denied"] = "denied"
    member: Member
    reason: Words
    by: Member


class Joined(_Entry):
    """Somebody belongs to the federation."""

    kind: Literal["joined"] = "joined"
    member: Member
    keys: Digest  # of the name and the keys that the roster has


class Rotated(_Entry):
    """A member went over to new keys; they countersigned the change with the old ones."""

    kind: Literal["rotated"] = "rotated"
    member: Member
    serial: Number
    keys: Digest  # of the name and the new keys


class Revoked(_Entry):
    """A membership ended."""

    kind: Literal["revoked"] = "revoked"
    member: Member
    reason: Words


class RosterSigned(_Entry):
    """The server signed a roster."""

    kind: Literal["roster-signed"] = "roster-signed"
    version: Number
    digest: Digest  # of the signed bytes


class Restored(_Entry):
    """The server came back from a backup: what it wrote after that is lost, and witnesses may know of it."""

    kind: Literal["restored"] = "restored"
    roster: Number  # the version that it began with


class RunStarted(_Entry):
    """A run began, or went on."""

    kind: Literal["run-started"] = "run-started"
    run: RunId
    operator: Member
    order: Digest  # of the signed order
    settings: dict[str, Any]  # all of them, as the operator signed them
    base: Digest
    sites: list[Name]
    software: Words
    resumed: bool


class RunEnded(_Entry):
    """A run ended: ``finished``, ``failed`` or ``stopped``."""

    kind: Literal["run-ended"] = "run-ended"
    run: RunId
    status: Literal["finished", "failed", "stopped"]
    reason: Words | None = None


class RoundOpened(_Entry):
    """Tasks go out. A round that was cut off is opened again, and what was said of it before no longer holds."""

    kind: Literal["round-opened"] = "round-opened"
    run: RunId
    round: Number
    work: WorkWord
    asked: list[Name]
    adapter: Digest  # that sites are sent, as a file


class PrivacyApplied(BaseModel):
    """How the drawings in an update were protected, as the site signed it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epsilon: Real  # of this run so far, this round counted in
    delta: Real
    unit: Literal["drawing", "artist"]
    multiplier: Real
    clip: Real
    rate: Real
    steps: int
    multiplicity: int


class Update(_Entry):
    """What the server decided of one site's answer in one round."""

    kind: Literal["update"] = "update"
    run: RunId
    round: Number
    site: Name
    verdict: VerdictWord
    check: int  # the number of the check that decided; 0 when it was admitted as it came
    check_name: Words
    reason: Words | None = None
    sealed: Digest | None = None  # of the sealed body, as it came
    signed: Digest | None = None  # of what the site signed, the key of the body in it: so it fixes the content
    examples: int | None = None  # that the site claims
    weight: Real | None = None  # in the mean; left out where it was not averaged
    norm: Real | None = None
    p_value: Real | None = None  # the detector's
    score: Real | None = None  # likewise, in its own measure
    privacy: PrivacyApplied | None = None
    metrics: dict[Words, Real] | None = None  # over all of the site's drawings together; none in a private run


class RoundClosed(_Entry):
    """A round ended: ``aggregated``, ``kept`` (the adapter stays) or ``measured`` (a last look)."""

    kind: Literal["round-closed"] = "round-closed"
    run: RunId
    round: Number
    outcome: Literal["aggregated", "kept", "measured"]
    rule: Words
    averaged: list[Name]
    adapter: Digest | None = None  # as a file
    why: Words | None = None  # the adapter stays as it is
    detector: Words | None = None  # "judged", or why it did not
    site_epsilon: Real | None = None  # with privacy of sites: what the run has cost a site so far, at the most


class TakenBack(_Entry):
    """Updates that had been averaged in an earlier round were taken out of the adapter again."""

    kind: Literal["taken-back"] = "taken-back"
    run: RunId
    round: Number  # that they were averaged in
    found_in: Number  # round
    sites: list[Name]
    reason: Words


FORGOTTEN = 1.0
"""The share by which the loss on procedural drawings may rise: then it has doubled."""


def stands_against(alike: bool, change: float | None, margin: float | None) -> bool:
    """Return whether what was found on public drawings stands against a release; what is no number does.

    Args:
        alike: Whether they are like the sites' own. Then the adapter must surely do better than the bare base.
        change: By which share the loss changed; negative where the adapter is better.
        margin: How far that may be off.
    """
    if change is None or margin is None or not math.isfinite(change + margin):
        return True
    return not change + margin < 0 if alike else not change <= FORGOTTEN


class Checked(_Entry):
    """An adapter was tried on public drawings, at no site."""

    kind: Literal["checked"] = "checked"
    run: RunId
    round: Number
    adapter: Digest  # as a file
    by: Member
    drawings: Number  # how many
    of: Digest  # of the drawings and their captions
    alike: bool  # whether they are said to be like the sites' own; else they are procedural
    before: Annotated[Real, Field(gt=0)]  # mean loss of the bare base
    after: Real | None = None  # with the adapter; left out where it is no number
    margin: Real | None = None  # how far the share by which it changed may be off (one-sided, 95 %); likewise
    worse: bool  # and so it stands against a release

    def words(self) -> str:
        """Return what was found, without a full stop."""
        which = "public drawings like the sites' own" if self.alike else "procedural drawings"
        good = "does better" if self.alike else "does not do far worse"
        bad = "does not surely do better" if self.alike else "does far worse"
        told = "its loss is no number"
        if self.change is not None and self.margin is not None:
            told = f"{self.change:+.0%} loss, within {self.margin:.0%}"
        return f"on {self.drawings} {which} it {bad if self.worse else good} than the bare base ({told})"

    @property
    def change(self) -> float | None:
        """By which share the loss changed; None where it is no number."""
        return None if self.after is None else self.after / self.before - 1


class Released(_Entry):
    """An adapter became a file that anybody may be given."""

    kind: Literal["released"] = "released"
    run: RunId
    round: Number
    adapter: Digest
    by: Member
    despite: Words | None = None  # why, although something stood against it


class Reinstated(_Entry):
    """A suspended site may be asked by new runs again."""

    kind: Literal["reinstated"] = "reinstated"
    member: Member
    reason: Words
    by: Member


Entry: TypeAlias = (
    Founded | Invited | Denied | Joined | Rotated | Revoked | RosterSigned | Restored | RunStarted | RunEnded
    | RoundOpened | Update | RoundClosed | TakenBack | Checked | Released | Reinstated
)  # fmt: skip

E = TypeVar("E", bound=_Entry)
_ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


def write_entry(entry: Entry) -> bytes:
    """Return an entry's canonical bytes.

    Raises:
        LedgerError: It is too long.
    """
    data = canonical(entry.model_dump(mode="json"))
    if len(data) > MOST_ENTRY_BYTES:
        raise LedgerError(
            "an entry is too long for the ledger", got=f"{len(data)} bytes", expected=f"at most {MOST_ENTRY_BYTES}"
        )
    return data


def read_entry(data: bytes) -> Entry:
    """Return the entry of which these are the canonical bytes.

    Guarantees: ``write_entry(read_entry(data)) == data``, or an error; whatever the bytes are.

    Raises:
        LedgerError: They are no entry, or another writing of one.
    """
    if len(data) > MOST_ENTRY_BYTES:
        raise LedgerError(
            "an entry of the ledger is too long", got=f"{len(data)} bytes", expected=f"at most {MOST_ENTRY_BYTES}"
        )
    value = parse_canonical(data)
    try:
        entry = _ENTRY.validate_python(value)
    except ValidationError as cause:
        kind = value.get("kind") if isinstance(value, dict) else None
        where = ".".join(str(part) for part in cause.errors(include_url=False)[0]["loc"][1:]) or "kind"
        raise LedgerError(
            "an entry of the ledger is none that this version knows",
            got=f"a field {where!r} that does not fit" if isinstance(kind, str) else "no kind",
        ) from None
    if entry.model_dump(mode="json") != value:  # the bytes are the canonical writing of the value already
        raise LedgerError("an entry of the ledger is written otherwise than entries are")
    return entry


def moment(seconds: float) -> str:
    """Return a Unix time as entries have it: RFC 3339, UTC, milliseconds."""
    at = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def seconds_of(at: str) -> float:
    """Return the Unix time of a moment as entries have it."""
    return dt.datetime.fromisoformat(at).timestamp()
