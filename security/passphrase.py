"""The passphrase under which a home's keys are kept, if its owner wants one.

It comes from a file and from nowhere else: what stands on a command line or in a variable is seen by every process of
the same user. systemd's ``LoadCredential`` and container secrets hand over such files.
"""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import VaultError
from security.files import read_private

PASSPHRASE_FILE = "BOTTEGA_PASSPHRASE_FILE"  # noqa: S105 (the name of a variable)
"""Names the file that holds the passphrase; unset or empty, there is none."""


def passphrase() -> str | None:
    """Return the passphrase of the file that the environment names; None if it names none.

    Raises:
        VaultError: As :func:`read_passphrase`.
    """
    file = os.environ.get(PASSPHRASE_FILE)
    return read_passphrase(Path(file)) if file else None


def read_passphrase(file: Path) -> str:
    """Read a passphrase from its file, without the line end that editors leave.

    Args:
        file: UTF-8; nobody but its owner may read it.

    Raises:
        VaultError: The file is missing, open to others, not UTF-8, or holds nothing.
    """
    content = read_private(file, error=VaultError)
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise VaultError(f"{file} holds no passphrase", expected="text in UTF-8") from None
    if not text:
        raise VaultError(f"{file} holds no passphrase", got="nothing", expected="a line of text")
    return text
