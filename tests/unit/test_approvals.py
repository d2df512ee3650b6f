"""Runs that wait for a person's word. A line of the table of :meth:`Approvals.hold` is a test here."""

from __future__ import annotations

import json
import logging
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.approvals import MAX_REASON_CHARACTERS, ApprovalError, Approvals
from client.policy import RuleError
from common.adapter_schema import AdapterSchema, LoraModule
from common.settings import AggregationSettings, LoraSettings, RunSettings
from security import files
from security.header import is_run
from security.names import Role, SpiffeId
from security.run_order import RunOrder
from tests.unit.test_agent import Desk, Task, an_agent, now_ms, refusal_of

RUN = "20261123-101112-ab12"
ORDER = RunOrder(
    RUN, SpiffeId("fed.example", Role.OPERATOR, "anna"), RunSettings(lora=LoraSettings(rank=4)), "b" * 64,
    AdapterSchema((LoraModule("mid.attn.to_q", 6, 5, 4),)), ("bianchi", "rossi"), 1_800_000_000_000,
)  # fmt: skip


def another(run: str) -> RunOrder:
    return replace(ORDER, run=run)


def soon() -> float:
    """Long enough for any decision of a test; none waits for its end."""
    return time.monotonic() + 30


@pytest.fixture
def approvals(tmp_path: Path) -> Approvals:
    return Approvals(tmp_path / "approvals")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


