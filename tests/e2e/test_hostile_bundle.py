"""A run whose bundle brings hostile code: a site never runs it, and if it did, the code would get nothing.

One bundle goes to three SuperNodes of one federation. The first is a whole site as `bottega site start` has it: its own
SuperExec runs the installed courier, whatever came. The other two find Flower's own SuperExec in its place, as if that
were broken: so the code runs, in one confined as every site's SuperNode is, in the other with `confine = "off"`.
The second shows that the confinement stops it, the third that nothing else would have.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import socket
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.fab import Fab

from client.confinement import confinement_status
from client.landlock import abi
from client.settings import SiteSettings
from client.settling import join, known_roster
from client.supernode import supernode
from common.paths import SiteHome
from common.processes import ChildProcess, Supervisor
from common.settings import RunSettings
from deploy.federation import Premises, prepare, start_server, start_sites, wait_for_sites
from deploy.studios import StudioFolder, make_studios
from server.control import control
from server.house import open_house
from server.ports import read_ports

HERE = Path(__file__).parent
PATIENCE_S = 150
SHARED = b"a window of a drawing program"

UNBELIEVED = {"garbage for the agent", "forged task for the agent"}
"""The agent's socket is there to be called: what stops these is the agent."""
NEVER = {
    *UNBELIEVED,
    "secret in the environment",  # a SuperNode gets the variables that it needs, confined or not
}
ITS_OWN = {"read key supernode", "read ca.crt"}
"""The one key that a SuperNode needs, and so has; and what everybody may know."""

BY_MEMORY = {
    "agent's map of memory",
    "agent's memory by /proc",
    "agent's memory by process_vm_readv",
    "agent's memory by ptrace",
    "agent's open file",
    "agent's environment",
}
MACHINE_MAY_LACK = {"connect by MPTCP", "connect by TCP Fast Open", "raw socket", "memory that others share"}

HOSTILE_SERVER = """
import time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 3:
        time.sleep(0.2)
    content = RecordDict({{"letter": ConfigRecord({{"letter": b"junk"}})}})
    replies = grid.send_and_receive([Message(content, node, "train") for node in nodes], timeout=120)
    reasons = sorted(str(reply.has_error() and reply.error.reason) for reply in replies)
    with open({answers!r}, "w") as file:
        file.write("\\n".join(reasons))
"""


