"""The state between rounds: it comes back bit for bit, is unreadable on the disk, and a failed save damages nothing."""

from __future__ import annotations

import hashlib
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from common.adapter_schema import Adapter, AdapterSchema, LoraModule
from common.errors import AdapterError, RunError, VaultError
from common.export import write_adapter
from common.paths import ServerHome
from common.settings import RunSettings
from security.vault import Vault
from server.start import fresh_state
from server.state import STATE_FILE, RunState, RunStates

SCHEMA = AdapterSchema((LoraModule("mid.attn.to_q", 40, 30, 4), LoraModule("mid.attn.to_k", 20, 30, 4)))


@pytest.fixture
def states(tmp_path: Path) -> RunStates:
    return RunStates(ServerHome(tmp_path / "server"), "a-run", Vault(bytes(32)))


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


def file_of(states: RunStates, number: int) -> Path:
    return states.home.round(states.run, number) / STATE_FILE


def test_what_was_saved_comes_back_bit_for_bit(states: RunStates) -> None:
    state = a_state()
    states.save(1, state)
    assert same(states.load(1, SCHEMA), state)


def test_the_digest_is_that_of_the_adapter_as_a_file(states: RunStates, tmp_path: Path) -> None:
    state = a_state()
    digest = states.save(1, state)
    assert digest == hashlib.sha256(write_adapter(tmp_path, state.adapter, "embedded").read_bytes()).hexdigest()


def test_nothing_of_the_adapter_can_be_read_on_the_disk(states: RunStates) -> None:
    state = a_state()
    states.save(1, state)
    content = file_of(states, 1).read_bytes()
    for part in (
        state.adapter.a.tobytes()[:16],
        state.adapter.b.tobytes()[:16],
        state.optimiser[:16],
        b"lora",
        b"to_q",
    ):
        assert part not in content


def test_a_try_that_was_cut_off_is_replaced_whole(states: RunStates) -> None:
    states.save(1, a_state(1))
    states.save(1, a_state(2))
    assert same(states.load(1, SCHEMA), a_state(2))
    assert [file.name for file in file_of(states, 1).parent.iterdir()] == [STATE_FILE]


def test_a_save_without_room_is_a_clear_error_and_leaves_what_was_there(states: RunStates) -> None:
    states.save(1, a_state(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, before[1]))
    try:
        with pytest.raises(RunError, match="the round's adapter cannot be written; got File too large"):
            states.save(1, RunState(a_state(2).adapter, bytes(1 << 19)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert same(states.load(1, SCHEMA), a_state(1))
    assert [file.name for file in file_of(states, 1).parent.iterdir()] == [STATE_FILE]


def test_a_damaged_state_is_refused(states: RunStates) -> None:
    states.save(1, a_state())
    file = file_of(states, 1)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(VaultError, match="was changed"):
        states.load(1, SCHEMA)


def test_the_state_of_another_round_or_run_is_refused(states: RunStates) -> None:
    states.save(1, a_state(1))
    states.save(2, a_state(2))
    shutil.copy(file_of(states, 1), file_of(states, 2))
    with pytest.raises(VaultError, match="another file"):
        states.load(2, SCHEMA)
    other = RunStates(states.home, "another-run", states.vault)
    shutil.copytree(states.home.run("a-run"), states.home.run("another-run"))
    with pytest.raises(VaultError, match="another file"):
        other.load(1, SCHEMA)


def test_a_state_of_another_adapter_is_refused(states: RunStates) -> None:
    states.save(1, a_state())
    with pytest.raises(AdapterError):
        states.load(1, SCHEMA.with_rank(2))


def test_a_fresh_state_is_the_same_for_a_seed_and_changes_no_product() -> None:
    one, again = (fresh_state(SCHEMA, RunSettings(seed=7)) for _ in range(2))
    other = fresh_state(SCHEMA, RunSettings(seed=8))
    assert same(one, again)
    assert not same(one, other)
    assert not one.adapter.b.any()
    for rows in SCHEMA.views(one.adapter.a, "A").values():
        flat = rows.reshape(rows.shape[0], -1).astype(np.float64)
        assert np.abs(flat @ flat.T - np.eye(4)).max() < 1e-6
