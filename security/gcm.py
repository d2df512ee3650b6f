"""AES-256-GCM (NIST SP 800-38D) from buffer to buffer, for bodies of many megabytes.

``AESGCM.encrypt`` makes its own result and is two to three times slower at 100 MiB than ``encrypt_into``
with a buffer made here: numpy asks the system for huge pages, and the cost of a fresh buffer is mostly its pages.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.utils import Buffer

Bytes: TypeAlias = Buffer | npt.NDArray[Any]
"""Anything whose memory can be read as bytes (numpy does not yet say so in its types before Python 3.12)."""

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16

MAX_PLAINTEXT_BYTES = 2**31 - 1 - TAG_BYTES
"""The most that ``cryptography`` takes in one GCM message."""

SINGLE_USE_NONCE = bytes(NONCE_BYTES)
"""The nonce under a key that encrypts one message ever: uniqueness is the key's, so a counter would only be zero."""


def flat(buffer: Bytes) -> memoryview:
    """View any contiguous buffer (bytes, memoryview, numpy array of any shape and dtype) as bytes, without a copy.

    Args:
        buffer: C-contiguous.

    Returns:
        A one-dimensional view of unsigned bytes, writable if the buffer is.

    Raises:
        TypeError: It is no buffer, or not C-contiguous.
        ValueError: numpy cannot export its dtype; view it as uint8 first.
    """
    view = buffer.data if isinstance(buffer, np.ndarray) else memoryview(buffer)
    if view.nbytes == 0:
        return memoryview(b"")  # a view with a zero in its shape cannot be cast
    return view.cast("B")


def empty(size: int) -> memoryview:
    """Make a writable buffer of ``size`` bytes whose content is not yet set."""
    return np.empty(size, np.uint8).data


def zero(view: memoryview) -> None:
    """Overwrite a flat writable view with zeros; an empty one needs none."""
    if view.nbytes:
        np.frombuffer(view, np.uint8).fill(0)


def seal_into(key: bytes, nonce: bytes, plaintext: memoryview, associated: bytes, out: memoryview) -> None:
    """Encrypt into a buffer of exactly ``plaintext.nbytes + TAG_BYTES`` bytes: ciphertext, then tag.

    Args:
        key: 32 bytes.
        nonce: 12 bytes, never twice under one key.
        plaintext: At most :data:`MAX_PLAINTEXT_BYTES`.
        associated: Authenticated, not encrypted.
        out: Written.
    """
    AESGCM(key).encrypt_into(nonce, plaintext, associated, out)


def open_into(key: bytes, nonce: bytes, ciphertext: memoryview, associated: bytes, out: memoryview) -> None:
    """Check and decrypt into a buffer of exactly ``ciphertext.nbytes - TAG_BYTES`` bytes.

    Args:
        key: 32 bytes.
        nonce: 12 bytes.
        ciphertext: As :func:`seal_into` left it.
        associated: As it was when sealed.
        out: Written.

    Raises:
        InvalidTag: Something does not belong together. ``out`` holds zeros: the cipher writes the unauthenticated
            plaintext before it knows, and nobody may find it there.
    """
    try:
        AESGCM(key).decrypt_into(nonce, ciphertext, associated, out)
    except InvalidTag:
        zero(out)
        raise
