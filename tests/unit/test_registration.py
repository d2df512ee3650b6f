"""Who may connect to the SuperLink: the SuperNodes whose keys the roster has, and no one who was let go."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path

import pytest
from fastapi import FastAPI
from flwr.superlink.main import create_app

from common.errors import IdentityError, ProcessError
from security.keys import create_supernode_key
from server.ports import bound
from server.superlink import _register
from server.supernodes import flower_key, register_supernode, unregister_supernode


@pytest.fixture
def superlink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    monkeypatch.setenv("FLWR_DATABASE", str(tmp_path / "superlink.db"))
    app: FastAPI = create_app()
    return app


def keys(folder: Path, *names: str) -> dict[str, bytes]:
    for name in names:
        create_supernode_key(folder / name)
    return {name: (folder / f"{name}.pub").read_bytes() for name in names}


def number(superlink: FastAPI, key: bytes) -> int | None:
    found: int | None = superlink.state.linkstate_factory.state().get_node_id_by_public_key(flower_key(key))
    return found


def test_a_site_whose_key_was_taken_away_is_let_go_at_the_next_start(superlink: FastAPI, tmp_path: Path) -> None:
    files = keys(tmp_path, "anna", "bruno")
    _register(superlink, files)
    assert number(superlink, files["anna"]) is not None
    assert number(superlink, files["bruno"]) is not None
    _register(superlink, {"anna": files["anna"]})
    assert number(superlink, files["anna"]) is not None
    assert number(superlink, files["bruno"]) is None


def test_a_site_that_stays_keeps_its_number_over_restarts(superlink: FastAPI, tmp_path: Path) -> None:
    files = keys(tmp_path, "anna", "bruno")
    _register(superlink, files)
    before = number(superlink, files["anna"])
    for _ in range(2):
        _register(superlink, {"anna": files["anna"]})
    assert number(superlink, files["anna"]) == before


def test_a_key_that_was_let_go_does_not_come_back(superlink: FastAPI, tmp_path: Path) -> None:
    files = keys(tmp_path, "anna", "bruno")
    _register(superlink, files)
    _register(superlink, {})
    with pytest.raises(IdentityError, match=r"let go before.*got anna.*Make a new SuperNode key"):
        _register(superlink, {"anna": files["anna"]})
    assert number(superlink, files["anna"]) is None


@pytest.mark.parametrize("change", [partial(register_supernode, name="anna"), unregister_supernode])
def test_where_no_superlink_runs_it_is_said_with_what_to_do(change: object, tmp_path: Path) -> None:
    key = keys(tmp_path, "anna")["anna"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        with pytest.raises(ProcessError, match=r"change of its SuperNodes.*Connection refused.*Start the server"):
            change(f"127.0.0.1:{taken.getsockname()[1]}", public_key=key)  # type: ignore[operator]


@pytest.mark.parametrize("content", [b"", b"ssh-ed25519 AAAA", b"\x00\xff"])
def test_what_is_no_supernode_key_is_refused_before_anyone_is_asked(content: bytes) -> None:
    with pytest.raises(IdentityError):
        register_supernode("127.0.0.1:1", "anna", content)


def test_a_port_is_taken_from_the_first_moment() -> None:
    with bound("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ProcessError, match=f"port {port} on 127.0.0.1 cannot be taken"), bound("127.0.0.1", port):
            pass
    with bound("127.0.0.1", port):
        pass
