"""The state between rounds: what was saved comes back bit for bit, and a failed save damages nothing."""

from __future__ import annotations

import hashlib
import resource
from pathlib import Path

import numpy as np
import pytest

from common.adapter_schema import Adapter, AdapterSchema, LoraModule
from common.errors import BottegaError, RunError
from common.export import WEIGHTS
from common.settings import RunSettings
from server.start import fresh_state
from server.state import ADAPTER_FOLDER, RunState, load_state, save_state

SCHEMA = AdapterSchema((LoraModule("mid.attn.to_q", 40, 30, 4), LoraModule("mid.attn.to_k", 20, 30, 4)))


def a_state(seed: int = 1) -> RunState:
    chance = np.random.default_rng(seed)
    a, b = (chance.standard_normal(SCHEMA.numel(part)).astype(np.float32) for part in ("A", "B"))
    return RunState(Adapter(SCHEMA, a, b), chance.bytes(50))


def same(one: RunState, other: RunState) -> bool:
    return (
        one.adapter.a.tobytes() == other.adapter.a.tobytes()
        and one.adapter.b.tobytes() == other.adapter.b.tobytes()
        and one.optimiser == other.optimiser
    )


def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = a_state()
    save_state(tmp_path / "round-0001", state, "embedded")
    assert same(load_state(tmp_path / "round-0001"), state)


def test_the_digest_is_that_of_the_adapter_file(tmp_path: Path) -> None:
    digest = save_state(tmp_path, a_state(), "embedded")
    assert digest == hashlib.sha256((tmp_path / ADAPTER_FOLDER / WEIGHTS).read_bytes()).hexdigest()


def test_a_try_that_was_cut_off_is_replaced_whole(tmp_path: Path) -> None:
    save_state(tmp_path, a_state(1), "embedded")
    save_state(tmp_path, a_state(2), "embedded")
    assert same(load_state(tmp_path), a_state(2))
    assert [file.name for file in tmp_path.iterdir()] == [ADAPTER_FOLDER]


def test_a_save_without_room_is_a_clear_error_and_leaves_what_was_there(tmp_path: Path) -> None:
    save_state(tmp_path, a_state(1), "embedded")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, before[1]))
    try:
        with pytest.raises(RunError, match="the round's adapter cannot be written"):
            save_state(tmp_path, RunState(a_state(2).adapter, bytes(1 << 19)), "embedded")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert same(load_state(tmp_path), a_state(1))
    assert [file.name for file in tmp_path.iterdir()] == [ADAPTER_FOLDER]


def test_a_damaged_adapter_file_is_a_clear_error(tmp_path: Path) -> None:
    save_state(tmp_path, a_state(), "embedded")
    file = tmp_path / ADAPTER_FOLDER / WEIGHTS
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(BottegaError):
        load_state(tmp_path)


def test_a_fresh_state_is_the_same_for_a_seed_and_changes_no_product() -> None:
    one, again = (fresh_state(SCHEMA, RunSettings(seed=7)) for _ in range(2))
    other = fresh_state(SCHEMA, RunSettings(seed=8))
    assert same(one, again)
    assert not same(one, other)
    assert not one.adapter.b.any()
    for rows in SCHEMA.views(one.adapter.a, "A").values():
        flat = rows.reshape(rows.shape[0], -1).astype(np.float64)
        assert np.abs(flat @ flat.T - np.eye(4)).max() < 1e-6
