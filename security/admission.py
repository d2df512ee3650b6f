"""Admission: bytes go in, an :class:`AdmittedUpdate` or a numbered refusal comes out. No input, no output, no clock.

Aggregation takes nothing but ``AdmittedUpdate``, and nothing but this module makes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from common.adapter_schema import AdapterSchema, Part
from common.adapters import NotFiniteError, unpack
from common.errors import AdapterError, AdmissionError, EnvelopeError
from common.proto import bottega_pb2 as pb
from common.settings import Encoding, PrivacySettings
from security.energies import energies, spans
from security.envelope import Expectation, Kind, OpenedLetter, Opener, open_body, open_letter
from security.identity import Peer
from security.replay import NonceBook

ANSWER_LIFE_MS = 600_000
"""How old an answer may be when it arrives, milliseconds; a site seals it when its work is done."""


MOST_EXAMPLES = 2**31
"""What a site may claim to have trained on; more is a lie, and SQLite ends at 2^63 - 1."""


_DIGEST_BYTES = 32

OBJECTION = "objection"
"""The ``check`` of a refusal by which a site objects to the release of an adapter."""


class Check(IntEnum):
    """The checks of admission, by number. ``docs/architecture.md`` repeats the list."""

    ADMITTED = 0
    DELIVERED = 1
    IN_TIME = 2
    ENVELOPE = 3
    FIRST_ANSWER = 4
    WILLING = 5
    BODY = 6
    SCHEMA = 7
    FINITE = 8
    CLAIMS = 9
    NORM = 10
    SPOOLED = 11
    MEMBER = 12
    PRIVACY = 13
    OBJECTION = 14
    SIZE = 15
    COPY = 16
    ANOMALY = 17
    HARM = 18

    @property
    def slug(self) -> str:
        """The check's name as verdicts carry it."""
        return self.name.lower().replace("_", "-")


class Refused(AdmissionError):  # noqa: N818 (a verdict's name, not a fault of ours)
    """An answer failed a check of admission.

    Args:
        check: Which one.
        what: What happened.
        got: What was found.
        expected: What would have passed.
    """

    def __init__(self, check: Check, what: str, *, got: object = None, expected: object = None) -> None:
        super().__init__(what, got=got, expected=expected)
        self.check = check


@dataclass(frozen=True)
class Terms:
    """What the server asked one site for, and holds its answer to.

    Args:
        server: The server's own identity, which opens.
        site: Who was asked; nobody else may answer.
        run: The run's id.
        round_number: The round.
        task_nonce: The nonce of the task that was sent to this site.
        schema: The adapter's schema.
        part: Which factors an update holds; None when only a measurement was asked for.
        encoding: How they are to be written.
        norm_bound: The largest L2 norm that is admitted.
        privacy: How the drawings were to be protected; False when the run is not private.
        closes_at_ms: When the round closes, Unix time in milliseconds.
        ballot: How many numbers a ballot has; 0 where none is asked for.
    """

    server: Opener
    site: Peer
    run: str
    round_number: int
    task_nonce: bytes
    schema: AdapterSchema
    part: Part | None
    encoding: Encoding
    norm_bound: float
    closes_at_ms: int
    privacy: PrivacySettings | Literal[False] = False
    ballot: int = 0


@dataclass(frozen=True)
class AdmittedUpdate:
    """An update that passed every check.

    Attributes:
        site: The site's name.
        examples: What the site says it trained on, at least 1; not to be trusted as a weight without a cap.
        delta: Flat float32 change of the trained factors in schema order; empty after a measurement.
        norm: Its L2 norm.
        metrics: Finite numbers the site reports.
        digest: SHA-256 (hex) of the sealed body.
        seconds: Of work, as the site reports.
        energies: Squared norm of each of its tensors, float64.
        signed: SHA-256 (hex) of what the site signed, which fixes the content too.
        privacy: How its drawings were protected, as the site says; None when the run is not private.
        ballot: Finite numbers about the round before, as many as were asked for; empty where the site says nothing.
        cosignature: The site's line on the checkpoint that it was shown, unchecked; empty where it gave none.
    """

    site: str
    examples: int
    delta: NDArray[np.float32] = field(repr=False)
    norm: float
    metrics: Mapping[str, float]
    digest: str
    seconds: float
    energies: NDArray[np.float64] | None = field(default=None, repr=False)
    signed: str = ""
    privacy: pb.Privacy | None = None
    ballot: tuple[float, ...] = ()
    cosignature: bytes = b""


