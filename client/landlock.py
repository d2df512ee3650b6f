"""Landlock: this process gives up, for good and for all that it starts, what is not on its list.

A small layer over the three system calls (https://docs.kernel.org/userspace-api/landlock.html): of the packages there
are, none knows files, ports and scopes together without a program of its own beside it. The kernel says with a number,
the ABI, how much it can hold back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterable, Mapping
from enum import IntFlag
from pathlib import Path

from common.errors import AgentError

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on all architectures
_ASK_VERSION = 1
_RULE_PATH, _RULE_PORT = 1, 2
_PR_SET_NO_NEW_PRIVS = 38


class Access(IntFlag):
    """What may be done to files (``linux/landlock.h``)."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15
    RESOLVE_UNIX = 1 << 16


READ = Access.READ_FILE | Access.READ_DIR
RUN = READ | Access.EXECUTE
KEEP = (
    READ | Access.WRITE_FILE | Access.TRUNCATE | Access.REFER | Access.REMOVE_DIR | Access.REMOVE_FILE
    | Access.MAKE_DIR | Access.MAKE_REG | Access.MAKE_SOCK | Access.MAKE_FIFO
)  # fmt: skip
"""All that a program does in a folder of its own. No symbolic links: whoever reads there later would follow them."""

_OF_A_FILE = (
    Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV | Access.RESOLVE_UNIX
)
_SINCE = {Access.REFER: 2, Access.TRUNCATE: 3, Access.IOCTL_DEV: 5, Access.RESOLVE_UNIX: 9}
_PORTS_SINCE, _SCOPES_SINCE = 4, 6
_BIND, _CONNECT = 1, 2
_ABSTRACT_SOCKETS, _SIGNALS = 1, 2

PROTECTS = (
    (1, "files"),
    (1, "ptrace"),
    (_PORTS_SINCE, "TCP ports"),
    (_SCOPES_SINCE, "signals"),
    (_SCOPES_SINCE, "abstract sockets"),
    (9, "sockets with a path"),
)
"""What is held back, and the ABI since which it can be."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("ports", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


class _PortRule(ctypes.Structure):
    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


def abi() -> tuple[int, str]:
    """Return the ABI of this kernel's Landlock; 0, and why, when it has none."""
    if sys.platform != "linux":
        return 0, "Landlock is Linux's"
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION)), ""
    except OSError as cause:
        known = {errno.ENOSYS: "this kernel was built without Landlock", errno.EOPNOTSUPP: "Landlock is switched off"}
        return 0, known.get(cause.errno or 0, f"Landlock is refused: {cause.strerror}")


def restrict(files: Mapping[Path, Access], *, connect: Iterable[int], bind: Iterable[int]) -> int:
    """Give up all that is not listed, as far as this kernel can hold it back.

    It binds this thread and whatever it starts: call it before there is any other thread.

    Args:
        files: What may be done to these and to what is beneath them; paths that are not there are left out.
        connect: TCP ports that may be connected to.
        bind: TCP ports that may be listened on.

    Returns:
        The ABI by which it was done.

    Raises:
        AgentError: The kernel has no Landlock, or refuses; then nothing may be run that was to be confined.
    """
    version, why = abi()
    if not version:
        raise AgentError("this process cannot be confined", got=why, expected="Landlock")
    try:
        _restrict(version, files, [(_CONNECT, port) for port in connect] + [(_BIND, port) for port in bind])
    except OSError as cause:
        raise AgentError("this process cannot be confined", got=cause.strerror) from cause
    return version


def _restrict(version: int, files: Mapping[Path, Access], ports: Iterable[tuple[int, int]]) -> None:
    handled = Access(sum(right for right in Access if _SINCE.get(right, 1) <= version))
    attributes = _Ruleset(
        files=handled,
        ports=_BIND | _CONNECT if version >= _PORTS_SINCE else 0,
        scoped=_ABSTRACT_SOCKETS | _SIGNALS if version >= _SCOPES_SINCE else 0,
    )
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    rules = _call(_CREATE_RULESET, ctypes.byref(attributes), size, ctypes.c_uint32(0))
    for path, allowed in files.items():
        _allow(rules, path, allowed & handled)
    if version >= _PORTS_SINCE:
        for right, port in ports:
            _add(rules, _RULE_PORT, _PortRule(allowed=right, port=port))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    _call(_RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint32(0))  # refused without no_new_privs
    os.close(rules)


def _allow(rules: int, path: Path, allowed: Access) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        right = allowed if path.is_dir() else allowed & _OF_A_FILE
        if right:
            _add(rules, _RULE_PATH, _PathRule(allowed=right, descriptor=descriptor))
    finally:
        os.close(descriptor)


def _add(rules: int, kind: int, rule: ctypes.Structure) -> None:
    _call(_ADD_RULE, ctypes.c_int(rules), ctypes.c_int(kind), ctypes.byref(rule), ctypes.c_uint32(0))


def _call(number: int, *words: object) -> int:
    """Make a system call.

    Raises:
        OSError: It failed.
    """
    c = ctypes.CDLL(None, use_errno=True)
    c.syscall.restype = ctypes.c_long
    result: int = c.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
