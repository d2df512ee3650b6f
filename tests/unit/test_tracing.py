"""Phases of a round: counted always, and told as spans to where the environment says, and to nobody else."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread

import pytest

from common.errors import BaseModelError
from common.tracing import PHASES, VARIABLE, Took, end_traces, join_round, lead_round, name_service, phase, slug
from tests.collector import Collector, Kept, a_collector

ROOT = Path(__file__).resolve().parents[2]
SECRET = "grandmother, scan_0042.png"


def took(name: str, outcome: str = "done") -> Took:
    return PHASES.told().get((name, outcome), Took())


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whether spans are made is decided anew."""
    monkeypatch.delenv(VARIABLE, raising=False)
    end_traces()
    yield
    end_traces()
    name_service("bottega")


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with a_collector() as kept:
        monkeypatch.setenv(VARIABLE, kept.endpoint)
        yield kept


def named(spans: list[Kept], name: str) -> list[Kept]:
    return [kept for kept in spans if kept.name == name]


def a_round_at_the_server(number: int = 3) -> dict[str, float]:
    with lead_round("r1", number) as seconds:
        with phase("open", sites=2):
            pass
        with phase("answers"):
            pass
        with phase("aggregate"):
            time.sleep(0.01)
    return dict(seconds)


def a_round_at_a_site(number: int = 3) -> None:
    with join_round("r1", number), phase("task") as task, phase("train"):
        task.outcome = "trained"


def test_a_phase_is_counted_with_its_seconds() -> None:
    before = took("aggregate")
    with phase("aggregate"):
        time.sleep(0.01)
    after = took("aggregate")
    assert after.count == before.count + 1
    assert after.seconds - before.seconds >= 0.01


def test_a_phase_that_an_error_ends_is_counted_by_the_kind_of_the_error() -> None:
    before, broken = took("train", "base-model"), took("train", "broken")
    with pytest.raises(BaseModelError), phase("train"):
        raise BaseModelError("another base")
    with pytest.raises(ZeroDivisionError), phase("train"):
        1 / 0  # noqa: B018 (it is the error that counts)
    assert took("train", "base-model").count == before.count + 1
    assert took("train", "broken").count == broken.count + 1


def test_what_is_said_of_a_phase_while_it_lasts_is_its_outcome() -> None:
    before = took("task", "trained").count
    with phase("task") as task:
        task.outcome = "trained"
    assert took("task", "trained").count == before + 1


def test_a_phase_decorates_and_each_call_is_one() -> None:
    @phase("look")
    def looked(at: int) -> int:
        return at + 1

    before = took("look").count
    assert [looked(1), looked(2)] == [2, 3]
    assert took("look").count == before + 2


def test_a_round_knows_the_seconds_of_its_own_phases_and_of_no_others() -> None:
    with phase("judge"):
        pass
    with lead_round("r1", 1) as seconds:
        with phase("answers"):
            time.sleep(0.01)
        assert set(seconds) == {"answers"}
        with phase("answers"):
            time.sleep(0.01)
        with lead_round("r1", 2) as others, phase("keep"):
            pass
    assert set(others) == {"keep"}
    assert set(seconds) == {"answers"}
    assert seconds["answers"] >= 0.02


