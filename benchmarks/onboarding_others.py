"""The same way with others, for :mod:`benchmarks.onboarding`: NVIDIA FLARE's ``nvflare cert``, and Flower with openssl.

Both really run. What they run is as little as they can run: adding one to a few numbers, with no model and no drawings.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
from flwr.supercore.control import ControlHttpClient

from benchmarks.onboarding_journey import Journey, online, quiet, run, start, wait
from benchmarks.round_overhead import CLIENT_APP, PROJECT, SERVER_APP
from common.errors import ProcessError
from common.programs import program
from server.ports import free_port

SITES = ("rossi", "weiss")
_ROUND_CLOSED = "Finished FedAvg."  # in the log of FLARE's server for a job of one round

_PROFILE = """\
name: studios
scheme: grpc
connection_security: mtls
server:
  host: localhost
  fed_learn_port: {port}
  admin_port: {admin}
"""
_PARTICIPANT = """\
name: studios
participants:
  - name: {name}
    type: {type}
    org: studios
"""
_TRAIN = """\
import numpy as np
import nvflare.client as flare

flare.init()
while flare.is_running():
    got = flare.receive()
    flare.send(flare.FLModel(params={k: np.asarray(v) + 1.0 for k, v in got.params.items()}, metrics={"accuracy": 0.0}))
"""
_JOB = """\
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe

