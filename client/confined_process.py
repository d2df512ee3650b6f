"""Confine this process, and become the command: ``python -m client.confined_process PLAN COMMAND…``.

It is done here, before Flower is imported, because Landlock binds the thread that asks for it and what that thread
starts, and because a command that takes this process over keeps nothing of its memory and its environment.
"""

from __future__ import annotations

import ctypes
import os
import sys

from client.confinement import Plan, confine
from common.errors import AgentError

_VERSION_3 = 0x20080522


def main() -> None:
    """Confine this process and become the command."""
    plan, command = Plan.from_json(sys.argv[1]), sys.argv[2:]
    # Opened before, for then it could not be; and written after, when it is true.
    told = os.open(plan.told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if plan.mode != "off":
        drop_capabilities()
    try:
        facts = confine(plan)
    except AgentError as why:
        sys.exit(f"ERROR : {why}")
    os.write(told, facts.encode())
    environment = {name: os.environ[name] for name in plan.variables if name in os.environ}
    os.execve(command[0], command, environment)  # noqa: S606 (no shell is wanted)


def drop_capabilities() -> None:
    """Give up root's powers, if this process has any: with them it could load a kernel module and walk out.

    They do not come back with the next program: ``no_new_privs`` is set (capabilities(7)).
    """
    if sys.platform == "linux":
        header, none = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
        ctypes.CDLL(None).capset(header, none)


if __name__ == "__main__":
    main()
