"""Envelopes as Flower's records: the letter in a config record, the sealed body as an array of bytes.

An array is content-addressed in the SuperLink, so the one body that all sites share is stored and sent to it once.
"""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common.errors import EnvelopeError

_RECORD, _ARRAY, _LETTER = "body", "sealed", "letter"
_KIND = "bottega.sealed"


def from_envelope(letter: bytes, body: bytes | memoryview) -> RecordDict:
    """Return the records that carry an envelope."""
    data = bytes(body)
    sealed = Array(dtype="uint8", shape=(len(data),), stype=_KIND, data=data)
    return RecordDict({_RECORD: ArrayRecord({_ARRAY: sealed}), _LETTER: ConfigRecord({_LETTER: letter})})


def to_envelope(content: RecordDict) -> tuple[bytes, bytes]:
    """Return ``(letter, body)``.

    Raises:
        EnvelopeError: The records carry no envelope.
    """
    try:
        letter = content.config_records[_LETTER][_LETTER]
        sealed = content.array_records[_RECORD][_ARRAY]
    except KeyError:
        raise EnvelopeError("a message carries no envelope", expected="a letter and a sealed body") from None
    if not isinstance(letter, bytes) or not isinstance(sealed.data, bytes) or sealed.stype != _KIND:
        raise EnvelopeError("a message carries something else than an envelope", got=type(letter).__name__)
    return letter, sealed.data
