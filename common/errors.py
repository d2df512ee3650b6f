"""The errors of bottega: each says what happened, what was got and expected, and what to do next.

Errors are an interface. The command line catches :class:`BottegaError` in one place and prints it;
a log or an audit entry carries the same words. So a message never holds array values, captions,
or the name or path of a drawing.
"""

from __future__ import annotations

from typing import ClassVar


class BottegaError(Exception):
    """Base of every error that a person may read.

    Args:
        what: One sentence without a full stop: what happened.
        got: What was found, if that can be said without telling anything private.
        expected: What would have been right.
        advice: What to do next; the class's own :attr:`advice` when left out.
    """

    advice: ClassVar[str] = ""
    """The next step for a person who meets this error. Every subclass states its own."""

    exit_code: ClassVar[int] = 1
    """With what a service ends that this error ends; another than 1 where starting it again is of no use."""

    def __init__(self, what: str, *, got: object = None, expected: object = None, advice: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.got = got
        self.expected = expected
        self.next_step = advice if advice is not None else type(self).advice

    def __str__(self) -> str:
        """Return the whole message on one line."""
        parts = [self.what]
        if self.got is not None:
            parts.append(f"got {self.got}")
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        return f"{'; '.join(parts)}. {self.next_step}"


class SettingsError(BottegaError):
    """A settings file, an option or an environment variable cannot be used."""

    advice = "Correct the setting and run the command again; `--help` and docs/settings.md list every setting."


class HomeError(BottegaError):
    """A home folder (of a server, a site or a demo) is missing, foreign, damaged or in use."""

    advice = "Name another folder with --home, or stop the process that uses this one."


class BaseModelError(BottegaError):
    """The base model cannot be loaded, or is not the one that a task names."""

    advice = "Point `base` at the embedded base, a diffusers folder or a hub id with a pinned revision."


class AdapterError(BottegaError):
    """Adapter bytes do not keep to the adapter schema."""

    advice = "Train or export the adapter again with the base, rank and targets that the run states."


class DrawingsError(BottegaError):
    """A folder of drawings cannot be read, or holds too little to train on."""

    advice = "Run `bottega data check DIR` to see what the folder holds and what was skipped."


class TrainingError(BottegaError):
    """Local training cannot go on."""

    advice = "Check the learning rate and the drawings (`bottega data check DIR`), then start the site again."


class IdentityError(BottegaError):
    """A key, certificate or name is missing, unreadable or not what it should be."""

    advice = "Restore the key folder from its backup, or enrol the site again."


class MembershipError(IdentityError):
    """A step about who belongs to the federation cannot be taken."""

    advice = "Nothing was changed; `bottega server sites` shows who belongs, who waits and who was refused."


class EnvelopeError(BottegaError):
    """An envelope cannot be opened: changed, truncated, misaddressed, foreign or stale."""

    advice = (
        "Nothing of it was used. Ask the sender to seal it again; if it repeats, treat the path between as hostile."
    )


class VaultError(BottegaError):
    """A file kept encrypted at rest cannot be opened or written."""

    advice = "Check the key file, the free space and the owner of the folder; the file itself was left as it was."


class PrivacyError(BottegaError):
    """A promise of differential privacy cannot be kept as asked."""

    advice = "Nothing was trained or released. Correct the privacy settings and try again."


class AdmissionError(BottegaError):
    """An update failed a numbered check of admission and is not averaged."""

    advice = "The update was left out of the round; the verdict names the check. The site may answer the next task."


class AggregationError(BottegaError):
    """Admitted updates cannot be aggregated."""

    advice = "The round keeps the adapter it started with; see the verdicts with the run's report."


class RunError(BottegaError):
    """A run or a round cannot go on."""

    advice = "Look at the server's log; `bottega run start --resume RUN` goes on after the last closed round."


class LedgerError(BottegaError):
    """The ledger, or a proof, checkpoint or receipt of it, does not hold or cannot be read."""

    advice = (
        "Nothing of it was believed. Keep it as it is, for it is evidence; `bottega audit verify` says from which "
        "entry on the ledger does not hold."
    )


class ProvenanceError(BottegaError):
    """What says where an adapter or a picture comes from does not hold, is missing or cannot be made."""

    advice = "Believe nothing of it. Ask who gave you the files for the folder as it was released."


class AgentError(BottegaError):
    """The site agent cannot be reached or cannot answer."""

    advice = "Start the site with `bottega site start`, then look at its log."


class ProcessError(BottegaError):
    """A process of the federation did not start, or died."""

    advice = "Look at the end of its log, mend what it says and start again."
