"""What a site's SuperNode and couriers may reach, whoever's code runs in them, and how that is told.

They carry ciphertext and need little: installed programs to read, a folder of their own to write in, the server's port.
Everything else of the user that they run as is shut to them by Landlock (:mod:`client.landlock`), with a filter for
what Landlock lets through (:mod:`client.syscall_filter`). The guide is docs/guides/confinement.md.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from client.landlock import KEEP, PROTECTS, READ, RUN, Access, abi, restrict
from client.syscall_filter import can_filter, install_filter
from common.errors import AgentError

if TYPE_CHECKING:
    from client.supernode_settings import SuperNodeSettings
    from common.paths import SiteHome, SuperNodeHome

log = logging.getLogger("bottega.site")

WHOLE_ABI = 6
"""Since this ABI all is held back that ``confine = "require"`` asks for."""

HANDED_ON = frozenset({
    "HOME", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ", "OMP_NUM_THREADS", "GRPC_VERBOSITY", "LD_LIBRARY_PATH",
    "PYTHONHOME", "PYTHONPATH", "PYTHONUSERBASE", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy",
})  # fmt: skip
"""Variables of the agent's environment that its SuperNode gets; others may hold secrets."""

_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin")
_ETC = ("/etc",)
# Root may read there what nobody else can, so it gets by name what programs need.
_ETC_OF_ROOT = tuple(
    f"/etc/{name}"
    for name in (
        "resolv.conf", "hosts", "host.conf", "nsswitch.conf", "gai.conf", "services", "protocols", "passwd", "group",
        "localtime", "timezone", "mime.types", "ld.so.cache", "ssl", "pki", "ca-certificates",
    )
)  # fmt: skip
_FACTS = ("/proc/stat", "/proc/meminfo", "/proc/cpuinfo", "/proc/sys/net/core/somaxconn", "/sys/devices/system/cpu")
_DEVICES = {
    "/dev/null": Access.READ_FILE | Access.WRITE_FILE,
    "/dev/zero": Access.READ_FILE,
    "/dev/random": Access.READ_FILE,
    "/dev/urandom": Access.READ_FILE,
}


