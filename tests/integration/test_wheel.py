"""The built wheel, not only the checkout: installed in an environment of its own, run beside decoys."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DECOY = 'raise SystemExit("a decoy was imported")\n'


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(target.glob("bottega-*.whl"))


def test_the_wheel_holds_the_base_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "common/base/model/unet/diffusion_pytorch_model.safetensors",
        "common/base/model/tokenizer/tokenizer.json",
        "common/base/classifier/model.safetensors",
        "common/proto/bottega.proto",
        "common/proto/enrolment.proto",
        "common/proto/roster.proto",
        "deploy/pages/report.html",
        "security/py.typed",
    ):
        assert needed in names
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/", "docs/"))]


def test_the_installed_command_ignores_decoys_in_the_current_folder(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "environment"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    # The dependencies are those of this environment: what a path file adds is not searched for path files in turn, so
    # an editable bottega here does not come along.
    site = next((home / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    folder = tmp_path / "elsewhere"
    for name in ("common", "security", "client", "server", "deploy"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(DECOY, encoding="utf-8")
    drawn = subprocess.run(
        [
            home / "bin" / "bottega", "draw", "--prompt", "an ink drawing of a boat", "--steps", "2", "--out", "out",
            "--credentials", "key",
        ],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr[-2000:]
    assert len(list((folder / "out").glob("*.png"))) == 1
    where = subprocess.run(
        [python, "-P", "-c", "import common.models as m; print(m.__file__)"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(site)
