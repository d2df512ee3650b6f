"""A seccomp filter for what Landlock lets through: ways round its ports, and to what else is the user's.

Measured on Linux 6.18 with Landlock ABI 7: a connection by MPTCP, or by TCP Fast Open, is made whatever ports Landlock
allows. Nobody is asked before the mode or owner of a file is changed, a shut folder is watched (which tells the names
in it), memory that another program shares is attached (a drawing program's window, with X11), or another process is
given a limit, which can end it. See seccomp(2) and https://docs.kernel.org/userspace-api/seccomp_filter.html.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import sys
from dataclasses import dataclass

from common.errors import AgentError

_PR_SET_SECCOMP, _FILTER_MODE = 22, 2
_LOAD, _JUMP, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_FAST_OPEN = 0x20000000
_KIND = 0xF  # of a socket's type; above it are flags
_X32 = 0x40000000  # numbers of a second table of system calls that x86-64 has


@dataclass(frozen=True)
class _Machine:
    """Numbers of system calls (``asm/unistd.h``)."""

    audit: int
    socket: int
    io_uring_setup: int
    sends: tuple[tuple[int, int], ...]
    """Those that can send, and which argument holds their flags."""
    modes: tuple[int, ...]
    """Those that change the mode, owner or access list of a file by its name."""
    prlimit: int
    denied: tuple[int, ...]
    """Those that reach what is the user's but no file: System V's shared memory, semaphores and queues, POSIX queues,
    keyrings; and those that watch files: inotify_add_watch and fanotify_mark."""


_MACHINES = {
    "x86_64": _Machine(
        0xC000003E, 41, 425, ((44, 3), (46, 2), (307, 3)), (90, 92, 94, 188, 189, 260, 268, 452, 463),
        302, (29, 30, 31, 64, 65, 66, 68, 69, 70, 71, 220, 240, 248, 249, 250, 254, 301),
    ),
    "aarch64": _Machine(
        0xC00000B7, 198, 425, ((206, 3), (211, 2), (269, 3)), (5, 6, 53, 54, 452, 463),
        261, (*range(186, 197), 180, 217, 218, 219, 27, 263),
    ),
}  # fmt: skip


class _Step(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("steps", ctypes.POINTER(_Step)))


def can_filter() -> bool:
    """Return whether the numbers of this machine's system calls are known here."""
    return sys.platform == "linux" and sys.maxsize > 2**32 and platform.machine() in _MACHINES


def install_filter() -> None:
    """Filter this process's system calls from now on, and those of all that it starts.

    ``no_new_privs`` must be set (:func:`client.landlock.restrict` does). Refused are sockets but for TCP, UDP, UNIX and
    netlink, TCP Fast Open, shared memory and message queues, keyrings, watching files, limits of other processes, and
    io_uring, which would go round the filter. Changing a mode or an owner by name does nothing and says that it was
    done: Python's libraries do it to files of their own and would break.

    Raises:
        AgentError: The kernel refuses the filter.
    """
    steps = [_Step(*step) for step in _steps(_MACHINES[platform.machine()])]
    program = _Program(len(steps), (_Step * len(steps))(*steps))
    c = ctypes.CDLL(None, use_errno=True)
    words = (ctypes.c_ulong(_FILTER_MODE), ctypes.byref(program), ctypes.c_ulong(0), ctypes.c_ulong(0))
    if c.prctl(ctypes.c_int(_PR_SET_SECCOMP), *words) != 0:
        raise AgentError("system calls cannot be filtered", got=os.strerror(ctypes.get_errno()))


def _steps(machine: _Machine) -> list[tuple[int, int, int, int]]:
    """Return the program: operation, steps to skip when true, when false, operand."""
    steps = [_load(_ARCHITECTURE), (_EQUAL, 1, 0, machine.audit), _end(_KILL), _load(_NUMBER)]
    steps += [(_AT_LEAST, 0, 1, _X32), _end(_KILL)]
    for number in machine.modes:
        steps += [(_EQUAL, 0, 1, number), _end(_FAIL)]  # fails with error 0: done, says the library
    steps += [(_EQUAL, 0, 1, machine.io_uring_setup), _end(_FAIL | errno.ENOSYS)]
    for number in machine.denied:
        steps += [(_EQUAL, 0, 1, number), _end(_FAIL | errno.EACCES)]
    own = [_load(_argument(0)), *_unless_one_of((0,)), _end(_ALLOW)]  # 0 is whoever asks
    steps += [(_EQUAL, 0, len(own), machine.prlimit), *own]
    for number, flags in machine.sends:
        denied = [_load(_argument(flags)), (_ANY_BIT, 0, 1, _FAST_OPEN), _end(_FAIL | errno.EACCES), _end(_ALLOW)]
        steps += [(_EQUAL, 0, len(denied), number), *denied]
    steps += [(_EQUAL, 1, 0, machine.socket), _end(_ALLOW), _load(_argument(0))]
    for family in (socket.AF_UNIX, socket.AF_NETLINK):
        steps += [(_EQUAL, 0, 1, family), _end(_ALLOW)]
    steps += _unless_one_of((socket.AF_INET, socket.AF_INET6))
    steps += [_load(_argument(1)), (_AND, 0, 0, _KIND), *_unless_one_of((socket.SOCK_STREAM, socket.SOCK_DGRAM))]
    steps += [_load(_argument(2)), *_unless_one_of((0, socket.IPPROTO_TCP, socket.IPPROTO_UDP)), _end(_ALLOW)]
    return steps


def _unless_one_of(values: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Go on if the loaded number is among the values, else refuse."""
    checks = [(_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [*checks, _end(_FAIL | errno.EACCES)]


def _load(place: int) -> tuple[int, int, int, int]:
    return (_LOAD, 0, 0, place)


def _end(verdict: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, verdict)


def _argument(number: int) -> int:
    """Return where an argument's low half lies; the kernel reads no more of an int. Both machines are little-endian."""
    return _ARGUMENTS + 8 * number