NumpyFedAvgRecipe(name="trivial", model=[1.0], min_clients=2, num_rounds=1, train_script="train.py").export("exported")
"""


def by_nvflare(root: Path, python: Path) -> Journey:
    """Go the way of ``nvflare cert``, where each key is made by whoever will hold it.

    Args:
        root: An empty folder.
        python: Of a virtual environment with ``nvflare``.
    """
    journey = Journey("NVIDIA FLARE, nvflare cert")
    environment = quiet(root / "home", python.parent)
    nvflare = str(python.parent / "nvflare")
    _write_nvflare(root)
    journey.by_hand = 7  # the profile, four participants, the job and what it trains
    with ExitStack() as ended:
        with journey.typed("nvflare cert init"):
            run([nvflare, "cert", "init", "--profile", "profile.yaml", "-o", "ca"], root, environment)
        fingerprint = json.loads((root / "ca" / "ca.json").read_text("utf-8"))["rootCA_fingerprint"]
        names = {"localhost": "localhost", **{site: site for site in SITES}, "anna": "anna@studios.example"}
        for file, name in names.items():
            with journey.typed("nvflare cert request"):
                run([nvflare, "cert", "request", "-p", f"{file}.yaml"], root, environment)
            with journey.typed("nvflare cert approve"):
                words = ["cert", "approve", f"{name}/{name}.request.zip", "-c", "ca", "--profile", "profile.yaml"]
                run([nvflare, *words], root, environment)
            with journey.typed("nvflare package"):
                words = ["package", f"{name}/{name}.signed.zip", "--fingerprint", fingerprint, "-w", "workspace"]
                run([nvflare, *words], root, environment)
            # The server's machine is where the authority is, so what is carried is the sites' and the operator's.
            journey.carried += 0 if file == "localhost" else 3  # the request, the answer, the fingerprint
        kits = root / "workspace" / "studios" / "prod_00"
        seen = kits / "localhost" / "log.txt"
        told = {"localhost": "Server started", **{site: f"New client {site}@" for site in SITES}}
        for name, words_in_log in told.items():
            with journey.typed("startup/start.sh"):
                start(["./startup/start.sh"], root / f"{name}.out", kits / name, environment, ended)
                wait(f"FLARE's {name}", lambda wanted=words_in_log: wanted in _text(seen))  # type: ignore[misc]
        journey.connected_s = journey.so_far_s
        _run_nvflare_job(journey, root, str(python), nvflare, environment)
    return journey


def by_flower(root: Path) -> Journey:
    """Go the way of Flower's own documentation: certificates by openssl, SuperNode keys by ssh-keygen.

    Args:
        root: An empty folder.
    """
    journey = Journey("Flower, openssl")
    environment = quiet(root / "home", Path(sys.executable).parent) | {"FLWR_HOME": str(root / "home" / ".flwr")}
    port, app = free_port("127.0.0.1"), _write_flower(root)
    journey.by_hand = 4  # the app's three files, and config.toml
    (root / "home" / ".flwr").mkdir()
    (root / "home" / ".flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "studios"\n[superlink.studios]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{root / "ca.crt"}"\n', "utf-8",
    )  # fmt: skip
    with ExitStack() as ended:
        for words in _openssl():
            with journey.typed(" ".join(words[:2])):
                run(words, root, environment)
        for site in SITES:
            with journey.typed("ssh-keygen"):
                run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", site], root, environment)
            journey.carried += 2  # the public key to the operator, the authority's certificate to the site
        link = [
            program("flower-superlink"), "--ssl-certfile", "server.crt", "--ssl-keyfile", "server.key",
            "--ssl-ca-certfile", "ca.crt", "--enable-supernode-auth", "--database", "state.db",
            "--host", "127.0.0.1", "--port", str(port),
        ]  # fmt: skip
        client = ControlHttpClient(f"https://127.0.0.1:{port}", verify=str(root / "ca.crt"))
        ended.callback(client.close)
        with journey.typed("flower-superlink"):
            start(link, root / "superlink.out", root, environment, ended)
            wait("Flower's SuperLink", lambda: _answers(client))
        for site in SITES:
            with journey.typed("flwr supernode register"):
                run([program("flwr"), "supernode", "register", f"{site}.pub", "studios"], root, environment)
        for number, site in enumerate(SITES, 1):
            node = [
                program("flower-supernode"), "--superlink", f"127.0.0.1:{port}", "--root-certificates", "ca.crt",
                "--auth-supernode-private-key", site, "--port", str(free_port("127.0.0.1")),
            ]  # fmt: skip
            with journey.typed("flower-supernode"):
                start(node, root / f"{site}.out", root, environment, ended)
                wait("a SuperNode", lambda wanted=number: online(client) == wanted)  # type: ignore[misc]
        journey.connected_s = journey.so_far_s
        marks = root / "marks.json"
        config = f'numbers="{root / "numbers.json"}" rounds=1 marks="{marks}"'
        with journey.typed("flwr run"):
            run([program("flwr"), "run", str(app), "studios", "--run-config", config], root, environment)
            wait("a round of Flower's", marks.exists)
        journey.round_s = journey.steps[-1][1]
    if len(json.loads(marks.read_text("utf-8"))) != 2:
        raise ProcessError("a round of Flower's did not have both replies")
    return journey


def _write_nvflare(root: Path) -> None:
    port, admin = free_port("127.0.0.1"), free_port("127.0.0.1")
    (root / "profile.yaml").write_text(_PROFILE.format(port=port, admin=admin), "utf-8")
    for name, kind in (("localhost", "server"), *((site, "client") for site in SITES)):
        (root / f"{name}.yaml").write_text(_PARTICIPANT.format(name=name, type=kind), "utf-8")
    lead = _PARTICIPANT.format(name="anna@studios.example", type="admin") + "    role: lead\n"
    (root / "anna.yaml").write_text(lead, "utf-8")
    (root / "train.py").write_text(_TRAIN, "utf-8")
    (root / "job.py").write_text(_JOB, "utf-8")


def _run_nvflare_job(journey: Journey, root: Path, python: str, nvflare: str, environment: dict[str, str]) -> None:
    kits = root / "workspace" / "studios" / "prod_00"
    with journey.typed("python job.py"):
        run([python, "job.py"], root, environment)
    with journey.typed("nvflare job submit"):
        kit = ["--startup-kit", str(kits / "anna@studios.example")]
        told = run([nvflare, "job", "submit", "-j", "exported/trivial", *kit], root, environment)
        found = re.search(r"job_id: (\S+)", told)
        if found is None:
            raise ProcessError("FLARE gave the job no id", got=told[-200:])
        log = kits / "localhost" / found[1] / "log.txt"
        wait("a round of FLARE's", lambda: _ROUND_CLOSED in _text(log))
    journey.round_s = journey.steps[-1][1]


def _write_flower(root: Path) -> Path:
    app = root / "app"
    (app / "stockround").mkdir(parents=True)
    (app / "pyproject.toml").write_text(PROJECT, "utf-8")
    for name, text in (("__init__", ""), ("server_app", SERVER_APP), ("client_app", CLIENT_APP)):
        (app / "stockround" / f"{name}.py").write_text(text, "utf-8")
    (root / "numbers.json").write_text("[1]", "utf-8")
    return app


def _openssl() -> list[list[str]]:
    """Return the three commands that make an authority and the server's certificate, all of them ECDSA P-256."""
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    own = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    authority = ["-days", "365", "-subj", "/CN=studios"]
    signed_by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-copy_extensions", "copyall"]
    return [
        ["openssl", "req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.crt", *authority],
        ["openssl", "req", *new, "-keyout", "server.key", "-out", "server.csr", *own],
        ["openssl", "x509", "-req", "-in", "server.csr", *signed_by, "-days", "90", "-out", "server.crt"],
    ]


def _answers(client: ControlHttpClient) -> bool:
    try:
        return online(client) == 0
    except httpx.HTTPError:
        return False


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", errors="replace")
    except OSError:
        return ""
