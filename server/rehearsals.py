"""Which rehearsal a run is started with: one that the operator made, or one that came with bottega."""

from __future__ import annotations

from pathlib import Path

from security.conformal import DetectorError, check_rate
from security.rehearsal import Rehearsal, rehearsal_key
from security.run_order import OrderError, RunOrder

SHIPPED = Path(__file__).parent / "rehearsed"
"""Rehearsals of the demo's runs, one file each, named by the beginning of its key."""


def rehearsal_for(order: RunOrder, file: Path | None = None) -> bytes:
    """Return the rehearsal of a run as a file's content; empty when there is none.

    Args:
        order: The run's.
        file: What the operator made with `bottega run rehearse`; when left out, one that came with bottega is looked
            for.

    Raises:
        OrderError: A file is named, and the run has no detector.
        DetectorError: The file cannot be read, is of another run, or is too short for the false-rejection rate that
            the run asks for; the least that it allows is said.
    """
    if not order.settings.detector:
        if file is not None:
            raise OrderError("the run has no detector", advice="Leave `detector = false` out, or `--rehearsal`.")
        return b""
    key = rehearsal_key(order.settings, order.base_digest, len(order.sites))
    shipped = SHIPPED / shipped_name(key)
    if file is None and not shipped.is_file():
        return b""
    try:
        content = (file or shipped).read_bytes()
    except OSError as cause:
        raise DetectorError(
            "the rehearsal cannot be read", got=cause.strerror, advice="Make one with `bottega run rehearse`."
        ) from None
    rehearsal = Rehearsal.from_bytes(content)
    rehearsal.check_for(key)
    check_rate(order.settings.detector.false_rejections, len(rehearsal.rows.calibrating))
    return content


def shipped_name(key: str) -> str:
    """Return the name of the file that a rehearsal is shipped as."""
    return f"{key[:16]}.safetensors"
