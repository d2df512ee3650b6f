"""The doorkeeper: the join port listens only while somebody is expected."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import grpc

from common.errors import ProcessError

log = logging.getLogger("bottega.door")

LOOK_S = 0.5
"""How often the doorkeeper looks whether somebody is expected; an invitation may come from another process."""

_GRACE_S = 2.0


class Doorkeeper:
    """Opens and closes a port as it is needed. A context manager: the port is closed at its end.

    Args:
        expected: Whether somebody is, at this moment.
        open_door: Opens the port and returns the server on it.
    """

    def __init__(self, expected: Callable[[], bool], open_door: Callable[[], grpc.Server]) -> None:
        self._expected, self._open_door = expected, open_door
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="doorkeeper", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether the doorkeeper is at the door."""
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _keep(self) -> None:
        door: grpc.Server | None = None
        while not self._stop.wait(LOOK_S):
            try:
                door = self._looked(door)
            except ProcessError as why:
                log.warning("the join port cannot be opened; trying again: %s", why)
            except Exception:
                log.exception("the join port is left as it is; trying again")
        if door is not None:
            door.stop(_GRACE_S).wait()

    def _looked(self, door: grpc.Server | None) -> grpc.Server | None:
        """Open or close the port if need be, and return the server on it."""
        expected = self._expected()
        if expected and door is None:
            door = self._open_door()
            log.info("the join port is open: somebody is expected")
        elif not expected and door is not None:
            door.stop(_GRACE_S).wait()
            door = None
            log.info("the join port is closed: nobody is expected")
        return door
