"""Runs carry no code: the bundle that Flower is given names installed apps and holds none."""

from __future__ import annotations

import importlib
import io
import socket
import tomllib
import zipfile

import pytest

from common.errors import ProcessError
from server.app import app as server_app
from server.bundle import CLIENT_APP, SERVER_APP, build_bundle, run_status, stop_run, submit_run


def opened(config: dict[str, str]) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(build_bundle(config)))


def test_the_bundle_holds_no_code() -> None:
    names = opened({"run": "r1"}).namelist()
    # A file list, and not a rule about endings: whatever is added must be looked at.
    assert sorted(names) == [".info/CONTENT", "README.md", "pyproject.toml"]


def test_the_bundle_names_the_installed_apps_and_depends_on_nothing() -> None:
    project = tomllib.loads(opened({"run": "r1"}).read("pyproject.toml").decode())
    assert project["tool"]["flwr"]["app"]["components"] == {
        "serverapp": "server.app:app", "clientapp": "client.app:app",
    }  # fmt: skip
    assert project["tool"]["flwr"]["app"]["config"] == {"run": "r1"}
    assert [d for d in project["project"]["dependencies"] if not d.startswith("flwr")] == []


def test_the_named_apps_are_there() -> None:
    for name in (SERVER_APP, CLIENT_APP):
        module, attribute = name.split(":")
        assert getattr(importlib.import_module(module), attribute) is not None
    assert server_app is importlib.import_module("server.app").app


def test_a_config_cannot_break_out_of_its_string() -> None:
    strange = 'r1"\n[tool.flwr.app.components]\nserverapp = "evil:app'
    project = tomllib.loads(opened({"run": strange}).read("pyproject.toml").decode())
    assert project["tool"]["flwr"]["app"]["config"]["run"] == strange
    assert project["tool"]["flwr"]["app"]["components"]["serverapp"] == "server.app:app"


def test_where_no_superlink_runs_it_is_said_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        nowhere = f"127.0.0.1:{taken.getsockname()[1]}"
        for asked in (
            lambda: submit_run(nowhere, {"run": "r1"}),
            lambda: run_status(nowhere, 1),
            lambda: stop_run(nowhere, 1),
        ):
            with pytest.raises(ProcessError, match=r"the SuperLink did not .*Connection refused.*Start the server"):
                asked()
