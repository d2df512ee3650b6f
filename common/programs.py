"""The programs that come with this environment."""

from __future__ import annotations

import sys
from pathlib import Path

from common.errors import ProcessError


def program(name: str) -> str:
    """Return the path of a console program installed beside this Python, so that no other one on the PATH is run.

    Raises:
        ProcessError: It is not there.
    """
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        raise ProcessError(
            f"{name} is not installed beside this Python", got=str(path), advice="Install bottega again."
        )
    return str(path)
