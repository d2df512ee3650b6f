"""Nothing leaves uninvited: a whole federation sends no packet to anybody but its own server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.observed import OUTSIDE

ROOT = Path(__file__).resolve().parents[2]
UNSHARE = [shutil.which("unshare") or "unshare", "--map-root-user", "--net"]


def can_have_a_network_of_its_own() -> bool:
    if not Path("/dev/net/tun").exists() or shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_have_a_network_of_its_own(), reason="needs Linux network namespaces and /dev/net/tun")
def test_a_whole_federation_sends_no_packet_but_to_its_own_addresses(tmp_path: Path) -> None:
    # As at a person's: the settings that keep libraries from calling home must come from bottega itself.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("FLWR_", "HF_"))}
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-P", "-m", "tests.e2e.observed", str(tmp_path / "town")], check=False,
        cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["status"] == "finished", found
    assert found["outcomes"] == ["aggregated", "measured"]
    assert found["left"] == [], "these packets would have left the machine"
    assert OUTSIDE in found["seen"], "a packet that leaves on purpose is caught"