class Heard(logging.Handler):
    """Listens until a held run says that it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.asking = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "asks to be allowed" in record.getMessage():
            self.asking.set()


@pytest.fixture
def asked() -> Iterator[threading.Event]:
    """Set once a held run says that it waits."""
    heard = Heard()
    approvals_log = logging.getLogger("bottega.approvals")
    approvals_log.addHandler(heard)
    yield heard.asking
    approvals_log.removeHandler(heard)


def held(
    pool: ThreadPoolExecutor, approvals: Approvals, asked: threading.Event, order: RunOrder = ORDER
) -> Future[None]:
    """Hold a run in a thread, and return when it waits."""
    asked.clear()
    holding = pool.submit(approvals.hold, order, soon())
    assert asked.wait(20)
    return holding


def note(approvals: Approvals, order: RunOrder = ORDER) -> None:
    """Let a run ask that nobody waits for."""
    with pytest.raises(RuleError):
        approvals.hold(order, until=0)


# hold


def test_a_new_run_is_held_until_it_is_approved(
    approvals: Approvals, pool: ThreadPoolExecutor, asked: threading.Event
) -> None:
    holding = held(pool, approvals, asked)
    assert not holding.done()
    assert [one.status for one in approvals.list()] == ["waiting"]
    assert approvals.approve(RUN)
    holding.result(20)
    assert [one.status for one in approvals.list()] == ["approved"]


def test_a_new_run_is_held_until_it_is_refused_and_its_operator_reads_why(
    approvals: Approvals, pool: ThreadPoolExecutor, asked: threading.Event
) -> None:
    holding = held(pool, approvals, asked)
    assert approvals.refuse(RUN, "not before\nSunday")
    with pytest.raises(RuleError) as caught:
        holding.result(20)
    assert caught.value.rule == "rules.ask"
    assert str(caught.value).startswith(r"the studio refused this run: 'not before\nSunday' (rules.ask). ")


def test_a_run_that_nobody_decides_on_is_refused_in_time_and_may_still_be_approved(approvals: Approvals) -> None:
    with pytest.raises(RuleError, match=r"nobody at the studio has decided on this run yet \(rules\.ask\)"):
        approvals.hold(ORDER, time.monotonic() + 0.01)
    approvals.approve(RUN)
    approvals.hold(ORDER, until=0)


@pytest.mark.parametrize("first", [True, False])
def test_a_decision_holds_for_every_further_task_of_the_run_and_over_restarts(
    approvals: Approvals, tmp_path: Path, first: bool
) -> None:
    note(approvals)
    (approvals.approve if first else approvals.refuse)(RUN)
    after = Approvals(tmp_path / "approvals")
    for _ in range(3):
        if first:
            after.hold(ORDER, until=0)
        else:
            with pytest.raises(RuleError, match="the studio refused"):
                after.hold(ORDER, soon())


OTHERS = {
    "operator": replace(ORDER, operator=SpiffeId("fed.example", Role.OPERATOR, "bruno")),
    "settings": replace(ORDER, settings=RunSettings(lora=LoraSettings(rank=64))),
    "base": replace(ORDER, base_digest="0" * 64),
    "sites": replace(ORDER, sites=("rossi", "verdi")),
    "day": replace(ORDER, created_at_ms=ORDER.created_at_ms + 1),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_an_approval_is_of_what_was_asked_and_of_nothing_else_under_the_same_id(
    approvals: Approvals, other: RunOrder
) -> None:
    note(approvals)
    approvals.approve(RUN)
    with pytest.raises(RuleError, match=r"something else than when it asked first \(rules\.ask\)"):
        approvals.hold(other, soon())
    approvals.hold(ORDER, until=0)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"run": "other"}', "\xff"])
def test_a_record_that_cannot_be_read_is_no_approval(approvals: Approvals, tmp_path: Path, damage: str) -> None:
    note(approvals)
    approvals.approve(RUN)
    (tmp_path / "approvals" / f"{RUN}.json").write_bytes(damage.encode("latin-1"))
    with pytest.raises(RuleError, match="record of this run cannot be used") as caught:
        approvals.hold(ORDER, soon())
    assert str(tmp_path) not in str(caught.value), "where a studio keeps its home is nobody's business"
    with pytest.raises(ApprovalError, match="cannot be read"):
        approvals.list()


def test_an_approval_of_one_run_put_in_anothers_place_is_none(approvals: Approvals, tmp_path: Path) -> None:
    note(approvals)
    approvals.approve(RUN)
    folder = tmp_path / "approvals"
    (folder / "r2.json").write_bytes((folder / f"{RUN}.json").read_bytes())
    (folder / "r2.json").chmod(0o600)
    with pytest.raises(RuleError, match="cannot be used"):
        approvals.hold(another("r2"), soon())


def test_a_record_that_others_may_have_written_is_no_approval(approvals: Approvals, tmp_path: Path) -> None:
    note(approvals)
    approvals.approve(RUN)
    (tmp_path / "approvals" / f"{RUN}.json").chmod(0o660)
    with pytest.raises(RuleError, match="cannot be used"):
        approvals.hold(ORDER, soon())


def test_a_folder_that_cannot_be_made_is_no_approval(tmp_path: Path) -> None:
    (tmp_path / "approvals").write_text("in the way")
    with pytest.raises(RuleError, match="cannot be used"):
        Approvals(tmp_path / "approvals").hold(ORDER, soon())


def test_a_run_that_waits_holds_up_no_other(
    approvals: Approvals, pool: ThreadPoolExecutor, asked: threading.Event
) -> None:
    waiting = held(pool, approvals, asked)
    note(approvals, another("r2"))
    approvals.approve("r2")
    approvals.hold(another("r2"), until=0)
    assert not waiting.done()
    approvals.approve(RUN)
    waiting.result(20)


def test_tasks_of_one_run_that_come_at_once_make_one_record(approvals: Approvals, pool: ThreadPoolExecutor) -> None:
    holding = [pool.submit(approvals.hold, ORDER, soon()) for _ in range(4)]
    while not approvals.list():
        time.sleep(0.01)
    approvals.approve(RUN)
    for one in holding:
        one.result(20)
    assert len(approvals.list()) == 1


def test_the_log_says_how_to_approve(approvals: Approvals, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    note(approvals)
    assert f"bottega site approve-run {RUN} --home {tmp_path}" in caplog.text
    assert "operator anna" in caplog.text


# Records


def test_records_are_for_the_owner_alone(approvals: Approvals, tmp_path: Path) -> None:
    note(approvals)
    approvals.approve(RUN)
    folder = tmp_path / "approvals"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_a_list_has_every_run_the_latest_first_and_what_each_asks(approvals: Approvals) -> None:
    for run in ("r1", "r2", "r3"):
        note(approvals, another(run))
        time.sleep(0.002)  # times are in milliseconds
    approvals.refuse("r2", "too long")
    found = approvals.list()
    assert [(one.run, one.status, one.reason) for one in found] == [
        ("r3", "waiting", ""), ("r2", "refused", "too long"), ("r1", "waiting", ""),
    ]  # fmt: skip
    assert (found[0].wish.operator, found[0].wish.sites) == ("anna", ("bianchi", "rossi"))
    assert found[0].wish.settings == ORDER.settings


def test_where_nobody_asked_the_list_is_empty_and_nothing_is_made(approvals: Approvals, tmp_path: Path) -> None:
    assert list(approvals.list()) == []
    assert list(tmp_path.iterdir()) == []


def test_deciding_twice_changes_nothing_and_a_person_may_change_their_mind(
    approvals: Approvals, tmp_path: Path
) -> None:
    note(approvals)
    file = tmp_path / "approvals" / f"{RUN}.json"
    assert approvals.approve(RUN)
    before = file.read_bytes()
    assert not approvals.approve(RUN)
    assert file.read_bytes() == before
    assert approvals.refuse(RUN, "enough")
    assert not approvals.refuse(RUN, "again")
    with pytest.raises(RuleError, match="enough"):
        approvals.hold(ORDER, soon())
    assert approvals.approve(RUN)
    approvals.hold(ORDER, until=0)
    assert approvals.list()[0].reason == ""


@pytest.mark.parametrize("decide", [Approvals.approve, Approvals.refuse])
def test_a_run_that_never_asked_can_be_neither_approved_nor_refused(
    approvals: Approvals, tmp_path: Path, decide: Callable[[Approvals, str], bool]
) -> None:
    with pytest.raises(ApprovalError, match=r"no run of this id has asked; got r9\. `bottega site runs`"):
        decide(approvals, "r9")
    assert list(tmp_path.iterdir()) == [], "an approval is of what was asked; there is none in advance"


@given(run=st.one_of(st.sampled_from(["..", "../site", "a/b", "/etc/passwd", "", ".lock", "r\x00", "r\n"]), st.text()))
def test_no_name_leads_out_of_the_folder(tmp_path_factory: pytest.TempPathFactory, run: str) -> None:
    home = tmp_path_factory.mktemp("home")
    with pytest.raises(ApprovalError) as caught:
        Approvals(home / "approvals").approve(run)
    assert caught.value.what == ("no run of this id has asked" if is_run(run) else "this is no run's id")
    assert list(home.iterdir()) == []


def test_a_reason_has_an_end(approvals: Approvals) -> None:
    note(approvals)
    with pytest.raises(ApprovalError, match="the reason is too long; got 201; expected at most 200"):
        approvals.refuse(RUN, "x" * (MAX_REASON_CHARACTERS + 1))
    assert approvals.list()[0].status == "waiting"


def test_what_cannot_be_kept_as_it_was_asked_is_refused_and_nothing_is_written(approvals: Approvals) -> None:
    endless = replace(ORDER, settings=RunSettings(aggregation=AggregationSettings(norm_bound=float("inf"))))
    with pytest.raises(RuleError, match="cannot be used"):
        approvals.hold(endless, soon())
    assert list(approvals.list()) == []


def test_a_power_cut_while_deciding_leaves_the_record_as_it_was(
    approvals: Approvals, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(approvals)

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_write_all", cut)
    with pytest.raises(KeyboardInterrupt):
        approvals.approve(RUN)
    monkeypatch.undo()
    assert [one.status for one in approvals.list()] == ["waiting"]
    assert approvals.approve(RUN), "and its lock is free again"


# The agent, and the command line


def test_the_agent_seals_a_refusal_that_names_the_rule_and_does_no_work(tmp_path: Path, approvals: Approvals) -> None:
    nonces, desk = tmp_path / "nonces.json", Desk()
    nonces.write_text(json.dumps({"horizon_ms": now_ms() - 10 * 24 * 3_600_000, "nonces": []}))
    agent = an_agent(desk, nonces, approvals)
    with ThreadPoolExecutor() as pool:
        answering = pool.submit(refusal_of, agent, Task())
        while not approvals.list():
            time.sleep(0.01)
        approvals.refuse("r1", "ask me in spring")
        refusal = answering.result(20)
    assert refusal.check == "rule"
    assert refusal.reason.startswith("the studio refused this run: 'ask me in spring' (rules.ask)")
    assert desk.asked == 0


def bottega(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", "site", *words], capture_output=True, text=True, check=False, timeout=120
    )


def test_the_command_of_the_log_lets_a_held_run_go_on(
    approvals: Approvals, tmp_path: Path, pool: ThreadPoolExecutor, asked: threading.Event
) -> None:
    (tmp_path / "site.toml").write_text("")
    home = ("--home", str(tmp_path))
    holding = held(pool, approvals, asked)

    listed = bottega("runs", *home)
    assert "waiting" in listed.stdout
    assert f"Next: bottega site approve-run {RUN}" in listed.stderr
    done = bottega("approve-run", RUN, *home)
    assert (done.returncode, done.stdout) == (0, f"run {RUN} is approved\n")
    holding.result(20)

    assert "approved before; nothing was changed" in bottega("approve-run", RUN, *home).stdout
    (facts,) = json.loads(bottega("runs", "--json", *home).stdout)
    assert (facts["run"], facts["status"], facts["operator"]) == (RUN, "approved", "anna")
    assert facts["settings"]["lora"]["rank"] == 4
    unknown = bottega("refuse-run", "../r1", *home)
    assert unknown.returncode == 1
    assert "error: this is no run's id; got '../r1'" in unknown.stderr


def test_a_folder_without_a_site_has_no_runs(tmp_path: Path) -> None:
    nothing = bottega("runs", "--home", str(tmp_path))
    assert nothing.returncode == 1
    assert "there is no site in this folder" in nothing.stderr
    assert list(tmp_path.iterdir()) == []
