"""A machine of its own for a whole federation, on which every packet that would leave is caught and counted.

Run in a network namespace (``unshare --map-root-user --net``). The only way out of it is a TUN device that this
process reads: whatever any process sends to another machine, or asks a name server, arrives here and nowhere else.
Prints one JSON object: what the federation did, and where every packet was going.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import json
import os
import socket
import struct
import sys
import threading
from pathlib import Path

from common.processes import Supervisor
from common.settings import RunSettings, parse
from deploy.federation import prepare, start_server, start_sites, wait_for_sites
from deploy.studios import make_studios
from server.planning import start_run
from server.store import Store

_TUNSETIFF, _IFF_TUN_NO_PI = 0x400454CA, 0x1001
_SIOCADDRT, _SIOCSIFFLAGS, _SIOCSIFADDR = 0x890B, 0x8914, 0x8916
_UP_RUNNING, _RTF_UP = 0x41, 0x1
OUTSIDE = "192.0.2.1"  # RFC 5737: nobody's


class _SockAddr(ctypes.Structure):
    _fields_ = (("family", ctypes.c_ushort), ("data", ctypes.c_ubyte * 14))


class _Route(ctypes.Structure):
    """``struct rtentry`` of <net/route.h>: what SIOCADDRT takes."""

    _fields_ = (
        ("pad1", ctypes.c_ulong), ("dst", _SockAddr), ("gateway", _SockAddr), ("genmask", _SockAddr),
        ("flags", ctypes.c_ushort), ("pad2", ctypes.c_short), ("pad3", ctypes.c_ulong), ("pad4", ctypes.c_void_p),
        ("metric", ctypes.c_short), ("dev", ctypes.c_char_p), ("mtu", ctypes.c_ulong), ("window", ctypes.c_ulong),
        ("irtt", ctypes.c_ushort),
    )  # fmt: skip


def only_way_out() -> int:
    """Bring loopback up, make a TUN device the default route, and return its descriptor."""
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH", b"out0", _IFF_TUN_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH", b"lo", _UP_RUNNING))
        address = struct.pack("16sHH4s8x", b"out0", socket.AF_INET, 0, socket.inet_aton("10.11.12.13"))
        fcntl.ioctl(control, _SIOCSIFADDR, address)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH", b"out0", _UP_RUNNING))
        anywhere = _SockAddr(socket.AF_INET)
        route = _Route(dst=anywhere, gateway=anywhere, genmask=anywhere, flags=_RTF_UP, dev=b"out0")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.ioctl(control.fileno(), _SIOCADDRT, ctypes.byref(route)) != 0:
            raise OSError(ctypes.get_errno(), "no default route")
    return tun


def watch(tun: int, seen: list[str]) -> None:
    """Note the destination of every packet; what the kernel itself says to its multicast neighbours is passed over."""
    while True:
        packet = os.read(tun, 65_535)
        version = packet[0] >> 4
        to = ipaddress.ip_address(packet[16:20] if version == 4 else packet[24:40])
        if not to.is_multicast:
            seen.append(str(to))


def federation(root: Path) -> dict[str, object]:
    """Run one round of two sites, each with all its processes."""
    premises = prepare(root)
    studios = make_studios(premises.drawings, 2, seed=0, each=90)
    settings = {"rounds": 1, "privacy": {"steps": 1, "multiplicity": 1}}
    with Supervisor() as supervisor:
        start_server(premises, supervisor, studios, RunSettings())
        start_sites(premises, supervisor, studios)
        wait_for_sites(premises, supervisor, studios)
        run = start_run(premises.server, parse(RunSettings, settings, "the run"))
        with Store(premises.server.database) as store:
            supervisor.wait("the run", lambda: store.run(run).status != "running", 180)
            return {"status": store.run(run).status, "outcomes": [row.outcome for row in store.rounds(run)]}


def main() -> None:
    """Run the federation, then leave on purpose, to show that leaving is seen."""
    seen: list[str] = []
    threading.Thread(target=watch, args=(only_way_out(), seen), daemon=True).start()
    result = federation(Path(sys.argv[1]))
    before = list(seen)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as leaving:
        leaving.sendto(b"hello", (OUTSIDE, 9))
    while OUTSIDE not in seen:
        pass
    sys.stdout.write(json.dumps({**result, "left": before, "seen": seen}))


if __name__ == "__main__":
    main()
