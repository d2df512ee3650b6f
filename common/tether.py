"""Processes that do not outlive the one that they work for.

Run a command that dies with its parent: ``python -m common.tether PARENT_PID COMMAND…``.

The kernel is asked to send SIGTERM when the parent goes (``prctl(PR_SET_PDEATHSIG)``, Linux), then the command takes
this process over. Asking in a process of its own, and not between fork and exec, is safe in programs with threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time

LOOK_S = 0.5

_PR_SET_PDEATHSIG = 1


def end_with(pid: int) -> None:
    """End this process, without another word, when another is gone: for a grandchild, whom no kernel can tether."""
    threading.Thread(target=_outlive, args=(pid,), name="tether", daemon=True).start()


def _outlive(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        pass
    except (AttributeError, OSError):  # not Linux, or a container that forbids it
        _look_for(pid)
    else:
        # Readable when the process has ended, also while nobody has asked how: by its number it would still be there.
        select.select([handle], [], [])
    os._exit(1)


def _look_for(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        while True:
            time.sleep(LOOK_S)
            os.kill(pid, 0)


def main() -> None:
    """Tether this process and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it went before it could be watched
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    main()
