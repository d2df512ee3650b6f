"""The Control API of a SuperLink on this machine, with Flower's errors turned into ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError

from common.errors import ProcessError


@contextlib.contextmanager
def control(address: str, what: str) -> Iterator[ControlHttpClient]:
    """Open the Control API.

    Args:
        address: Host and port, on loopback.
        what: What the SuperLink did not do, for the error.

    Raises:
        ProcessError: The SuperLink cannot be reached, refuses, or answers with something else.
    """
    client = ControlHttpClient(f"http://{address}")
    try:
        yield client
    except (httpx.HTTPError, ValueError) as cause:  # ValueError: an answer that is no record of Flower's
        raise ProcessError(what, got=_reason(cause), advice="Start the server, then look at its log.") from None
    finally:
        client.close()


def _reason(cause: Exception) -> str:
    """Return Flower's own words where it sent some: an error of httpx only tells the HTTP status."""
    if isinstance(cause, httpx.HTTPStatusError) and (said := FlowerError.from_json(cause.response.text)) is not None:
        return str(said.message)
    return str(cause).splitlines()[0][:200] if str(cause) else type(cause).__name__
