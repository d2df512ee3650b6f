"""The house's floors: which folder may import which, and who may make what."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {"common": 0, "security": 1, "client": 2, "server": 2, "deploy": 3}


def modules() -> Iterator[Path]:
    for floor in FLOORS:
        yield from sorted((ROOT / floor).rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.relative_to(ROOT)}:{node.lineno}: relative import"
            yield node.module or ""


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph() -> dict[str, set[str]]:
    """Return who imports whom, at import time (an import inside a function or under TYPE_CHECKING does not count)."""
    names = {name_of(f): f for f in modules()}
    found: dict[str, set[str]] = {}
    for name, file in names.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        used = set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                used |= {
                    f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in names else node.module for a in node.names
                }
            elif isinstance(node, ast.Import):
                used |= {a.name for a in node.names}
        found[name] = {u for u in used if u in names}
    return found


def test_no_arrow_runs_against_the_floors() -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {used}"
        for file in modules()
        for used in imports(file)
        if (other := used.split(".")[0]) in FLOORS
        and other != file.relative_to(ROOT).parts[0]
        and FLOORS[other] >= FLOORS[file.relative_to(ROOT).parts[0]]
    ]
    assert wrong == []


def test_no_cycles() -> None:
    arrows = graph()
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for used in sorted(arrows[name]):
            visit(used, (*path, name))
        done.add(name)

    for name in arrows:
        visit(name, ())
    assert len(done) == len(arrows) > 40


@pytest.mark.parametrize(
    ("made", "where"), [("AdmittedUpdate", "security/admission.py"), ("Rotation", "security/rotation.py")]
)
def test_only_one_place_makes(made: str, where: str) -> None:
    makers = [
        str(file.relative_to(ROOT))
        for file in modules()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == made
    ]
    assert makers == [where]


def test_sums_that_carry_their_bound_come_from_clipping() -> None:
    """Noise is calibrated from the bound of a `Clipped`: who makes one by hand could claim any."""
    # The server's mean of updates that were each clipped before: it never has all of them in memory at once.
    named = {"server/site_privacy.py": 1}
    makers = [
        str(file.relative_to(ROOT))
        for file in modules()
        if file != ROOT / "security" / "clipping.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Clipped"
    ]
    assert Counter(makers) == named


def test_nothing_is_ever_unpickled() -> None:
    banned = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert [f"{f.relative_to(ROOT)}: {i}" for f in modules() for i in imports(f) if i.split(".")[0] in banned] == []


def test_torch_load_reads_weights_only() -> None:
    for file in modules():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), file.relative_to(ROOT)


def test_the_courier_and_the_round_loop_import_no_torch() -> None:
    heavy = {"torch", "diffusers", "transformers", "peft", "accelerate", "datasets"}
    arrows = graph()

    def reached(name: str, seen: set[str]) -> set[str]:
        if name not in seen:
            seen.add(name)
            for used in arrows[name]:
                reached(used, seen)
        return seen

    for start in ("client.app", "server.app"):
        for name in reached(start, set()):
            file = ROOT / Path(*name.split("."))
            file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
            assert heavy.isdisjoint(i.split(".")[0] for i in imports(file)), f"{start} reaches {name}"