@dataclass(frozen=True)
class Story:
    """What came of the bundle."""

    answers: list[str]
    confined: dict[str, dict[str, str]]
    free: dict[str, dict[str, str]]
    whole: SiteHome
    facts: dict[str, dict[str, Any]]
    statuses: dict[str, str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    if not abi()[0]:
        pytest.skip(f"this machine cannot confine: {abi()[1]}")
    root = tmp_path_factory.mktemp("hostile")
    person = root / "person"
    (person / ".ssh").mkdir(parents=True)
    (person / ".ssh" / "id_ed25519").write_text("a key to somewhere else")
    with pytest.MonkeyPatch.context() as patch, Supervisor() as supervisor, doors(root) as targets:
        patch.setenv("HOME", str(person))
        patch.setenv("STUDIO_SECRET", "of no business to Flower")
        yield played(prepare(root / "d"), supervisor, person, targets)


@contextlib.contextmanager
def doors(root: Path) -> Iterator[dict[str, Any]]:
    """Open what other programs of the user have open: sockets by TCP, with a path and abstract; shared memory."""
    abstract, path = f"\0bottega-{os.getpid()}", str(root / "other.sock")
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for address in (abstract, path):
            door = stack.enter_context(socket.socket(socket.AF_UNIX))
            door.bind(address)
            door.listen()
        shared = stack.enter_context(shared_memory(SHARED))
        yield {"port": tcp.getsockname()[1], "abstract": abstract, "unix": path, "shared": shared}


@contextlib.contextmanager
def shared_memory(content: bytes) -> Iterator[int]:
    """Share memory as a drawing program shares its window with X11: System V's, mode 0600. Yield its number."""
    c = ctypes.CDLL(None, use_errno=True)
    c.shmat.restype = ctypes.c_void_p
    number = c.shmget(0, ctypes.c_size_t(4096), 0o1600)
    if number >= 0:
        ctypes.memmove(c.shmat(number, None, 0), content, len(content))
    try:
        yield number
    finally:
        c.shmctl(number, 0, None)


def played(premises: Premises, supervisor: Supervisor, person: Path, targets: dict[str, Any]) -> Story:
    studios = make_studios(premises.drawings, 3, 0, each=90)
    whole, confined, free = studios
    start_server(premises, supervisor, studios, RunSettings())
    start_sites(premises, supervisor, [whole])
    for studio, how in ((confined, "require"), (free, "off")):
        supervisor.start(with_flowers_own_programs(premises, studio, how))
    wait_for_sites(premises, supervisor, [whole])
    agent, roster = agent_of(premises.site(whole.name)), known_roster(premises.site(whole.name))
    peer = next(peer for peer in roster if peer.id.name == whole.name)
    facts = {}
    for name, studio in (("confined", confined), ("free", free)):
        home = premises.site(studio.name)
        facts[name] = {
            **worth_stealing(home, studio, person),
            **targets,
            "pid": agent.pid,
            "address": int(Path(f"/proc/{agent.pid}/maps").read_text().partition("-")[0], 16),
            "socket": str(premises.site(whole.name).socket),
            "server": str(roster.server.id),
            "site": (str(peer.id), peer.verify.raw.hex(), peer.sealing.raw.hex()),
            "elsewhere": str(premises.root / f"planted-by-{studio.name}"),
        }
    answers = premises.root / "answers"
    bundle = hostile_bundle(premises.root / "bundle", facts, answers)
    assert b"client/app.py" in bundle, "this bundle would not be a hostile one"
    with control(f"127.0.0.1:{read_ports(premises.server)['control']}", "start a run") as client:
        client.StartRun(StartRunRequest(fab=fab_to_proto(Fab(hashlib.sha256(bundle).hexdigest(), bundle, {}))))
    supervisor.wait("the sites' answers", lambda: answers.exists() and bool(answers.read_text()), PATIENCE_S)
    return Story(
        answers=answers.read_text().splitlines(),
        confined=loot(premises.site(confined.name)),
        free=loot(premises.site(free.name)),
        whole=premises.site(whole.name),
        facts=facts,
        statuses={
            "whole": confinement_status(premises.site(whole.name)),
            "confined": confinement_status(premises.site(confined.name)),
            "free": confinement_status(premises.site(free.name)),
        },
    )


def with_flowers_own_programs(premises: Premises, studio: StudioFolder, how: str) -> ChildProcess:
    """Return a SuperNode whose programs are Flower's, so that what a bundle brings is run."""
    home = premises.site(studio.name)
    join(
        home,
        open_house(premises.server).identity.peer,
        premises.server.roster.read_bytes(),
        premises.server.authority_certificate.read_bytes(),
    )
    settings = tomllib.loads(home.settings.read_text())
    settings |= {"server": f"127.0.0.1:{read_ports(premises.server)['fleet']}", "confine": how}
    child = supernode(home, SiteSettings.model_validate(settings))
    (home.flower / "programs" / "flower-superexec").unlink()
    return child


def agent_of(home: SiteHome) -> psutil.Process:
    return next(
        child
        for child in psutil.Process().children(recursive=True)
        if {"site", "start", str(home.root)} <= set(child.cmdline())
    )


def worth_stealing(home: SiteHome, studio: StudioFolder, person: Path) -> dict[str, Any]:
    home.cache.mkdir(exist_ok=True)
    (home.cache / "train.latents").write_bytes(b"encoded drawings")
    (home.keys / "spare").write_bytes(b"a key whose mode may be tried")
    (home.keys / "spare").chmod(0o600)
    drawing = next(path for path in sorted(studio.folder.rglob("*")) if path.suffix == ".png")
    return {
        "home": str(home.root),
        "person": str(person),
        "data": str(studio.folder),
        "drawing": str(drawing),
        "keys": {path.name: str(path) for path in home.keys.iterdir() if path.is_file()},
        "files": {
            **{path.name: str(path) for path in home.root.iterdir() if path.is_file()},
            "drawing": str(drawing),
            "cache": str(home.cache / "train.latents"),
            "ssh key": str(person / ".ssh" / "id_ed25519"),
        },
        "mode": str(home.keys / "spare"),
    }


def hostile_bundle(folder: Path, facts: dict[str, Any], answers: Path) -> bytes:
    (folder / "client").mkdir(parents=True)
    (folder / "client" / "__init__.py").write_text("")
    (folder / "client" / "facts.py").write_text(f"FACTS = { {fact['home']: fact for fact in facts.values()}!r}\n")
    (folder / "client" / "app.py").write_text((HERE / "hostile_client.py").read_text())
    (folder / "hostile.py").write_text(HOSTILE_SERVER.format(answers=str(answers)))
    app = {"publisher": "mallory", "components": {"serverapp": "hostile:app", "clientapp": "client.app:app"}}
    project = {"name": "hostile", "version": "1.0.0", "description": "", "license": "Apache-2.0", "dependencies": []}
    (folder / "pyproject.toml").write_text(tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}}))
    return bytes(build_fab_from_disk(folder))


