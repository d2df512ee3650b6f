"""What a site's SuperNode may reach, by the plan that is made for a home; what is told of it; what the filter lets by.

That the kernel holds hostile code to it is proved in `tests/e2e/test_hostile_bundle.py`.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import landlock
from client.confinement import HANDED_ON, Plan, check_confinement, confine, confinement_status, plan
from client.landlock import Access, abi, restrict
from client.supernode_settings import SiteBasics
from client.syscall_filter import _MACHINES, _Machine, _steps, can_filter
from common.errors import AgentError
from common.paths import SiteHome

FLEET, OWN = 8440, 50123
CHANGES = Access.WRITE_FILE | Access.MAKE_REG | Access.MAKE_DIR | Access.MAKE_SYM | Access.REMOVE_FILE

need_landlock = pytest.mark.skipif(not abi()[0], reason=f"this machine cannot confine: {abi()[1]}")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    home = SiteHome(tmp_path / "home")
    for folder in (*home.folders, home.share, home.flower / "programs"):
        folder.mkdir(mode=0o700, exist_ok=True)
    for file in (home.supernode_key, home.keys / "signing.key", home.settings, home.authority_certificate):
        file.write_text(f"what {file.name} holds")
    return home


def basics(data: Path | str = "/srv/drawings", confine: str = "auto") -> SiteBasics:
    return SiteBasics.model_validate({
        "federation": "fed.example", "name": "rossi", "server": f"server.example:{FLEET}", "data": str(data),
        "confine": confine,
    })  # fmt: skip


def planned(home: SiteHome, settings: SiteBasics | None = None) -> Plan:
    return plan(home, settings or basics(), OWN, ["FLWR_HOME"])


def rights(of: Plan, path: Path | str) -> Access:
    """Return what a plan allows on a path, as the kernel adds it up: what is said of it and of all above it."""
    real, sum_of = Path(path).resolve(), Access(0)
    for name, right in of.files.items():
        if real.is_relative_to(Path(name).resolve()):
            sum_of |= Access(right)
    return sum_of


# The plan


def test_of_a_home_it_reads_one_certificate_and_one_key(home: SiteHome) -> None:
    allowed = planned(home)
    assert rights(allowed, home.authority_certificate) == Access.READ_FILE
    assert rights(allowed, home.supernode_key) == Access.READ_FILE
    shut = (
        home.root, home.keys, home.keys / "signing.key", home.keys / "a key that is made later", home.vault_key,
        home.settings, home.roster, home.nonces, home.cache, home.cache / "train.latents", home.approvals,
        home.confinement, home.lock, home.certificate,
    )  # fmt: skip
    assert {path: rights(allowed, path) for path in shut} == dict.fromkeys(shut, Access(0))


def test_drawings_and_the_rest_of_the_persons_files_are_on_no_list(home: SiteHome, tmp_path: Path) -> None:
    allowed = planned(home, basics(tmp_path / "drawings"))
    for path in (tmp_path / "drawings", tmp_path, Path.home() / ".ssh" / "id_ed25519", "/root", "/proc/1/mem", "/tmp"):  # noqa: S108 (nothing is written there)
        assert rights(allowed, path) == Access(0), path


def test_it_writes_in_flowers_folder_alone_and_makes_no_symbolic_link_there(home: SiteHome) -> None:
    allowed = planned(home)
    may_change = {name for name, right in allowed.files.items() if Access(right) & CHANGES}
    assert may_change == {str(home.flower), "/dev/null"}
    assert not rights(allowed, home.flower) & (Access.MAKE_SYM | Access.MAKE_BLOCK | Access.MAKE_CHAR)


def test_at_the_agents_socket_it_may_knock_and_no_more(home: SiteHome) -> None:
    assert rights(planned(home), home.socket) == Access.RESOLVE_UNIX


def test_of_bottega_it_reads_what_a_courier_imports_and_not_the_server(home: SiteHome) -> None:
    tree = Path(landlock.__file__).parents[1]
    allowed = planned(home)
    for package in ("client", "common", "security"):
        assert Access.READ_FILE in rights(allowed, tree / package / "errors.py")
    assert not rights(allowed, tree / "pyproject.toml")
    assert not rights(allowed, tree / "server" / "house.py")


@pytest.mark.parametrize(("user", "reads"), [(0, False), (1000, True)])
def test_as_root_it_gets_nothing_of_etc_that_only_root_reads(
    home: SiteHome, user: int, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    allowed = planned(home)
    assert bool(rights(allowed, "/etc/shadow")) is reads  # which is shut to other users by its mode
    assert Access.READ_FILE in rights(allowed, "/etc/hosts")


def test_it_calls_the_fleet_and_itself_and_listens_for_itself(home: SiteHome) -> None:
    allowed = planned(home)
    assert (allowed.connect, allowed.bind) == ((FLEET, OWN), (OWN,))


@pytest.mark.parametrize(
    ("proxy", "port"),
    [("http://proxy.example:3128", 3128), ("proxy.example:3128", 3128), ("http://proxy", 80), ("https://proxy", 443)],
)
def test_a_proxy_may_be_called(home: SiteHome, proxy: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    assert planned(home).connect == (FLEET, OWN, port)


def test_a_plan_goes_to_the_launcher_whole_and_names_variables_without_what_they_hold(
    home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANG", "a value to be found")
    allowed = planned(home)
    again = Plan.from_json(allowed.to_json())
    assert again.files == allowed.files
    assert tuple(again.connect) == allowed.connect
    assert set(again.variables) == HANDED_ON | {"FLWR_HOME"}
    assert "a value to be found" not in allowed.to_json()


# What cannot be hidden


@pytest.mark.parametrize("through", ["itself", "a symbolic link"])
def test_drawings_that_lie_beneath_installed_programs_are_told(home: SiteHome, tmp_path: Path, through: str) -> None:
    beneath = Path(sysconfig.get_path("purelib"))
    link = tmp_path / "drawings"
    link.symlink_to(beneath)
    data = (link if through == "a symbolic link" else beneath) / "scans"
    allowed = planned(home, basics(data))
    assert allowed.exposed == ("the drawings",)
    assert planned(home).exposed == ()
    told(home, abi=9, exposed=allowed.exposed)
    assert confinement_status(home).endswith("; not hidden: the drawings, beneath installed programs")


def test_a_home_beneath_installed_programs_is_told() -> None:
    beneath = SiteHome(Path(sysconfig.get_path("purelib")) / "site")
    assert planned(beneath, basics()).exposed == ("the site's home",)


@need_landlock
def test_a_site_that_requires_confinement_does_not_start_with_drawings_that_would_show(home: SiteHome) -> None:
    shown = basics(Path(sysconfig.get_path("purelib")) / "scans", "require")
    with pytest.raises(AgentError, match="the drawings, beneath installed programs"):
        check_confinement(home, shown)


# What is told


def told(home: SiteHome, **facts: object) -> None:
    default = {"mode": "auto", "abi": 0, "why": "", "filtered": True, "exposed": ()}
    home.confinement.write_text(json.dumps({**default, **facts}))


@pytest.mark.parametrize(
    ("number", "held", "missed"),
    [
        (1, "files, ptrace", "TCP ports, signals, abstract sockets, sockets with a path, UDP"),
        (4, "files, ptrace, TCP ports", "signals, abstract sockets, sockets with a path, UDP"),
        (6, "files, ptrace, TCP ports, signals, abstract sockets", "sockets with a path, UDP"),
        (9, "files, ptrace, TCP ports, signals, abstract sockets, sockets with a path", "UDP"),
    ],
)
def test_the_status_names_what_is_held_back_and_what_is_not(
    home: SiteHome, number: int, held: str, missed: str
) -> None:
    told(home, abi=number)
    assert confinement_status(home) == f"Landlock ABI {number}: {held}; not held back: {missed}"


def test_without_a_filter_what_it_would_stop_is_told(home: SiteHome) -> None:
    told(home, abi=9, filtered=False)
    missed = confinement_status(home).partition("not held back: ")[2]
    for what in ("ways round the TCP ports", "modes of files", "watching files", "shared memory", "limits", "UDP"):
        assert what in missed


def test_a_status_never_claims_what_nobody_said(home: SiteHome) -> None:
    assert confinement_status(home) == "unknown: no SuperNode has said yet"
    for text in ("", "{", "[]", "{}", '{"abi": 9}', "null"):
        home.confinement.write_text(text)
        assert confinement_status(home).startswith("unknown"), text
    told(home, mode="off", abi=9)
    assert confinement_status(home) == "off: site.toml says so"


# A kernel that lacks it


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | OSError], None]:
    """Return what has the kernel answer how much of Landlock it has, and refuse all that is asked beyond that."""

    def set_to(answer: int | OSError) -> None:
        def called(number: int, attributes: object, *_: object) -> int:
            if isinstance(answer, OSError):
                raise answer
            if number == 444 and attributes is None:
                return answer
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(landlock, "_call", called)

    return set_to


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSYS, "this kernel was built without Landlock"),
        (errno.EOPNOTSUPP, "Landlock is switched off"),
        (errno.EPERM, "Landlock is refused: Operation not permitted"),
    ],
)
def test_without_landlock_a_site_says_so_and_one_that_requires_it_does_not_start(
    home: SiteHome, number: int, words: str, kernel: Callable[[object], None], caplog: pytest.LogCaptureFixture
) -> None:
    kernel(OSError(number, os.strerror(number)))
    check_confinement(home, basics())
    assert f"confinement of the SuperNode: none: {words}" in caplog.text
    home.confinement.write_text(confine(planned(home)))
    assert confinement_status(home) == f"none: {words}"
    for attempt in (
        lambda: check_confinement(home, basics(confine="require")),
        lambda: confine(planned(home, basics(confine="require"))),
        lambda: restrict({}, connect=[], bind=[]),
    ):
        with pytest.raises(AgentError) as refused:
            attempt()
        assert words in str(refused.value)


def test_a_kernel_that_holds_back_too_little_does_for_auto_and_not_for_require(
    home: SiteHome, kernel: Callable[[object], None], caplog: pytest.LogCaptureFixture
) -> None:
    kernel(5)
    check_confinement(home, basics())
    assert "not held back: signals, abstract sockets" in caplog.text
    with pytest.raises(AgentError, match="not held back: signals, abstract sockets"):
        check_confinement(home, basics(confine="require"))


def test_a_kernel_that_should_and_does_not_stops_a_site_that_asked_for_as_much_as_there_is(
    home: SiteHome, kernel: Callable[[object], None]
) -> None:
    kernel(7)
    with pytest.raises(AgentError, match="this process cannot be confined"):
        confine(planned(home))


def test_off_is_off_and_says_so(home: SiteHome, kernel: Callable[[object], None]) -> None:
    kernel(7)  # and would refuse
    home.confinement.write_text(confine(planned(home, basics(confine="off"))))
    check_confinement(home, basics(confine="off"))
    assert confinement_status(home) == "off: site.toml says so"


# The launcher

PROBE = """
import json, os, resource, sys
def got(attempt):
    try:
        return attempt() or "got"
    except OSError as no:
        return no.errno
