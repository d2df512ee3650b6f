"""The registry under the load of a thousand members: ``python -m benchmarks.registry_load [--quick] [--json]``.

The registry is the real one, in a process of its own, with mutual TLS 1.3 as ``bottega server start`` sets it up; the
members are two other processes on the same cores, and every member has a key, a certificate and a connection of its
own. The roster names them all (1.5 MB with 1,000).

* *Without pause*: each caller makes one call after the other, on connections that stay open, or on a new one for each
  call (a full handshake with a client certificate: nothing is resumed). The registry lets each member call 50 times a
  second, and that stays so: a caller goes round 50 members.
* *Polling*: 1,000 members keep their connections and ask for a newer roster every 10 s, a fifth sooner or later by
  chance. A call's time runs from the moment when it was due, so what a busy caller does late counts against the
  registry. Memory is the registry's resident set, once a second; its slope is a straight line through the window.
* *A change*: meanwhile another process revokes somebody, and everybody fetches the new roster at their next look.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, linear_regression
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil

from benchmarks.registry_callers import Seen, Server, call_without_pause, poll
from benchmarks.registry_members import Papers, found_with_members, serve, site
from benchmarks.reporting import Bar, finish, table
from common.errors import ProcessError
from common.paths import ServerHome
from server.house import open_house

MEMBERS = 1000
PROCESSES = 2
CALLERS = 8  # in each process
MEMBERS_EACH = 50
EVERY_S = 10.0
KINDS = {
    "current": "GetRoster, nothing newer",
    "fetch": "GetRoster, the whole roster",
    "renew": "Renew",
    "connect": "a new connection, then GetRoster, nothing newer",
}


@dataclass(frozen=True)
class Memory:
    """The registry's resident set over a window.

    Attributes:
        mean: Bytes.
        growth: By how much of the mean the line through all samples rises over the window.
        most: The highest sample, bytes.
    """

    mean: float
    growth: float
    most: float


@dataclass(frozen=True)
class Polled:
    """What polling came to.

    Attributes:
        window: Milliseconds that the calls of the window took.
        seconds: Length of the window.
        refused: How often each thing other than an answer came, from the first connection to the last call.
        memory: Over the window.
        cores: What the registry and all members took, in cores, over the window.
        told_s: From a revocation until the last member had the new roster.
        change: Milliseconds that calls took meanwhile.
        most_after: The most memory while everybody fetched the roster.
    """

    window: np.ndarray
    seconds: float
    refused: dict[str, int]
    memory: Memory
    cores: tuple[float, float]
    told_s: float
    change: np.ndarray
    most_after: float


def main() -> None:
    """Measure, print the tables and the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--quick", action="store_true", help="a window of one minute instead of twenty")
    args = parser.parse_args()
    calls_s, settle_s, window_s = (3.0, 40.0, 60.0) if args.quick else (20.0, 700.0, 1200.0)
    with tempfile.TemporaryDirectory(prefix="bottega-registry-") as name:
        home = ServerHome(Path(name) / "server")
        members = found_with_members(home, MEMBERS)
        with Child(serve, home.root) as registry:
            server = Server(registry.hear(), home.authority_certificate.read_bytes(), open_house(home).roster.version)
            rates = {
                (kind, callers): _without_pause(kind, server, members, callers, calls_s)
                for kind in KINDS
                for callers in (1, CALLERS * PROCESSES)
            }
            polled = _polled(home, server, members, registry, settle_s, window_s)
        size = home.roster.stat().st_size
    if not args.json:
        _print_calls(rates, calls_s, size)
        _print_polling(polled, len(members))
    finish(*_summary(rates, calls_s, polled, size), quiet=args.json)


