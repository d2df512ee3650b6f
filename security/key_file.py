"""Key files: the data key of a vault, bare or wrapped under a passphrase, as one line of JSON."""

from __future__ import annotations

import base64
import binascii
import json
import os
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from common.errors import VaultError
from security import gcm

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = 1
_DOMAIN = b"bottega/v1/vault-key\x00"
_SALT_BYTES = 16
# RFC 7914; 128 MiB and about half a second a guess, as OWASP's password storage advice has it.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**17, 8, 1


def wrap(key: bytes, passphrase: str | None) -> bytes:
    """Write a key file.

    Args:
        key: The data key, 32 bytes.
        passphrase: Encrypts it (scrypt, then AES-256-GCM); None leaves it bare.

    Returns:
        One line of JSON, with the key in base64.
    """
    document: dict[str, object] = {"version": _VERSION, "wrapping": "none"}
    if passphrase is not None:
        salt = os.urandom(_SALT_BYTES)
        wrapped = gcm.empty(len(key) + gcm.TAG_BYTES)
        # The salt is new, so the key made from it encrypts this one message.
        gcm.seal_into(_stretch(passphrase, salt), gcm.SINGLE_USE_NONCE, memoryview(key), _DOMAIN, wrapped)
        document |= {"wrapping": "scrypt", "salt": base64.b64encode(salt).decode()}
        key = bytes(wrapped)
    return json.dumps(document | {"key": base64.b64encode(key).decode()}).encode() + b"\n"


def unwrap(content: bytes, passphrase: str | None, key_file: Path) -> bytes:
    """Read a key file.

    Args:
        content: What :func:`wrap` wrote, from anywhere.
        passphrase: The one that it was written with; None if it was written without.
        key_file: Where it is from, for messages.

    Returns:
        The data key, 32 bytes.

    Raises:
        VaultError: It is no key file, is damaged, or needs another passphrase, or none.
    """
    try:
        document = json.loads(content)
        version, wrapping = document["version"], document["wrapping"]
        key = base64.b64decode(document["key"], validate=True)
        salt = base64.b64decode(document["salt"], validate=True) if wrapping == "scrypt" else b""
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error):
        raise VaultError(f"{key_file} holds no key of a vault") from None
    if version != _VERSION or wrapping not in {"none", "scrypt"}:
        raise VaultError(
            f"{key_file} is of another version", got=f"version {version}, wrapping {wrapping}"[:80],
            expected=f"version {_VERSION}", advice="It was made by another version of bottega; use that one.",
        )  # fmt: skip
    if (wrapping == "scrypt") is not (passphrase is not None):
        raise _locked(key_file) if passphrase is None else _bare(key_file)
    if passphrase is not None:
        key = _decrypt_key(key, _stretch(passphrase, salt), key_file)
    if len(key) != gcm.KEY_BYTES:
        raise VaultError(f"the key in {key_file} is damaged", got=f"{len(key)} bytes", expected=gcm.KEY_BYTES)
    return key


def _locked(key_file: Path) -> VaultError:
    return VaultError(
        f"{key_file} is locked under a passphrase", got="none",
        advice="Let BOTTEGA_PASSPHRASE_FILE name a file (0600) that holds it.",
    )  # fmt: skip


def _bare(key_file: Path) -> VaultError:
    return VaultError(
        f"{key_file} is locked under no passphrase", got="one",
        advice="Unset BOTTEGA_PASSPHRASE_FILE for this home, or lock it with `passphrase --new FILE`.",
    )  # fmt: skip


def _decrypt_key(wrapped: bytes, stretched: bytes, key_file: Path) -> bytes:
    key = gcm.empty(gcm.KEY_BYTES)
    try:
        gcm.open_into(stretched, gcm.SINGLE_USE_NONCE, memoryview(wrapped), _DOMAIN, key)
    except (InvalidTag, ValueError):
        raise VaultError(f"the passphrase does not open {key_file}", advice="Give the one it was made with.") from None
    return bytes(key)


@lru_cache(maxsize=4)  # half a second each, and a command opens its vault several times
def _stretch(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=gcm.KEY_BYTES, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P).derive(passphrase.encode())