def admit(
    letter: bytes,
    body: bytes | memoryview,
    terms: Terms,
    *,
    now_ms: int,
    nonces: NonceBook | None,
    out: NDArray[np.float32] | None = None,
) -> AdmittedUpdate:
    """Admit an answer or refuse it by the first check that fails.

    Checks 15 to 17 hold an update against the others of its round (:mod:`security.judgement`), check 18 against the
    drawings of other sites (``server/cross_validation.py``). Check 1, that there is
    an answer at all, check 11, that its sealed bytes lie safely in the spool, and check 12, that the site is still a
    member, are the round loop's; the others stand here in order.

    1. delivered: the courier brought an envelope, not an error.
    2. in time: it came before the round closed.
    3. envelope: it opens; it is addressed to this server, signed by the site that was asked, fresh, of this
       federation, run and round, and answers the task that was sent.
    4. first answer: the site has not answered this task before.
    5. willing: it is an update, not a refusal, and its manifest can be read.
    6. body: the sealed body is the one the letter names, and opens.
    7. schema: it holds every tensor of the schema and no other, with the shapes and the encoding asked for.
    8. finite: no NaN, no infinity, in tensors or in numbers reported.
    9. claims: at least one example; a ballot of as many numbers as were asked for, or none.
    10. norm: its L2 norm is within the bound.
    13. privacy: in a private run, it says how its drawings were protected, and that is what was asked.
    14. objection: asked for its last look at the adapter, the site does not object to its release.

    Args:
        letter: The letter as it came.
        body: The sealed body as it came.
        terms: What was asked.
        now_ms: When it came, Unix time in milliseconds.
        nonces: Remembers the answer; None when an answer admitted before is opened again from the spool.
        out: A float32 buffer for the tensors, to be used again for the next update.

    Raises:
        Refused: The first check that failed.
    """
    # 2
    if nonces is not None and now_ms > terms.closes_at_ms:
        late = (now_ms - terms.closes_at_ms) / 1000
        raise Refused(
            Check.IN_TIME, "the answer came after the round's deadline", got=f"{late:.1f} s late", expected="in time"
        )
    # 3 and 4
    opened = _opened(letter, terms, now_ms, nonces)
    # 5
    update = _willing(opened, terms)
    # 6
    try:
        plain = open_body(opened, body)
    except EnvelopeError as why:
        raise _as(Check.BODY, why) from None
    # 7 and 8
    delta = _tensors(plain, terms, out)
    metrics = _finite_metrics(update)
    # 9
    if not 1 <= update.examples <= MOST_EXAMPLES:
        raise Refused(
            Check.CLAIMS, "the update claims no example, or too many", got=update.examples,
            expected=f"1 to {MOST_EXAMPLES}",
        )  # fmt: skip
    if len(update.ballot) not in {0, terms.ballot}:
        raise Refused(
            Check.CLAIMS, "the ballot has another length than was asked for", got=len(update.ballot),
            expected=terms.ballot,
        )  # fmt: skip
    # 10
    layers = energies(delta, spans(terms.schema, terms.part)) if terms.part else np.zeros(0)
    norm = float(np.sqrt(layers.sum()))
    if norm > terms.norm_bound:
        raise Refused(
            Check.NORM, "the update is too large", got=f"L2 norm {norm:.4g}", expected=f"at most {terms.norm_bound:g}"
        )
    # 13
    if terms.privacy:
        metrics = check_privacy(update, terms.privacy)
    return AdmittedUpdate(
        site=terms.site.id.name,
        examples=update.examples,
        delta=delta,
        norm=norm,
        energies=layers,
        metrics=metrics,
        digest=opened.header.body_sha256.hex(),
        seconds=update.seconds,
        signed=opened.signed.hex(),
        privacy=update.privacy if terms.privacy else None,
        ballot=tuple(update.ballot),
        cosignature=update.cosignature,
    )


