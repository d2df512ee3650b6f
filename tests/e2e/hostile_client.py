"""The ClientApp of a hostile bundle: it tries everything, and writes down what it got. Never imported by a test."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

app = ClientApp()
FACTS: dict[str, dict[str, Any]] = import_module("client.facts").FACTS
"""What to steal, by the home that this runs at. In the bundle, as this file is: there it is ``client/app.py``."""
FACT: dict[str, Any] = {}
PTRACE_SEIZE, MPTCP, FAST_OPEN = 0x4206, 262, 0x20000000
PIDFD_OPEN, PIDFD_GETFD = 434, 438
IN_OPEN, SHM_RDONLY = 0x20, 0o10000


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def done(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def c() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.process_vm_readv.restype = library.ptrace.restype = ctypes.c_long
    return library


def by_shell() -> str:
    shown = subprocess.run(["/bin/cat", FACT["drawing"]], capture_output=True, check=False)
    if shown.returncode:
        raise PermissionError(shown.stderr.decode())
    return hashlib.sha256(shown.stdout).hexdigest()


def by_proc_mem() -> str:
    with Path(f"/proc/{FACT['pid']}/mem").open("rb") as memory:
        memory.seek(FACT["address"])
        return memory.read(16).hex()


class Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def by_process_vm_readv() -> str:
    into = ctypes.create_string_buffer(16)
    mine, its = Vector(ctypes.addressof(into), 16), Vector(FACT["address"], 16)
    words = (ctypes.byref(mine), ctypes.c_ulong(1), ctypes.byref(its), ctypes.c_ulong(1), ctypes.c_ulong(0))
    done(c().process_vm_readv(FACT["pid"], *words))
    return into.raw.hex()


def by_ptrace() -> str:
    done(c().ptrace(ctypes.c_long(PTRACE_SEIZE), ctypes.c_long(FACT["pid"]), None, None))
    return "attached"


def its_open_file() -> str:
    handle = done(c().syscall(PIDFD_OPEN, FACT["pid"], 0))
    return f"descriptor {done(c().syscall(PIDFD_GETFD, handle, 1, 0))}"


def signal_it() -> str:
    os.kill(FACT["pid"], signal.SIGURG)  # which it ignores
    return "sent"


def limit_it() -> str:
    """With RLIMIT_CPU it would be a kill; here it gets the limit that it has."""
    resource.prlimit(FACT["pid"], resource.RLIMIT_CORE, resource.prlimit(FACT["pid"], resource.RLIMIT_CORE))
    return "set"


def watch(folder: str) -> str:
    library = c()
    handle = done(library.inotify_init1(0))
    done(library.inotify_add_watch(handle, folder.encode(), IN_OPEN))
    return "every name that is opened there"


def shared_memory() -> str:
    library = c()
    library.shmat.restype = ctypes.c_void_p
    place = library.shmat(FACT["shared"], None, SHM_RDONLY)
    if place == ctypes.c_void_p(-1).value:
        done(-1)
    return ctypes.string_at(place).decode()


def its_environment() -> str:
    return "a secret" if b"STUDIO_SECRET" in Path(f"/proc/{FACT['pid']}/environ").read_bytes() else "no secret"


def call_agent(letter: bytes, body: bytes) -> str:
    import grpc

    from common.proto import bottega_pb2 as pb
    from common.proto import bottega_pb2_grpc as rpc

    with grpc.insecure_channel(f"unix:{FACT['socket']}") as channel:
        try:
            rpc.SiteAgentStub(channel).Answer(pb.Envelope(letter=letter, body=body), timeout=20)
        except grpc.RpcError as no:
            raise PermissionError(f"{no.code().name}: {no.details()}") from None
    return "an answer"


def forge() -> str:
    """Ask in the server's name, sealed to the site as it should be; only the server's key is not to be had."""
    from common.proto import bottega_pb2 as pb
    from security.envelope import Kind, seal_body, seal_letter
    from security.identity import Identity, Peer
    from security.keys import SealingPublicKey, VerifyKey
    from security.names import SpiffeId

    name, verify, sealing = FACT["site"]
    keys = VerifyKey(bytes.fromhex(verify)), SealingPublicKey(bytes.fromhex(sealing))
    body = seal_body(b"an adapter")
    letter = seal_letter(
        kind=Kind.TASK, run="stolen", round_number=0, in_reply_to=b"",
        manifest=pb.Task(work=pb.WORK_TRAIN).SerializeToString(), body=body,
        sender=Identity.generate(SpiffeId.parse(FACT["server"])), recipient=Peer(SpiffeId.parse(name), *keys),
        now_ms=int(time.time() * 1000),
    )  # fmt: skip
    return call_agent(letter, bytes(body.ciphertext))


def connect(protocol: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol) as to:
        to.connect(("127.0.0.1", FACT["port"]))
    return "connected"


def connect_fast() -> str:
    with socket.socket() as to:
        to.sendto(b"hello", FAST_OPEN, ("127.0.0.1", FACT["port"]))
    return "sent"


def connect_unix(address: str) -> str:
    with socket.socket(socket.AF_UNIX) as to:
        to.connect(address)
    return "connected"


def listen() -> str:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return f"port {door.getsockname()[1]}"


def raw_socket() -> str:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP).close()
    return "open"


def write(path: str) -> str:
    Path(path).write_text("planted")
    return "written"


def open_to_write(path: str) -> str:
    with Path(path).open("r+b"):
        return "open"


def link(make: Callable[[str, str], None], name: str) -> str:
    make(FACT["keys"]["signing.key"], str(Path(os.environ["FLWR_HOME"]) / name))
    return "linked"


def open_up() -> str:
    key = Path(FACT["mode"])
    key.chmod(0o644)
    if stat.S_IMODE(key.stat().st_mode) != 0o644:
        raise PermissionError("nothing changed")
    return "changed"


def own_secret() -> str:
    return os.environ["STUDIO_SECRET"]


def attempts() -> dict[str, Callable[[], object]]:
    """Return what is tried, by name."""
    files = {f"read {name}": (lambda path=path: digest(path)) for name, path in FACT["files"].items()}
    keys = {f"read key {name}": (lambda path=path: digest(path)) for name, path in FACT["keys"].items()}
    return {
        "list the person's folder": lambda: str(next(Path(FACT["person"]).iterdir())),
        "list drawings": lambda: str(next(Path(FACT["data"]).iterdir())),
        "list keys": lambda: str(next(Path(FACT["keys"]["signing.key"]).parent.iterdir())),
        **files,
        **keys,
        "read drawing by another program": by_shell,
        "agent's map of memory": lambda: Path(f"/proc/{FACT['pid']}/maps").read_text()[:40],
        "agent's memory by /proc": by_proc_mem,
        "agent's memory by process_vm_readv": by_process_vm_readv,
        "agent's memory by ptrace": by_ptrace,
        "agent's open file": its_open_file,
        "agent's environment": its_environment,
        "signal the agent": signal_it,
        "limit the agent": limit_it,
        "garbage for the agent": lambda: call_agent(b"train for me", b"now"),
        "forged task for the agent": forge,
        "watch drawings": lambda: watch(FACT["data"]),
        "memory that others share": shared_memory,
        "connect by TCP": lambda: connect(0),
        "connect by MPTCP": lambda: connect(MPTCP),
        "connect by TCP Fast Open": connect_fast,
        "abstract socket": lambda: connect_unix(FACT["abstract"]),
        "socket with a path": lambda: connect_unix(FACT["unix"]),
        "listen": listen,
        "raw socket": raw_socket,
        "write in the home": lambda: write(FACT["home"] + "/planted"),
        "write elsewhere": lambda: write(FACT["elsewhere"]),
        "write in the person's folder": lambda: write(FACT["person"] + "/planted-by-" + Path(FACT["home"]).name),
        "say that it is confined": lambda: open_to_write(FACT["home"] + "/confinement.json"),
        "symbolic link": lambda: link(os.symlink, "soft"),
        "hard link": lambda: link(os.link, "hard"),
        "change a mode": open_up,
        "secret in the environment": own_secret,
    }


def tried(attempt: Callable[[], object]) -> dict[str, str]:
    try:
        return {"got": str(attempt())}
    except Exception as no:  # noqa: BLE001 (whatever stopped it is told)
        number = no.errno if isinstance(no, OSError) else None
        return {"stopped": f"{type(no).__name__}: {no}", "errno": str(number)}


@app.train()  # type: ignore[untyped-decorator]
def steal(message: Message, context: Context) -> Message:
    """Try everything; the reply is an error, as the loot lies where the test looks for it."""
    FACT.update(FACTS[str(Path(str(context.node_config["agent-socket"])).parents[1])])
    loot = {name: tried(attempt) for name, attempt in attempts().items()}
    (Path(os.environ["FLWR_HOME"]) / "loot.json").write_text(json.dumps(loot))
    raise RuntimeError("the bundle's code ran")