class Child:
    """A process and a pipe to it. A context manager, at whose end the process is told to end.

    Args:
        work: What it does; takes ``words`` and its end of the pipe.
        words: For it.
    """

    def __init__(self, work: Callable[..., None], *words: object) -> None:
        spawn = multiprocessing.get_context("spawn")  # gRPC does not outlive a fork
        self._pipe, self._theirs = spawn.Pipe()
        self._process = spawn.Process(target=work, args=(*words, self._theirs), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # it has ended already
            self.say()
        self._process.join(60)
        if self._process.is_alive():
            self._process.kill()

    def say(self) -> None:
        """Tell the process to go on, or to end."""
        self._pipe.send(None)

    def hear(self) -> Any:  # noqa: ANN401 (whatever the process sends)
        """Return what the process sends next.

        Raises:
            ProcessError: It died.
        """
        try:
            return self._pipe.recv()
        except EOFError:
            raise ProcessError("a process of the benchmark died") from None

    @property
    def resident(self) -> int:
        """Its resident set, bytes."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    @property
    def cpu_s(self) -> float:
        """What it has taken of the processors, seconds."""
        took = psutil.Process(self._process.pid).cpu_times()
        return float(took.user + took.system)


def _without_pause(kind: str, server: Server, members: Sequence[Papers], callers: int, seconds: float) -> np.ndarray:
    """Return how long each call of so many callers took, in milliseconds."""
    parties = [members[first : first + MEMBERS_EACH] for first in range(0, callers * MEMBERS_EACH, MEMBERS_EACH)]
    shares = [share for number in range(PROCESSES) if (share := parties[number::PROCESSES])]
    with ExitStack() as ended:
        children = [ended.enter_context(Child(call_without_pause, kind, server, share, seconds)) for share in shares]
        for child in children:
            child.hear()
        for child in children:
            child.say()
        seen = _together([child.hear() for child in children])
    if seen.refused:
        raise ProcessError("the registry did not answer every call", got=seen.refused)
    return _ms(seen.calls)


def _polled(
    home: ServerHome, server: Server, members: Sequence[Papers], registry: Child, settle_s: float, window_s: float
) -> Polled:
    shares = [members[number::PROCESSES] for number in range(PROCESSES)]
    with ExitStack() as ended:
        pollers = [ended.enter_context(Child(poll, server, share, EVERY_S)) for share in shares]
        for poller in pollers:
            poller.hear()
        time.sleep(settle_s)  # everybody is connected, and the allocators have what they need
        began, before = time.monotonic(), [child.cpu_s for child in (registry, *pollers)]
        memory = _watched(registry, window_s)
        over, after = time.monotonic(), [child.cpu_s for child in (registry, *pollers)]
        took = [(late - early) / (over - began) for early, late in zip(before, after, strict=True)]
        revoked = time.monotonic()
        open_house(home).publish(lambda roster: roster.with_revocation(site("last"), "load", 1))
        told = _watched(registry, 2 * EVERY_S)
        for poller in pollers:
            poller.say()
        seen = _together([poller.hear() for poller in pollers])
    if len(seen.fetched) != len(members):
        raise ProcessError("not everybody had the new roster", got=len(seen.fetched), expected=len(members))
    return Polled(
        window=_ms([call for call in seen.calls if began <= call[0] < over]),
        seconds=over - began,
        refused=seen.refused,
        memory=memory,
        cores=(took[0], sum(took[1:])),
        told_s=max(seen.fetched) - revoked,
        change=_ms([call for call in seen.calls if revoked <= call[0] < max(seen.fetched)]),
        most_after=told.most,
    )


def _watched(child: Child, seconds: float) -> Memory:
    """Look at a process's memory once a second."""
    began, looks = time.monotonic(), []
    while (now := time.monotonic() - began) < seconds:
        looks.append((now, child.resident))
        time.sleep(1.0)
    at, resident = zip(*looks, strict=True)
    slope = linear_regression(at, resident).slope
    return Memory(fmean(resident), slope * seconds / fmean(resident), max(resident))


def _together(parts: Sequence[Seen]) -> Seen:
    whole = Seen()
    for part in parts:
        whole.calls += part.calls
        whole.fetched += part.fetched
        for code, count in part.refused.items():
            whole.refused[code] = whole.refused.get(code, 0) + count
    return whole


def _ms(calls: Sequence[tuple[float, float]]) -> np.ndarray:
    return np.array([took for _, took in calls]) * 1000


def _p(ms: np.ndarray, percent: float) -> float:
    return float(np.percentile(ms, percent))


def _summary(
    rates: dict[tuple[str, int], np.ndarray], calls_s: float, polled: Polled, size: int
) -> tuple[list[Bar], dict[str, float]]:
    unanswered = sum(polled.refused.values())
    bars = [
        Bar("polls_answered_share", len(polled.window) / (len(polled.window) + unanswered), 1.0, at_least=True),
        Bar("poll_p99_ms", _p(polled.window, 99), 250.0),
        Bar("memory_growth_share", polled.memory.growth, 0.01),
    ]
    figures: dict[str, float] = {"roster_bytes": size}
    for (kind, callers), ms in rates.items():
        name = f"{kind}_{callers}"
        figures |= {f"{name}_a_second": len(ms) / calls_s, f"{name}_p50_ms": _p(ms, 50), f"{name}_p99_ms": _p(ms, 99)}
    figures |= {
        "polls_a_second": len(polled.window) / polled.seconds,
        "poll_p50_ms": _p(polled.window, 50),
        "poll_most_ms": _p(polled.window, 100),
        "registry_cores": polled.cores[0],
        "members_cores": polled.cores[1],
        "resident_mib": polled.memory.mean / 2**20,
        "resident_mib_after_a_change": polled.most_after / 2**20,
        "change_known_to_all_s": polled.told_s,
        "change_p99_ms": _p(polled.change, 99),
    }
    return bars, figures


def _print_calls(rates: dict[tuple[str, int], np.ndarray], calls_s: float, size: int) -> None:
    table(
        f"calls without a pause between them, {calls_s:g} s each; the roster is {size / 1e6:.2f} MB",
        ("call", "callers", "a second", "p50, ms", "p99, ms"),
        [
            (
                KINDS[kind],
                str(callers),
                f"{len(ms) / calls_s:.0f}",
                f"{_p(ms, 50):.2f}",
                f"{_p(ms, 99):.2f}",
            )
            for (kind, callers), ms in rates.items()
        ],
    )


def _print_polling(polled: Polled, members: int) -> None:
    memory = polled.memory
    table(
        f"{members} members ask every {EVERY_S:g} s for {polled.seconds:.0f} s, each on its own connection",
        ("what", "measured"),
        [
            ("calls answered", f"{len(polled.window)}, {len(polled.window) / polled.seconds:.1f} a second"),
            ("not answered", ", ".join(f"{count} {code}" for code, count in polled.refused.items()) or "none"),
            ("p50, p99, longest", " / ".join(f"{_p(polled.window, q):.1f} ms" for q in (50, 99, 100))),
            ("processors: registry, all members", f"{polled.cores[0]:.2f} and {polled.cores[1]:.2f} cores"),
            ("resident set of the registry, mean", f"{memory.mean / 2**20:.1f} MiB"),
            ("its slope", f"{memory.growth:+.3%} over the window"),
            ("a revocation: until everybody has the new roster", f"{polled.told_s:.1f} s"),
            (
                "p99 and the most memory meanwhile",
                f"{_p(polled.change, 99):.0f} ms, {polled.most_after / 2**20:.0f} MiB",
            ),
        ],
    )


if __name__ == "__main__":
    main()
