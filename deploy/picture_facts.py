"""What a picture's content credentials say, in words that a terminal can be given.

Whoever signed a picture chose every word in it. So only what this project writes is repeated, each on one line, cut to
a length, and without characters that cannot be seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import ProvenanceError
from deploy.credentials import MADE_BY_A_MODEL, read_credentials

MOST_PICTURE_BYTES = 256 * 2**20
_MOST_CHARACTERS = 500

_SAID = {
    "base_digest": "base, SHA-256",
    "adapter_sha256": "adapter, SHA-256",
    "adapter_cid": "adapter, CID",
    "federation": "federation",
    "federation_key": "its key",
    "run": "run",
    "round": "round",
    "prompt": "prompt",
}


def facts_of_picture(file: Path) -> dict[str, str]:
    """Return what the credentials of a picture say, by what it is about; to be believed only as far as their signer is.

    Args:
        file: PNG.

    Raises:
        ProvenanceError: There is no such picture, it has no credentials, or they do not hold.
    """
    try:
        with file.open("rb") as content:
            png = content.read(MOST_PICTURE_BYTES + 1)
    except OSError as cause:
        raise ProvenanceError("the picture cannot be read", got=cause.strerror) from None
    if len(png) > MOST_PICTURE_BYTES:
        raise ProvenanceError("the picture is too large", expected=f"<= {MOST_PICTURE_BYTES} bytes")
    told = read_credentials(png)
    if told is None:
        raise ProvenanceError(
            "this picture carries no content credentials",
            advice="That says nothing of who made it: most programs that write a picture anew drop them.",
        )
    return {"drawn by": _by(told["actions"]), **{name: _plain(told[key]) for key, name in _SAID.items() if key in told}}


def _by(actions: list[Any]) -> str:
    sources = [one.get("digitalSourceType") for one in actions if isinstance(one, dict)]
    return "a model" if MADE_BY_A_MODEL in sources else "not said to be a model"


def _plain(value: object) -> str:
    return "".join(c if c.isprintable() else " " for c in str(value)[:_MOST_CHARACTERS])
