"""The way of an envelope through real processes: SuperLink, SuperNodes, couriers, and who may take it."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from client.agent_socket import GRPC_OPTIONS
from common.errors import IdentityError, ProcessError
from common.paths import ServerHome
from common.processes import ChildProcess, Supervisor, flower_environment
from common.programs import program
from common.proto import bottega_pb2 as pb
from common.proto import bottega_pb2_grpc as rpc
from security.enrolment import MemberKeys
from security.keys import save_supernode_key
from security.names import Role, SpiffeId
from server.bundle import run_status, stop_run, submit_run
from server.founding import add_site, found
from server.ports import read_ports
from server.settings import ServerSettings
from server.supernodes import register_supernode, unregister_supernode
from tests.e2e.test_superlink import server_process

HERE = Path(__file__).parent
FEDERATION = "way.test"
BODY_BYTES = 12 * 1024 * 1024  # three of Flower's 5 MB chunks, and three times gRPC's default limit
PRIVATE = "PRIVATE WORDS OF THE AGENT"


class EchoAgent(rpc.SiteAgentServicer):
    """The far side of the courier: it answers in upper case and backwards."""

    def Answer(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:  # noqa: ARG002, N802
        return pb.Envelope(letter=request.letter.upper(), body=request.body[::-1])

    def GetStatus(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.Status:  # noqa: ARG002, N802
        return pb.Status()


class BreakingAgent(EchoAgent):
    """An agent that breaks with words that must not leave the site."""

    def Answer(self, request: pb.Envelope, context: grpc.ServicerContext) -> pb.Envelope:  # noqa: ARG002, N802
        raise RuntimeError(PRIVATE)


@contextmanager
def agent(servicer: rpc.SiteAgentServicer, path: Path) -> Iterator[None]:
    server = grpc.server(ThreadPoolExecutor(2), options=GRPC_OPTIONS)
    rpc.add_SiteAgentServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield
    finally:
        server.stop(grace=0).wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def supernode(root: Path, server: ServerHome, name: str) -> ChildProcess:
    command = [
        program("flower-supernode"), "--superlink", f"127.0.0.1:{read_ports(server)['fleet']}",
        "--root-certificates", str(server.authority_certificate), "--auth-supernode-private-key", str(root / name),
        "--node-config", f'agent-socket="{root / name}.sock"', "--port", str(free_port()),
    ]  # fmt: skip
    return ChildProcess(name, command, root / f"{name}.log", flower_environment(root / f"{name}.flower"))


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[str]:
    """Return the names of those that still run: the program's, or the command where there is none."""
    return sorted(name for p in processes if (name := _name(p)))


