"""The whole thing: real processes, real gRPC and TLS, a real SuperLink, and a report at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from common.export import read_adapter

BOTTEGA = [sys.executable, "-P", "-m", "deploy.cli"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def bottega(*words: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    command = [*BOTTEGA, *words]
    return subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout, check=False
    )


@contextmanager
def running(*words: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    with (cwd / "out.log").open("w") as out:
        process = subprocess.Popen([*BOTTEGA, *words], cwd=cwd, env=ENVIRONMENT, stdout=out, stderr=out, text=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def processes_of(home: Path) -> list[int]:
    """Return the processes whose command line names the demo's home."""
    alive = psutil.process_iter(["cmdline"])
    return [p.pid for p in alive if any(str(home) in word for word in p.info["cmdline"] or [])]


def wait_until(what: Any, seconds: float) -> bool:  # noqa: ANN401
    patience = time.monotonic() + seconds
    while time.monotonic() < patience:
        if what():
            return True
        time.sleep(0.2)
    return False


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Run one small demo, with a site that does no work, for several tests to look at."""
    where = tmp_path_factory.mktemp("demo")
    words = ("--sites", "2", "--rounds", "2", "--poison", "idler=free-rider-zero", "--keep", "--json")
    done = bottega("demo", "--home", "d", *words, cwd=where)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 1, "with --json nothing else is printed"
    return where / "d", json.loads(lines[0])


def test_in_every_round_the_honest_are_averaged_and_who_did_no_work_is_not(demo: tuple[Path, dict[str, Any]]) -> None:
    rounds = demo[1]["rounds"]
    idle = [{"site": "idler", "check": "copy", "reason": "the update of idler changes nothing"}]
    assert [(r["round"], r["admitted"], r["refused"]) for r in rounds] == [(1, 2, idle), (2, 2, idle)]
    assert all(r["seconds"] > 0 for r in rounds)
    page = Path(demo[1]["report"]).read_text(encoding="utf-8")
    assert page.count("the update of idler changes nothing") == 2


def test_the_report_says_that_rounds_of_so_few_are_not_judged_by_the_detector(
    demo: tuple[Path, dict[str, Any]],
) -> None:
    assert {r["unsure"] for r in demo[1]["rounds"]} == {"there is no rehearsal of this run to know honest updates from"}
    assert "In 2 of 2 rounds the detector itself could not judge" in Path(demo[1]["report"]).read_text("utf-8")


def test_the_held_out_loss_falls_at_every_site(demo: tuple[Path, dict[str, Any]]) -> None:
    result = demo[1]
    assert result["held_out_loss_after"] < result["held_out_loss_before"]
    for curve in result["curves"].values():
        assert list(curve) == ["0", "1", "2"]
        assert curve["2"] < curve["0"]


def test_the_adapter_was_tried_on_public_drawings_before_it_was_released(demo: tuple[Path, dict[str, Any]]) -> None:
    check = demo[1]["check"]
    assert check["words"].startswith("on 64 public drawings like the sites' own it ")
    page = Path(demo[1]["report"]).read_text(encoding="utf-8")
    assert "Before it was released it was tried: on 64 public drawings" in page
    (picture,) = demo[0].rglob("check-*.png")
    assert picture.stat().st_mode & 0o077 == 0
    with Image.open(picture) as page_of_prompts:
        assert page_of_prompts.size == (4 * 64, 2 * 64)


def test_the_run_is_private_and_says_what_each_site_spent(demo: tuple[Path, dict[str, Any]]) -> None:
    result = demo[1]
    assert (result["privacy"]["epsilon"], result["privacy"]["unit"]) == (8.0, "drawing")
    first, last = (result["rounds"][at]["epsilon"] for at in (0, 1))
    assert result["privacy"]["spent"] == last
    assert last.keys() == {*result["sites"], "idler"}
    assert all(0 < first[site] < last[site] <= 8.0 for site in last)
    assert "\u03b5" in Path(result["report"]).read_text(encoding="utf-8")


def test_the_record_holds_and_every_round_is_done_again_from_it_alone(demo: tuple[Path, dict[str, Any]]) -> None:
    audit = demo[1]["audit"]
    assert audit["faults"] == []
    assert (audit["replayed"], audit["different"]) == (3, [])
    assert audit["witnesses"].keys() == {*demo[1]["sites"], "idler"}
    elsewhere = demo[0].parent
    verified = bottega("audit", "verify", "--bundle", audit["bundle"], "--key", audit["key"], "--json", cwd=elsewhere)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    again = bottega("audit", "replay", "last", "--bundle", audit["bundle"], "--key", audit["key"], cwd=elsewhere)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "3 rounds of" in again.stdout


def test_the_same_prompts_are_drawn_round_by_round_into_the_servers_home(demo: tuple[Path, dict[str, Any]]) -> None:
    words = ("run", "draw", demo[1]["run"], "--home", str(demo[0] / "server"), "--steps", "10", "--json")
    prompts = ("--prompt", "a chair", "--prompt", "a tree, a charcoal drawing")
    done = bottega(*words, *prompts, cwd=demo[0].parent)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert [row["round"] for row in told] == [1, 2]
    first, last = (np.asarray(Image.open(row["file"])) for row in told)
    assert first.shape == last.shape == (64, 128, 3)
    assert (first != last).any(), "a round's picture is drawn with that round's adapter"
    again = bottega(*words, *prompts, "--round", "2", cwd=demo[0].parent)
    assert [row["round"] for row in json.loads(again.stdout)] == [2]
    assert (np.asarray(Image.open(told[1]["file"])) == last).all()
    refused = bottega(*words, *prompts, "--round", "7", cwd=demo[0].parent)
    assert refused.returncode == 1
    assert "there is no adapter of these rounds" in refused.stderr
    assert len(list(Path(told[0]["file"]).parent.glob("round-*.png"))) == 2


def test_nothing_of_the_drawings_is_in_the_record(demo: tuple[Path, dict[str, Any]]) -> None:
    with zipfile.ZipFile(demo[1]["audit"]["bundle"]) as bundle:
        names = [name for name in bundle.namelist() if name.startswith("entries/")]
        entries = b"".join(bundle.read(name) for name in names)
    assert b'"kind":"round-closed"' in entries
    for private in (b"blueprint", b"sanguine", b"0001.png", b"metadata.jsonl"):
        assert private not in entries


def test_the_distance_to_the_studios_drawings_falls(demo: tuple[Path, dict[str, Any]]) -> None:
    assert demo[1]["fid_after"] < demo[1]["fid_before"]


def test_the_report_is_one_file_that_asks_for_nothing_else(demo: tuple[Path, dict[str, Any]]) -> None:
    page = Path(demo[1]["report"]).read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert all(word not in page for word in ("http://", "https://", "<script", 'src="/'))
    assert page.count("<figure>") == 3 * 2


def test_the_adapter_is_one_that_can_be_used(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    adapter = read_adapter(Path(demo[1]["adapter"]))
    assert float(abs(adapter.b).max()) > 0
    drawn = bottega(
        "draw", "--adapter", demo[1]["adapter"], "--prompt", "a blueprint drawing of a bridge", "--steps", "4",
        "--credentials", "key", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr[-2000:]
    assert [Path(tmp_path, row["file"]).is_file() for row in json.loads(drawn.stdout)] == [True]


def test_the_adapter_is_what_the_federation_released(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    for home in ("server", f"sites/{demo[1]['sites'][0]}"):
        folder = str(Path(demo[1]["adapter"]).parent)
        done = bottega("adapter", "verify", folder, "--home", str(demo[0] / home), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_nothing_but_ciphertext_reached_the_superlinks_disk(demo: tuple[Path, dict[str, Any]]) -> None:
    kept = b"".join(f.read_bytes() for f in (demo[0] / "server" / "flower").rglob("*") if f.is_file())
    assert len(kept) > 100_000, "the SuperLink kept nothing: this test looks in the wrong place"
    for plain in (b"lora_A", b"lora_B", b"bottega.adapter", b"held_out_loss", b"blueprint", b"file_name"):
        assert plain not in kept


def test_no_caption_or_file_name_is_in_any_log_or_in_the_servers_home(demo: tuple[Path, dict[str, Any]]) -> None:
    server = demo[0] / "server"
    logs = list(demo[0].rglob("*.log"))
    assert len(logs) == 4  # the server's and three sites'; what Flower's processes say is in them
    for file in [*logs, *(f for f in server.rglob("*") if f.is_file())]:
        content = file.read_bytes()
        for private in (b"blueprint", b"sanguine", b"0001.png", b"metadata.jsonl"):
            assert private not in content, f"{file.name} tells of the drawings"


def test_no_process_is_left(demo: tuple[Path, dict[str, Any]]) -> None:
    assert processes_of(demo[0]) == []


def test_private_keys_are_the_owners_alone(demo: tuple[Path, dict[str, Any]]) -> None:
    keys = [f for f in demo[0].rglob("keys/*") if f.suffix not in {".pub", ".pem"}]
    assert len(keys) >= 8
    assert {f.stat().st_mode & 0o777 for f in keys} == {0o600}


def test_ctrl_c_ends_everything_and_the_next_demo_starts_afresh(tmp_path: Path) -> None:
    home = tmp_path / "d"
    with running("demo", "--home", "d", "--sites", "2", "--rounds", "50", cwd=tmp_path) as process:
        assert wait_until(lambda: len(processes_of(home)) >= 3, 90), (tmp_path / "out.log").read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
    assert wait_until(lambda: processes_of(home) == [], 10), processes_of(home)
    said = (tmp_path / "out.log").read_text()
    assert "Traceback" not in said
    assert "stopped" in said
    with running("demo", "--home", "d", "--sites", "2", "--rounds", "50", cwd=tmp_path) as process:
        assert wait_until((home / "server" / "ports.json").exists, 90), (tmp_path / "out.log").read_text()
        process.kill()  # the demo itself dies without a word; what it started must go all the same
        process.wait()
        assert wait_until(lambda: processes_of(home) == [], 30), processes_of(home)


def test_a_folder_that_is_not_a_demos_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "d" / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    done = bottega("demo", "--home", "d", cwd=tmp_path)
    assert done.returncode == 1
    assert "not a demo's" in done.stderr.replace("\n", " ")
    assert precious.read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["demo", "--data", "nowhere"], "the folder of drawings is not there"),
        (["demo", "--sites", "9"], "not so many procedural studios"),
        (["draw", "--prompt", "x", "--adapter", "nowhere"], "there is no adapter"),
        (["draw", "--prompt", "x", "--base", "nowhere"], "there is no such base"),
        (["server", "start", "--home", "nowhere"], "no federation server in this folder"),
        (["site", "start", "--home", "nowhere"], "no site in this folder"),
        (["run", "start", "--home", "nowhere"], "no federation server in this folder"),
        (["run", "list", "--home", "nowhere"], "no federation server in this folder"),
        (["data", "check", "nowhere"], "does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_no_traceback(words: list[str], says: str, tmp_path: Path) -> None:
    done = bottega(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