home, parent = sys.argv[1], int(sys.argv[2])
core = resource.RLIMIT_CORE
print(json.dumps({
    "own key": got(lambda: open(home + "/keys/supernode").read()),
    "key": got(lambda: open(home + "/keys/signing.key").read()),
    "status": got(lambda: open(home + "/confinement.json", "r+").read()),
    "write": got(lambda: open(home + "/flower/file", "w").write("x") and "got"),
    "link": got(lambda: os.symlink(home + "/site.toml", home + "/flower/soft")),
    "own limit": got(lambda: resource.prlimit(0, core) and "got"),
    "a limit": got(lambda: resource.prlimit(parent, core) and "got"),
    "environment": sorted(set(os.environ) - {"LC_CTYPE"}),
}))
"""


def launched(home: SiteHome, allowed: Plan) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", PROBE, str(home.root), str(os.getpid())]
    return subprocess.run(
        [sys.executable, "-P", "-m", "client.confined_process", allowed.to_json(), *command],
        capture_output=True, text=True, check=False, env={"FLWR_HOME": "there", "STUDIO_SECRET": "not for it"},
    )  # fmt: skip


@need_landlock
def test_the_launcher_confines_and_then_says_that_it_did(home: SiteHome) -> None:
    found = json.loads(launched(home, planned(home)).stdout)
    assert found.pop("own key") == "what supernode holds"
    assert found.pop("write") == "got"
    assert found.pop("own limit") == "got"
    assert found.pop("environment") == ["FLWR_HOME"]
    assert found.pop("a limit") == (errno.EACCES if can_filter() else "got")
    assert found == dict.fromkeys(("key", "status", "link"), errno.EACCES)
    assert confinement_status(home).startswith(f"Landlock ABI {abi()[0]}: files, ptrace")


@need_landlock
def test_what_the_launcher_may_not_do_without_is_not_started_without(home: SiteHome) -> None:
    allowed = replace(planned(home, basics(confine="require")), exposed=("the drawings",))
    ended = launched(home, allowed)
    assert ended.returncode != 0
    assert "this process cannot be confined as it must be" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert confinement_status(home).startswith("unknown")


# The filter, run here as the kernel would run it (https://docs.kernel.org/networking/filter.html)

ALLOW, FAIL, KILL = 0x7FFF0000, 0x00050000, 0x80000000
DENIED = FAIL | errno.EACCES
NAMED = {
    "x86_64": {
        "socket": 41, "sendto": 44, "chmod": 90, "shmat": 30, "msgrcv": 70, "mq_open": 240, "keyctl": 250,
        "inotify_add_watch": 254, "fanotify_mark": 301, "prlimit64": 302, "read": 0, "connect": 42, "getrandom": 318,
        "io_uring_setup": 425, "semtimedop": 220,
    },
    "aarch64": {
        "socket": 198, "sendto": 206, "fchmodat": 53, "shmat": 196, "msgrcv": 188, "mq_open": 180, "keyctl": 219,
        "inotify_add_watch": 27, "fanotify_mark": 263, "prlimit64": 261, "read": 63, "connect": 203, "getrandom": 278,
        "io_uring_setup": 425, "semtimedop": 192,
    },
}  # fmt: skip
MACHINES = pytest.mark.parametrize("name", sorted(_MACHINES))


def verdict(machine: _Machine, number: int, *arguments: int, audit: int | None = None) -> int:
    words = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, machine.audit if audit is None else audit, 0, *words)
    steps, at, held = _steps(machine), 0, 0
    while True:
        code, yes, no, operand = steps[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            held = struct.unpack_from("<I", data, operand)[0]
        elif code == 0x54:
            held &= operand
        else:
            true = {0x15: held == operand, 0x35: held >= operand, 0x45: bool(held & operand)}[code]
            at += yes if true else no


@MACHINES
def test_what_reaches_others_by_other_ways_than_files_is_denied(name: str) -> None:
    machine, named = _MACHINES[name], NAMED[name]
    for call in ("shmat", "msgrcv", "mq_open", "keyctl", "inotify_add_watch", "fanotify_mark", "semtimedop"):
        assert verdict(machine, named[call]) == DENIED, call
    assert verdict(machine, named["io_uring_setup"]) == FAIL | errno.ENOSYS
    for call in ("read", "connect", "getrandom"):
        assert verdict(machine, named[call], 3) == ALLOW, call


@MACHINES
@given(process=st.integers(1, 2**31 - 1))
def test_a_process_sets_limits_of_its_own_alone(name: str, process: int) -> None:
    machine, number = _MACHINES[name], NAMED[name]["prlimit64"]
    assert verdict(machine, number, 0) == ALLOW
    assert verdict(machine, number, process) == DENIED
    assert verdict(machine, number, process | 1 << 32) == DENIED


@MACHINES
@given(
    family=st.sampled_from([0, socket.AF_INET, socket.AF_INET6, 17, 38, 40]),
    kind=st.sampled_from([1, 2, 3, 5, 10]),
    flags=st.sampled_from([0, 0o4000, 0o2000000]),
    protocol=st.sampled_from([0, 1, 6, 17, 33, 132, 136, 262]),
)
def test_of_sockets_beside_local_ones_only_tcp_and_udp_open(
    name: str, family: int, kind: int, flags: int, protocol: int
) -> None:
    allowed = family in {socket.AF_INET, socket.AF_INET6} and kind in {1, 2} and protocol in {0, 6, 17}
    found = verdict(_MACHINES[name], NAMED[name]["socket"], family, kind | flags, protocol)
    assert found == (ALLOW if allowed else DENIED)


@MACHINES
@given(flags=st.integers(0, 2**32 - 1))
def test_no_way_of_sending_opens_a_connection(name: str, flags: int) -> None:
    machine = _MACHINES[name]
    for number, place in machine.sends:
        arguments = [0] * 6
        arguments[place] = flags
        assert verdict(machine, number, *arguments) == (DENIED if flags & 0x20000000 else ALLOW)


@MACHINES
def test_a_mode_is_not_changed_and_nobody_is_told(name: str) -> None:
    for number in _MACHINES[name].modes:
        assert verdict(_MACHINES[name], number) == FAIL


@MACHINES
@given(number=st.integers(0, 2**32 - 1), audit=st.sampled_from([0x40000003, 0x40000028, 0]))
def test_the_second_tables_of_system_calls_are_no_way_round(name: str, number: int, audit: int) -> None:
    assert verdict(_MACHINES[name], number, audit=audit) == KILL
    assert verdict(_MACHINES[name], number | 0x40000000) == KILL