def _name(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
        module = words[words.index("-m") + 1] if "-m" in words else ""
        name = module or Path([*words, "", ""][1]).name or str(words)
        return "" if process.status() == psutil.STATUS_ZOMBIE else name
    except psutil.NoSuchProcess:
        return ""


def of_home(root: Path) -> list[psutil.Process]:
    """Return every process that Flower's folders under ``root`` belong to.

    The environment tells; a command line does not, for those of Flower's own children name no folder.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("FLWR_HOME", "").startswith(str(root)):
                found.append(process)
    return found


def within(seconds: float, done: Any) -> bool:  # noqa: ANN401
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if done():
            return True
        time.sleep(0.1)
    return bool(done())


@dataclass
class Story:
    """What happened, in order, for the tests to look at."""

    echoed: dict[str, Any] = field(default_factory=dict)
    status: str = ""
    stranger_ended: bool = False
    stranger_log: str = ""
    registered: tuple[int, int] = (0, 1)
    refused_again: str = ""
    let_go_ended: bool = False
    stopped: str = ""
    stopped_twice: str = ""
    unknown_run: str = ""
    left_after_stop: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    left_after_kill: list[str] = field(default_factory=list)
    seen_at_end: list[str] = field(default_factory=list)
    left_after_end: list[str] = field(default_factory=list)
    courier_logs: str = ""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    root = tmp_path_factory.mktemp("way")
    home = ServerHome(root / "server")
    settings = ServerSettings(
        federation=FEDERATION,
        host="127.0.0.1",
        fleet_port=0,
        registry_port=0,
        door_port=0,
        control_port=0,
        metrics_port=0,
    )
    found(home, settings, ["127.0.0.1"])
    for name in ("uno", "due", "absent", "breaks", "stranger"):
        keys = MemberKeys.generate(SpiffeId(FEDERATION, Role.SITE, name))
        assert keys.supernode is not None
        save_supernode_key(root / name, keys.supernode)
        if name != "stranger":
            add_site(home, keys.public)
    # Folders of these names where a server is started must never be imported in place of ours.
    decoys = root / "decoys"
    for package in ("common", "client", "server", "flwr"):
        (decoys / package).mkdir(parents=True)
        (decoys / package / "__init__.py").write_text("raise SystemExit('a decoy was imported')")
    here, path = Path.cwd(), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parents[1]), str(HERE), path]))
    os.chdir(decoys)
    try:
        with (
            agent(EchoAgent(), root / "uno.sock"),
            agent(EchoAgent(), root / "due.sock"),
            agent(BreakingAgent(), root / "breaks.sock"),
        ):
            yield played(Story(), root, home)
    finally:
        os.chdir(here)
        os.environ.pop("PYTHONPATH") if path is None else os.environ.update(PYTHONPATH=path)


def played(story: Story, root: Path, home: ServerHome) -> Story:
    server = server_process(home)
    with Supervisor([server]) as servers:
        servers.wait("the server", home.ports.exists, 60)
        control = f"127.0.0.1:{read_ports(home)['control']}"
        children = {name: supernode(root, home, name) for name in ("uno", "due", "absent", "breaks")}
        stranger = supernode(root, home, "stranger")
        with Supervisor([stranger]), Supervisor(children.values()) as supervisor:
            _echo(story, root, control, supervisor)
            story.stranger_ended = within(20, lambda: _ended(stranger))
            story.stranger_log = Path(str(stranger.log)).read_text()
            _come_and_go(story, root, control, children["due"])
            _stop(story, control, server)
            _kill(story, control, server)
            story.seen_at_end = alive(of_home(root))
    story.left_after_end = [] if within(15, lambda: not alive(of_home(root))) else alive(of_home(root))
    story.courier_logs = "".join((root / f"{name}.log").read_text() for name in children)
    return story


def _ended(child: ChildProcess) -> bool:
    try:
        child.check()
    except ProcessError:
        return True
    return False


def _echo(story: Story, root: Path, control: str, supervisor: Supervisor) -> None:
    out = root / "echoed.json"
    config = {"out": str(out), "sites": "4", "bytes": str(BODY_BYTES), "rounds": "1"}
    number = submit_run(control, config, "echo_serverapp:app")
    supervisor.wait("the echo run", out.exists, 90)
    story.echoed = json.loads(out.read_text())
    assert within(10, lambda: run_status(control, number).status == "finished")
    story.status = run_status(control, number).outcome


def _come_and_go(story: Story, root: Path, control: str, due: ChildProcess) -> None:
    key = (root / "stranger.pub").read_bytes()
    story.registered = (register_supernode(control, "stranger", key), register_supernode(control, "stranger", key))
    unregister_supernode(control, key)
    unregister_supernode(control, key)
    with pytest.raises(IdentityError) as caught:
        register_supernode(control, "stranger", key)
    story.refused_again = str(caught.value)
    unregister_supernode(control, (root / "due.pub").read_bytes())
    story.let_go_ended = within(20, lambda: _ended(due))


def _stop(story: Story, control: str, server: ChildProcess) -> None:
    number = _waiting_run(control, server)
    apps = _serverapps(server)
    stop_run(control, number)
    story.stopped = run_status(control, number).outcome
    story.left_after_stop = [] if within(15, lambda: not alive(apps)) else alive(apps)
    with pytest.raises(ProcessError) as caught:
        stop_run(control, number)
    story.stopped_twice = str(caught.value)
    with pytest.raises(ProcessError) as caught:
        run_status(control, 12345)
    story.unknown_run = str(caught.value)


def _kill(story: Story, control: str, server: ChildProcess) -> None:
    _waiting_run(control, server)
    family = descendants(server.pid or 0)
    story.killed = alive(family)
    os.kill(server.pid or 0, signal.SIGKILL)
    story.left_after_kill = [] if within(20, lambda: not alive(family)) else alive(family)


def _waiting_run(control: str, server: ChildProcess) -> int:
    number = submit_run(control, {"out": ""}, "echo_serverapp:app")
    assert within(30, lambda: run_status(control, number).status == "running" and _serverapps(server))
    return number


def _serverapps(server: ChildProcess) -> list[psutil.Process]:
    return [p for p in descendants(server.pid or 0) if any("flwr-serverapp" in word for word in _words(p))]


def _words(process: psutil.Process) -> list[str]:
    """Return the command line; nothing of a process that has just ended."""
    with suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def answers(story: Story) -> list[str]:
    return sorted(story.echoed["rounds"][0]["answers"].values())


def test_what_the_agent_answers_comes_back_whole(story: Story) -> None:
    assert answers(story).count("echoed") == 2


def test_an_agent_that_is_absent_or_breaks_gives_an_error_without_its_words(story: Story) -> None:
    errors = [a for a in answers(story) if a != "echoed"]
    assert len(errors) == 2
    assert sum("got UNAVAILABLE" in e for e in errors) == 1
    assert sum("got UNKNOWN" in e for e in errors) == 1
    assert all(PRIVATE not in e for e in errors)


def test_one_body_for_four_sites_is_pushed_once(story: Story) -> None:
    body = story.echoed["body_bytes"]
    assert body == BODY_BYTES
    assert body < story.echoed["pushed_bytes"] < 1.01 * body


def test_a_run_of_installed_code_completes_beside_decoys(story: Story) -> None:
    assert story.status == "completed"
    assert "a decoy was imported" not in story.courier_logs


def test_a_supernode_that_nobody_registered_is_turned_away(story: Story) -> None:
    assert story.stranger_ended
    assert "Failed to initialize the connection to the SuperLink" in story.stranger_log
    assert len(story.echoed["rounds"][0]["answers"]) == 4


def test_registering_and_letting_go_are_idempotent_and_a_key_let_go_is_spent(story: Story) -> None:
    first, second = story.registered
    assert first == second != 0
    assert "let go before" in story.refused_again


def test_a_supernode_that_is_let_go_is_cut_off_at_once(story: Story) -> None:
    assert story.let_go_ended


def test_a_stopped_run_ends_its_serverapp(story: Story) -> None:
    assert story.stopped == "stopped"
    assert story.left_after_stop == []
    assert "did not stop the run" in story.stopped_twice
    assert "already finished" in story.stopped_twice.lower()


def test_an_unknown_run_is_an_error(story: Story) -> None:
    assert "did not say where the run stands" in story.unknown_run


def test_a_server_killed_mid_run_leaves_no_process(story: Story) -> None:
    assert "server.superexec_process" in story.killed
    assert "flwr-serverapp" in story.killed
    assert story.left_after_kill == []


def test_at_the_end_no_process_of_the_federation_is_left(story: Story) -> None:
    assert story.seen_at_end.count("flower-supernode") == 3  # the test would see them
    assert story.seen_at_end.count("flower-superexec") == 3
    assert story.left_after_end == []
