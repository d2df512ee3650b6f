"""How :mod:`benchmarks.onboarding` counts and times the way to a federation: commands that people type, one by one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from flwr.proto.control_pb2 import ListNodesRequest
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control import ControlHttpClient

from common.errors import ProcessError

PATIENCE_S = 180.0
COMMAND_S = 120.0


@dataclass
class Journey:
    """One way from nothing to a first round.

    Attributes:
        name: For the table.
        steps: What was typed, by whom it does not matter: the kind of command, and how long it took. A command that
            stays in the foreground has taken as long as until the next could be typed.
        by_hand: Files that somebody writes in an editor.
        carried: Files or lines that somebody hands to somebody else.
        connected_s: From the first command until the server has both sites.
        round_s: From the order to run until the first round is closed.
    """

    name: str
    steps: list[tuple[str, float]] = field(default_factory=list)
    by_hand: int = 0
    carried: int = 0
    connected_s: float = 0.0
    round_s: float = 0.0

    @property
    def kinds(self) -> list[str]:
        """The kinds of command, in the order of their first use."""
        return list(dict.fromkeys(kind for kind, _ in self.steps))

    @property
    def so_far_s(self) -> float:
        """What all commands together took."""
        return sum(seconds for _, seconds in self.steps)

    @contextmanager
    def typed(self, kind: str) -> Iterator[None]:
        """Time one command."""
        began = time.monotonic()
        yield
        self.steps.append((kind, time.monotonic() - began))


def run(words: Sequence[str], folder: Path, environment: dict[str, str]) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        ProcessError: It failed.
    """
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=COMMAND_S, check=False
    )
    if done.returncode:
        raise ProcessError("a command failed", got=f"{' '.join(words[:4])}: {(done.stderr or done.stdout)[-600:]}")
    return done.stdout


def start(words: Sequence[str], log: Path, folder: Path, environment: dict[str, str], ended: ExitStack) -> None:
    """Start what stays; it and all that it started are stopped when ``ended`` is closed."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    ended.callback(_stop, child)


def wait(what: str, ready: Callable[[], bool]) -> None:
    """Look twenty times a second until something is ready.

    Raises:
        ProcessError: It never was.
    """
    until = time.monotonic() + PATIENCE_S
    while not ready():
        if time.monotonic() > until:
            raise ProcessError(f"{what} never came", expected=f"within {PATIENCE_S:g} s")
        time.sleep(0.05)


def online(client: ControlHttpClient) -> int:
    """Return how many SuperNodes a SuperLink has."""
    return sum(node.status == NodeStatus.ONLINE for node in client.ListNodes(ListNodesRequest()).nodes_info)


def quiet(home: Path, programs: Path) -> dict[str, str]:
    """Return an environment whose home is a fresh folder, and in which one Python's programs come first."""
    home.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return {
        **kept, "HOME": str(home), "PATH": os.pathsep.join([str(programs), os.defpath, "/usr/bin", "/bin"]),
        "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
    }  # fmt: skip


def _stop(child: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(8)
