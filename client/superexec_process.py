"""Flower's SuperExec at a site: it forks a courier for each message, and starts nothing else.

Flower starts a fresh Python for each message, which takes a second of CPU before the first byte moves, and finds it by
the name ``flwr-clientapp``. This module is ``flower-superexec`` with another executor: the courier is imported once, in
a fork server (:mod:`multiprocessing`), and each message gets a fork of it. A message still has a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from multiprocessing import forkserver

from flwr.supercore.cli.flower_superexec import flower_superexec
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec import run_superexec
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult

from client.courier_process import carry_one


class CourierExecutor:
    """Starts couriers. Flower's protocol ``flwr.supercore.superexec.executor.Executor``."""

    def __init__(self) -> None:
        self._forks = multiprocessing.get_context("forkserver")
        self._forks.set_forkserver_preload([carry_one.__module__])
        forkserver.ensure_running()  # now, so that the first message does not wait for the imports

    def get_eligible_capacity(self, supported_task_types: set[TaskType], **_: object) -> tuple[set[TaskType], set[str]]:
        """Take every kind of task, so that one that is refused fails at once and does not wait for a taker."""
        return supported_task_types, set()

    def wait_for_capacity(self, *_: object, **__: object) -> None:
        """Return at once: a fork waits for nothing."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Fork a courier for the task; anything but a ClientApp is refused."""
        if spec.task_type is not TaskType.CLIENT_APP:
            return LaunchResult.failed("this site runs nothing but its courier")
        self._forks.Process(target=carry_one, args=(spec,), daemon=True).start()
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Reap the couriers that have ended."""
        multiprocessing.active_children()

    def close(self) -> None:
        """Hold nothing: daemonic processes end with this one."""


def main() -> None:
    """Be ``flower-superexec``, with the one thing changed: how a task is started."""
    _shorten_temporary_paths()
    run_superexec.get_executor = lambda *_, **__: CourierExecutor()
    flower_superexec()


def _shorten_temporary_paths() -> None:
    """Have the fork server's socket lie in the temporary folder by a short path.

    The folder is in the site's home, however deep that lies; the path of a socket has 107 bytes.
    """
    if sys.platform == "linux":
        folder = os.open(tempfile.gettempdir(), os.O_PATH | os.O_DIRECTORY)
        tempfile.tempdir = f"/proc/self/fd/{folder}"


if __name__ == "__main__":
    main()