def check_privacy(update: pb.Update, asked: PrivacySettings) -> dict[str, float]:
    """Pass an update that says that its drawings were protected as was asked.

    Whether it is true nobody but the site can know; who lies here gives away no drawings but their own.

    Args:
        update: Its manifest.
        asked: The run's settings.

    Returns:
        What it says, as numbers for the record. Whatever else it reports is left out.

    Raises:
        Refused: It says nothing, something else than was asked, or what cannot be.
    """
    told = update.privacy
    if not update.HasField("privacy"):
        raise Refused(Check.PRIVACY, "the update does not say how its drawings were protected", expected="privacy")
    done = {name: getattr(told, name) for name in ("clip", "rate", "steps", "multiplicity", "unit")}
    for name, value in done.items():
        if value != getattr(asked, name):
            raise Refused(
                Check.PRIVACY, f"the drawings were protected with another {name}", got=_plain(str(value)),
                expected=getattr(asked, name),
            )  # fmt: skip
    if not (0 < told.multiplier < np.inf and 0 <= told.epsilon < np.inf and 0 < told.delta < 1):
        raise Refused(Check.PRIVACY, "what the update says of its noise cannot be")
    if len(told.budget.digest) != _DIGEST_BYTES:
        raise Refused(Check.PRIVACY, "the update does not say how far the record of its budget goes")
    names = ("epsilon", "delta", "multiplier", "clip", "rate", "steps", "multiplicity")
    return {name: float(getattr(told, name)) for name in names}


def _opened(letter: bytes, terms: Terms, now_ms: int, nonces: NonceBook | None) -> OpenedLetter:
    expect = Expectation(
        kinds=frozenset({Kind.UPDATE, Kind.REFUSAL}),
        federation=terms.server.id.federation,
        run=terms.run,
        round_number=terms.round_number,
        in_reply_to=terms.task_nonce,
        past_ms=ANSWER_LIFE_MS,
    )
    try:
        opened = open_letter(letter, opener=terms.server, sender=terms.site, expect=expect, now_ms=now_ms)
    except EnvelopeError as why:
        raise _as(Check.ENVELOPE, why) from None
    if nonces is not None:
        try:
            nonces.take(opened.header, now_ms)
        except EnvelopeError as why:
            raise _as(Check.FIRST_ANSWER, why) from None
    return opened


def _willing(opened: OpenedLetter, terms: Terms) -> pb.Update:
    try:
        if opened.header.kind is Kind.REFUSAL:
            refusal = pb.Refusal.FromString(opened.manifest)
            if terms.part is None and refusal.check == OBJECTION:
                raise Refused(Check.OBJECTION, _plain(refusal.reason), expected="no objection")
            raise Refused(
                Check.WILLING, f"the site refused: {_plain(refusal.reason)}", got=_plain(refusal.check),
                expected="an update",
            )  # fmt: skip
        return pb.Update.FromString(opened.manifest)
    except DecodeError:
        raise Refused(Check.WILLING, "the answer's manifest cannot be read") from None


def _tensors(plain: memoryview, terms: Terms, out: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if terms.part is None:
        if len(plain):
            raise Refused(
                Check.SCHEMA, "a measurement was asked for and tensors came", got=f"{len(plain)} bytes", expected="0"
            )
        return np.zeros(0, np.float32)
    try:
        delta = unpack(plain, terms.schema, terms.part, encoding=terms.encoding, out=out)
    except NotFiniteError as why:
        raise _as(Check.FINITE, why) from None
    except AdapterError as why:
        raise _as(Check.SCHEMA, why) from None
    return delta


OURS = frozenset({
    "p_value", "score", "site_epsilon", "site_multiplier",
    "epsilon", "delta", "multiplier", "clip", "rate", "steps", "multiplicity",
})  # fmt: skip
"""Names of numbers that the server works out, or takes from elsewhere: a site that reports one is not believed."""


def _finite_metrics(update: pb.Update) -> dict[str, float]:
    metrics = {_plain(name)[:40]: value for name, value in update.metrics.items() if name not in OURS}
    if len(metrics) > 32 or not np.isfinite([*metrics.values(), update.seconds, *update.ballot]).all():
        raise Refused(
            Check.FINITE, "a reported number is not finite, or there are too many", expected="at most 32 finite numbers"
        )
    return metrics


def _as(check: Check, why: EnvelopeError | AdapterError) -> Refused:
    return Refused(check, why.what, got=why.got, expected=why.expected)


def _plain(text: str) -> str:
    """Return text from a stranger, fit for a log and a page: printable, one line, not long."""
    return "".join(c if c.isprintable() else "?" for c in text)[:300]