def test_rounds_in_two_threads_are_two() -> None:
    both, found = Barrier(2, timeout=30), dict[str, set[str]]()

    def work(run: str, name: str) -> None:
        with lead_round(run, 1) as seconds:
            both.wait()
            with phase("judge" if name == "judge" else "keep"):
                both.wait()
        found[run] = set(seconds)

    threads = [Thread(target=work, args=pair) for pair in (("r1", "judge"), ("r2", "keep"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"r1": {"judge"}, "r2": {"keep"}}


def test_no_count_is_lost_between_threads() -> None:
    before = took("seal").count

    def work() -> None:
        for _ in range(500):
            with phase("seal"):
                pass

    threads = [Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert took("seal").count == before + 4000


def test_server_and_site_meet_in_one_trace_under_the_servers_span(collector: Collector) -> None:
    name_service("bottega-server")
    assert set(a_round_at_the_server()) == {"open", "answers", "aggregate"}
    end_traces()
    name_service("bottega-site", site="rossi")
    a_round_at_a_site()
    end_traces()
    spans = collector.spans
    assert sorted(kept.name for kept in spans) == ["aggregate", "answers", "open", "round", "task", "train"]
    assert len({kept.trace for kept in spans}) == 1
    assert set(collector.paths) == {"/v1/traces"}
    (root,) = named(spans, "round")
    assert root.span.parent_span_id == b""
    (task,), (train,) = named(spans, "task"), named(spans, "train")
    assert {kept.span.parent_span_id for kept in spans if kept not in (root, train)} == {root.span.span_id}
    assert train.span.parent_span_id == task.span.span_id
    assert (root.resource["service.name"], task.resource["service.name"]) == ("bottega-server", "bottega-site")
    assert task.resource["bottega.site"] == "rossi"
    assert all(kept.said["bottega.run"] == "r1" for kept in spans)
    assert all(kept.said["bottega.round"] == 3 for kept in spans)
    assert (task.said["bottega.outcome"], named(spans, "open")[0].said["bottega.sites"]) == ("trained", 2)


def test_other_rounds_and_runs_are_other_traces(collector: Collector) -> None:
    a_round_at_the_server(1)
    a_round_at_the_server(2)
    with lead_round("r2", 1):
        pass
    end_traces()
    assert len({kept.trace for kept in named(collector.spans, "round")}) == 3


def test_the_ids_of_a_round_are_those_that_are_written_down(collector: Collector) -> None:
    # python3 -c 'import hashlib; print(hashlib.sha256(b"r1|3").hexdigest()[:48])'
    a_round_at_the_server(3)
    end_traces()
    (root,) = named(collector.spans, "round")
    assert root.trace + root.span.span_id.hex() == "550169297ad4b383bf28e56296fcc03487640e2a01d03a93"


def test_of_an_error_its_kind_is_told_and_neither_its_words_nor_where_it_came_from(collector: Collector) -> None:
    with (
        pytest.raises(BaseModelError),
        join_round("r1", 1),
        phase("task"),
        phase("train"),
    ):
        raise BaseModelError(SECRET, got=SECRET)
    with pytest.raises(ValueError, match="scan"), lead_round("r1", 1), phase("judge"):
        raise ValueError(SECRET)
    end_traces()
    spans = collector.spans
    assert {kept.name: kept.said.get("bottega.outcome") for kept in spans} == {
        "train": "base-model", "task": "base-model", "judge": "broken", "round": None,
    }  # fmt: skip
    assert all(kept.span.status.code == kept.span.status.STATUS_CODE_ERROR for kept in spans)
    assert not any(kept.span.events for kept in spans)
    assert not any(word in body for body in collector.bodies for word in (b"scan_0042", b"Traceback", b"test_tracing"))


def test_without_the_variable_nothing_is_sent_and_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys, socket\n"
        "def no(*_): raise SystemExit('a connection was tried')\n"
        "socket.socket.connect = no\n"
        "from common.tracing import phase, lead_round, join_round, end_traces\n"
        "with lead_round('r', 1), phase('open'): pass\n"
        "with join_round('r', 1), phase('task'): pass\n"
        "end_traces()\n"
        "print(any(name.startswith('opentelemetry') for name in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PATH": "/usr/bin:/bin", "OTEL_TRACES_EXPORTER": "otlp"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_without_the_variable_a_collector_hears_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_collector() as kept:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{kept.endpoint}/v1/traces")
        a_round_at_the_server()
        a_round_at_a_site()
        end_traces()
        assert kept.paths == []


def test_where_opentelemetry_is_not_installed_a_sentence_says_so_and_work_goes_on(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "common.spans", None)
    assert set(a_round_at_the_server()) == {"open", "answers", "aggregate"}
    assert [record.getMessage() for record in caplog.records if record.name == "bottega.traces"] == [
        f"{VARIABLE} is set, and no trace is sent: pip install 'bottega[otel]'"
    ]
    assert collector.paths == []


def test_a_protocol_that_is_not_spoken_here_is_told_and_nothing_is_sent(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    a_round_at_the_server()
    end_traces()
    assert "http/protobuf is spoken here, not grpc" in caplog.text
    assert collector.paths == []


def test_a_collector_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        monkeypatch.setenv(VARIABLE, f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        for number in range(20):
            a_round_at_the_server(number)
        assert time.monotonic() - began < 3
        end_traces()
        assert time.monotonic() - began < 10


def test_the_name_that_the_environment_gives_a_service_counts_for_more(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "atelier")
    name_service("bottega-site", site="rossi")
    a_round_at_a_site()
    end_traces()
    assert {kept.resource["service.name"] for kept in collector.spans} == {"atelier"}


def test_a_slug_is_the_kind_of_an_error() -> None:
    assert slug(BaseModelError("no")) == "base-model"