@dataclass(frozen=True)
class Plan:
    """What a process will be allowed. It goes to it on its command line, so it holds no secret.

    Attributes:
        mode: ``auto``, ``require`` or ``off``.
        files: What may be done to these paths and to what is beneath them (:class:`~client.landlock.Access`).
        connect: TCP ports that it may connect to.
        bind: TCP ports that it may listen on.
        variables: Names of the environment variables that it gets.
        told: The file that says how it went.
        exposed: What cannot be hidden, in words: it lies where programs must be read.
    """

    mode: str
    files: Mapping[str, int]
    connect: tuple[int, ...]
    bind: tuple[int, ...]
    variables: tuple[str, ...]
    told: str
    exposed: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return what :meth:`to_json` wrote."""
        return cls(**json.loads(text))


def plan(home: SiteHome | SuperNodeHome, settings: SuperNodeSettings, port: int, variables: Iterable[str]) -> Plan:
    """Return what a site's SuperNode is allowed.

    Args:
        home: The site's.
        settings: The site's.
        port: Of the SuperNode's own Runtime API, which its couriers call.
        variables: Names of environment variables that it needs besides those of everybody (:data:`HANDED_ON`).
    """
    files = {str(path): int(right) for path, right in _files(home).items()}
    fleet = int(settings.server.rpartition(":")[2])
    return Plan(
        mode=settings.confine,
        files=files,
        connect=(fleet, port, *_proxy_ports()),
        bind=(port,),
        variables=tuple(sorted(HANDED_ON | set(variables))),
        told=str(home.confinement),
        exposed=_exposed(home, settings, files),
    )


def check_confinement(home: SiteHome | SuperNodeHome, settings: SuperNodeSettings) -> None:
    """Look ahead whether the SuperNode can be confined as the site wants; warn where it may run without.

    Raises:
        AgentError: The site requires it and it cannot be had, or not whole.
    """
    version, why = abi()
    expected = plan(home, settings, 0, ())
    facts = _Facts(expected.mode, version, why, filtered=can_filter(), exposed=expected.exposed)
    if expected.mode == "require" and not facts.whole:
        raise AgentError(
            'site.toml says confine = "require", and the SuperNode cannot be confined as that asks',
            got=facts.sentence(),
            expected=f"Landlock ABI {WHOLE_ABI} or later (Linux 6.12), with drawings and home apart from programs",
            advice='Start the site on such a machine, or in a container with confine = "auto"; see its guide.',
        )
    if not facts.whole:
        log.warning("confinement of the SuperNode: %s", facts.sentence())


def confine(plan: Plan) -> str:
    """Confine this process, and all that it starts, as far as the plan and the kernel have it.

    Returns:
        What came of it, for the file that :func:`confinement_status` reads.

    Raises:
        AgentError: The plan requires what the kernel lacks, or the kernel refuses what it should be able to do.
    """
    version, why = abi() if plan.mode != "off" else (0, "")
    filtered = bool(version) and can_filter()
    facts = _Facts(plan.mode, version, why, filtered=filtered, exposed=tuple(plan.exposed))
    if plan.mode == "require" and not facts.whole:
        raise AgentError("this process cannot be confined as it must be", got=facts.sentence())
    if version:
        files = {Path(path): Access(right) for path, right in plan.files.items()}
        restrict(files, connect=plan.connect, bind=plan.bind)
    if filtered:
        install_filter()
    return json.dumps(asdict(facts))


def confinement_status(home: SiteHome | SuperNodeHome) -> str:
    """Return in one sentence how a site's SuperNode and couriers are confined.

    The launcher writes the facts once they hold, into a file that whatever runs after it cannot write to.
    """
    try:
        facts = _Facts(**json.loads(home.confinement.read_text(encoding="utf-8")))
        return facts.sentence()
    except (OSError, ValueError, TypeError):
        return "unknown: no SuperNode has said yet"


@dataclass(frozen=True)
class _Facts:
    mode: str
    abi: int
    why: str
    filtered: bool
    exposed: Iterable[str]

    @property
    def whole(self) -> bool:
        return self.abi >= WHOLE_ABI and self.filtered and not self.exposed

    def sentence(self) -> str:
        if self.mode == "off":
            return "off: site.toml says so"
        if not self.abi:
            return f"none: {self.why}"
        held = [what for since, what in PROTECTS if self.abi >= since]
        missed = [what for since, what in PROTECTS if self.abi < since]
        if not self.filtered:
            missed += ["ways round the TCP ports", "modes of files", "watching files", "shared memory", "limits"]
        missed += ["UDP"]
        shown = f"; not hidden: {' and '.join(self.exposed)}, beneath installed programs" if self.exposed else ""
        return f"Landlock ABI {self.abi}: {', '.join(held)}; not held back: {', '.join(missed)}{shown}"


def _files(home: SiteHome | SuperNodeHome) -> dict[Path, Access]:
    etc = _ETC_OF_ROOT if os.geteuid() == 0 else _ETC
    files = dict.fromkeys(_programs(), RUN)
    files |= dict.fromkeys(map(Path, (*etc, *_FACTS)), READ)
    files |= {Path(name): right for name, right in _DEVICES.items()}
    resolver = Path("/etc/resolv.conf").resolve().parent
    if resolver.is_relative_to("/run"):  # replaced when the network changes, so its folder, not the file
        files[resolver] = READ
    files[home.authority_certificate] = Access.READ_FILE
    files[home.supernode_key] = Access.READ_FILE
    files[home.socket.parent] = Access.RESOLVE_UNIX  # the folder: an agent that starts later makes a new socket
    files[home.flower] = KEEP
    files[home.flower / "programs"] = RUN
    return files


def _programs() -> set[Path]:
    """Return where Python, its packages and the system's programs lie; of bottega what a site's courier imports."""
    ours = [Path(__file__).parents[1] / package for package in ("client", "common", "security")]
    python = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, Path(sys.executable).resolve().parent)
    installed = (name for name in sys.path if Path(name).name in {"site-packages", "dist-packages"})
    every: tuple[str | Path, ...] = (*_SYSTEM, *python, *sysconfig.get_paths().values(), *installed, *ours)
    return {Path(path) for path in every}


def _exposed(home: SiteHome | SuperNodeHome, settings: SuperNodeSettings, files: Mapping[str, int]) -> tuple[str, ...]:
    shown = [Path(path).resolve() for path, right in files.items() if right & Access.READ_FILE]
    private = {"the site's home": home.root, **settings.private}
    return tuple(words for words, path in private.items() if any(path.resolve().is_relative_to(root) for root in shown))


def _proxy_ports() -> tuple[int, ...]:
    """Return the port of the proxy that Flower calls the server through, if there is one."""
    proxy = getproxies_environment().get("https")
    if not proxy:
        return ()
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return (parts.port or (443 if parts.scheme == "https" else 80),)
