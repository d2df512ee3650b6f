"""What a site's SuperExec starts: a forked courier for a message, and nothing else."""

from __future__ import annotations

import multiprocessing
import socket
import time

import pytest
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResultStatus

from client.superexec_process import CourierExecutor


def spec(kind: TaskType, port: int) -> ExecutionSpec:
    return ExecutionSpec(
        task_type=kind, runtime_api_address=f"127.0.0.1:{port}", token="a token", insecure=True, task_id=1,
        root_certificates_path=None, runtime_dependency_install=False, parent_pid=None, suppress_output=True,
    )  # fmt: skip


@pytest.mark.parametrize("kind", sorted(set(TaskType) - {TaskType.CLIENT_APP}))
def test_any_other_kind_of_task_is_refused(kind: TaskType) -> None:
    result = CourierExecutor().launch(spec(kind, 1))
    assert result.status is LaunchResultStatus.FAILED
    assert result.message == "this site runs nothing but its courier"
    assert not multiprocessing.active_children()


def test_a_message_gets_a_process_of_its_own_that_asks_the_runtime_api_for_it() -> None:
    executor = CourierExecutor()
    with socket.create_server(("127.0.0.1", 0)) as runtime:
        runtime.settimeout(60)
        for _ in range(2):
            assert executor.launch(spec(TaskType.CLIENT_APP, runtime.getsockname()[1])).status == "accepted"
        couriers = multiprocessing.active_children()
        assert len({courier.pid for courier in couriers}) == 2
        asked, _ = runtime.accept()
        asked.close()
        for courier in couriers:
            courier.kill()
        until = time.monotonic() + 30
        while multiprocessing.active_children() and time.monotonic() < until:
            executor.reconcile()
    assert not multiprocessing.active_children()