def loot(home: SiteHome) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((home.flower / "loot.json").read_text())
    return found


def test_a_site_runs_its_installed_courier_whatever_a_bundle_brings(story: Story) -> None:
    refused = [reason for reason in story.answers if "carries no envelope" in reason]
    assert len(refused) == 1, story.answers
    assert not (story.whole.flower / "loot.json").exists()


def test_flowers_own_programs_would_run_it(story: Story) -> None:
    ran = [reason for reason in story.answers if "the bundle's code ran" in reason]
    assert len(ran) == 2, story.answers
    assert story.confined.keys() == story.free.keys()


def test_in_the_confinement_every_attempt_is_stopped(story: Story) -> None:
    got = {name for name, result in story.confined.items() if "got" in result}
    if abi()[0] < 9:  # the kernel cannot hold it back yet, and the site says so
        assert "sockets with a path" in story.statuses["confined"].partition("not held back")[2]
        got -= {"socket with a path"}
    assert got == ITS_OWN, story.confined


def test_what_stops_it_is_that_the_kernel_forbids_it(story: Story) -> None:
    forbidden = {"1", "13", "18"}  # EPERM, EACCES; EXDEV of a hard link
    by_other_means = {"read drawing by another program", "change a mode", *NEVER}
    reasons = {name: result for name, result in story.confined.items() if "stopped" in result}
    odd = {n: r for n, r in reasons.items() if r["errno"] not in forbidden and n not in by_other_means}
    assert odd == {}


def test_without_the_confinement_the_same_attempts_succeed(story: Story) -> None:
    stopped = {name for name, result in story.free.items() if "stopped" in result}
    tolerated = MACHINE_MAY_LACK | (set() if may_trace() else BY_MEMORY)
    assert stopped - tolerated == NEVER, {name: story.free[name] for name in stopped}
    facts = story.facts["free"]
    assert story.free["memory that others share"].get("got", SHARED.decode()) == SHARED.decode()
    for name, path in (("drawing", facts["drawing"]), ("key signing.key", facts["keys"]["signing.key"])):
        assert story.free[f"read {name}"]["got"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def may_trace() -> bool:
    """Whether this machine lets one process of a user trace another at all."""
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    return os.geteuid() == 0 or not yama.exists() or yama.read_text().strip() == "0"


def test_the_agent_refuses_a_task_that_the_server_did_not_sign(story: Story) -> None:
    assert "FAILED_PRECONDITION" in story.free["garbage for the agent"]["stopped"]
    forged = story.free["forged task for the agent"]["stopped"]
    assert "FAILED_PRECONDITION" in forged
    assert "signature is not by the key of the sender it names" in forged
    if abi()[0] < 9:  # later it does not reach another site's agent at all
        assert {name: story.confined[name] for name in UNBELIEVED} == {name: story.free[name] for name in UNBELIEVED}
    assert "task taken" not in (story.whole.root / "site.log").read_text()


def test_a_secret_in_the_agents_environment_is_not_handed_on(story: Story) -> None:
    assert "STUDIO_SECRET" in story.free["secret in the environment"]["stopped"]


def test_nothing_was_planted_or_changed_outside_the_flower_home(story: Story) -> None:
    for name, facts in story.facts.items():
        home = Path(facts["home"])
        by_name = Path(facts["person"], f"planted-by-{home.name}")
        planted = Path(facts["elsewhere"]), by_name, home / "planted", home / "flower" / "soft"
        assert {path.exists() for path in planted} == {name == "free"}
        assert Path(facts["mode"]).stat().st_mode & 0o777 == (0o644 if name == "free" else 0o600)


def test_the_site_says_how_it_is_confined(story: Story) -> None:
    number = abi()[0]
    for name in ("whole", "confined"):
        assert story.statuses[name].startswith(f"Landlock ABI {number}: files, ptrace")
    assert story.statuses["free"] == "off: site.toml says so"
