"""One log stream: JSON lines, lines for people, and what children say."""

from __future__ import annotations

import datetime as dt
import io
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ProcessError, RunError
from common.logs import ChildLines, JsonLines, Level, PlainLines, carried_out, set_up_logs
from common.processes import ChildProcess, Supervisor

SECRET = "a caption that must not leave"


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """Give the logging back as it was."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in ("flwr", "uvicorn", "transformers"))]
    before = [(one, one.handlers[:], one.level, one.propagate) for one in loggers]
    yield
    for one, handlers, level, propagate in before:
        one.handlers[:], one.propagate = handlers, propagate
        one.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def told(stream: io.StringIO) -> list[dict[str, str]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("bottega.x", logging.INFO, "", 0, "%s", (message,), None)


def test_a_json_line_has_time_level_logger_and_message(stream: io.StringIO) -> None:
    set_up_logs(json_=True, stream=stream)
    before = dt.datetime.now(dt.UTC) - dt.timedelta(milliseconds=2)
    logging.getLogger("bottega.x").warning("%d of %d\nlines", 1, 2)
    (line,) = told(stream)
    assert line.keys() == {"time", "level", "logger", "message"}
    assert (line["level"], line["logger"], line["message"]) == ("warning", "bottega.x", "1 of 2\nlines")
    assert line["time"].endswith("Z")
    assert before <= dt.datetime.fromisoformat(line["time"]) <= dt.datetime.now(dt.UTC)


def test_what_is_less_than_the_level_is_not_told(stream: io.StringIO) -> None:
    set_up_logs(json_=True, level=Level.WARNING, stream=stream)
    log = logging.getLogger("bottega.x")
    log.info("no")
    log.warning("yes")
    assert [line["message"] for line in told(stream)] == ["yes"]


@pytest.mark.parametrize("json_", [True, False])
def test_of_a_foreign_exception_the_class_and_our_place_are_told_but_not_its_words(
    stream: io.StringIO, json_: bool
) -> None:
    set_up_logs(json_=json_, stream=stream)
    try:
        ChildProcess("x", [], Path("/"))._read(None, print)  # type: ignore[arg-type]
    except TypeError as error:
        error.args = (SECRET,)
        logging.getLogger("bottega.x").exception("it broke")
    assert "TypeError at common.processes:" in stream.getvalue()
    assert SECRET not in stream.getvalue()
    assert "Traceback" not in stream.getvalue()


def test_of_our_own_exception_the_words_are_told(stream: io.StringIO) -> None:
    set_up_logs(json_=True, stream=stream)
    logging.getLogger("bottega.x").error("it broke", exc_info=RunError("the run cannot go on", advice="Look."))
    assert told(stream)[0]["error"] == "RunError: the run cannot go on. Look."


def test_libraries_with_handlers_of_their_own_are_told_once_and_not_their_chatter(stream: io.StringIO) -> None:
    library, own = logging.getLogger("flwr"), io.StringIO()
    library.addHandler(logging.StreamHandler(own))
    library.setLevel(logging.DEBUG)
    library.propagate = False
    set_up_logs(json_=True, stream=stream)
    library.debug("eight times a second")
    library.error("the state is gone")
    assert [line["message"] for line in told(stream)] == ["the state is gone"]
    assert own.getvalue() == ""


@given(st.text())
def test_any_message_is_one_json_line(message: str) -> None:
    line = JsonLines().format(record(message))
    assert "\n" not in line
    assert json.loads(line)["message"] == message


@given(st.text())
def test_whatever_a_message_holds_only_its_first_line_begins_like_a_line_of_ours(message: str) -> None:
    first, *others = PlainLines().format(record(message)).split("\n")
    assert first[:4].isdigit()
    assert all(line.startswith("    ") for line in others)
    assert all(c.isprintable() for line in (first, *others) for c in line)


def test_for_journald_each_line_has_its_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w") as journal:
        found = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        set_up_logs(stream=journal)
        logging.getLogger("bottega.x").error("two\nlines")
        logging.getLogger("bottega.x").info("one")
    assert (tmp_path / "journal").read_text() == "<3>bottega.x: two\n<3>    lines\n<6>bottega.x: one\n"


def test_a_child_of_ours_is_heard_as_it_spoke(stream: io.StringIO) -> None:
    set_up_logs(json_=True, stream=stream)
    said = logging.LogRecord("bottega.rounds", logging.WARNING, "", 0, "round %d", (3,), None)
    said.created = time.time() - 60
    ChildLines("superexec")(JsonLines().format(said))
    (line,) = told(stream)
    assert (line["level"], line["logger"], line["message"]) == ("warning", "superexec.bottega.rounds", "round 3")
    assert line["time"] == json.loads(JsonLines().format(said))["time"]


@pytest.mark.parametrize(
    ("line", "level", "message"),
    [
        ("\x1b[92mINFO \x1b[0m:      Starting Flower SuperExec", "info", "Starting Flower SuperExec"),
        ("\x1b[91mERROR \x1b[0m:     it is gone", "error", "it is gone"),
        ("WARNING :   2 : 1", "warning", "2 : 1"),
        ("no form at all", "info", "no form at all"),
        ('{"level": "info"}', "info", '{"level": "info"}'),
        ("{", "info", "{"),
    ],
)
def test_a_line_of_flowers_has_its_level(stream: io.StringIO, line: str, level: str, message: str) -> None:
    set_up_logs(json_=True, stream=stream)
    ChildLines("supernode")(line)
    (found,) = told(stream)
    assert (found["level"], found["logger"], found["message"]) == (level, "supernode", message)


def test_an_empty_line_of_flowers_is_none(stream: io.StringIO) -> None:
    set_up_logs(json_=True, stream=stream)
    for line in ("INFO :", "INFO :      ", ""):
        ChildLines("supernode")(line)
    assert stream.getvalue() == ""


def test_of_a_childs_traceback_the_class_is_told_and_words_of_ours(stream: io.StringIO) -> None:
    set_up_logs(json_=True, stream=stream)
    child = ChildLines("superexec")
    for kind, words in (("builtins.ValueError", SECRET), ("common.errors.RunError", "too few sites are online")):
        for line in (
            "ERROR :     ServerApp raised an exception", "Traceback (most recent call last):",
            '  File "x.py", line 3, in f', f"    f({SECRET!r})", f"{kind}: {words}",
        ):  # fmt: skip
            child(line)
    child("INFO :      on we go")
    assert [(line["level"], line["message"]) for line in told(stream)] == [
        ("error", "ServerApp raised an exception"), ("error", "ValueError"),
        ("error", "ServerApp raised an exception"), ("error", "RunError: too few sites are online"),
        ("info", "on we go"),
    ]  # fmt: skip
    assert SECRET not in stream.getvalue()


@given(st.lists(st.text() | st.sampled_from(["Traceback (most recent call last):", '{"time": 1}', "INFO :"])))
def test_whatever_a_child_says_is_taken(lines: list[str]) -> None:
    child = ChildLines("child")
    for line in lines:
        child(line)


def python(code: str) -> list[str]:
    return [sys.executable, "-P", "-u", "-c", code]


def test_the_lines_of_a_real_child_come_in_order_and_its_end_is_told_after_its_last(stream: io.StringIO) -> None:
    set_up_logs(json_=True, stream=stream)
    code = "import sys; print('first'); print('ERROR : ' + 40_000 * 'x'); sys.exit('last')"
    with (
        Supervisor([ChildProcess("the child", python(code), ChildLines("child"))]) as children,
        pytest.raises(ProcessError, match=r"the child ended with code 1\. The lines above are its last\."),
    ):
        children.wait("nothing", lambda: False, 60)
    words = [line["message"] for line in told(stream)]
    assert (words[0], words[-1]) == ("first", "last")
    assert sum(map(len, words[1:-1])) == 40_000


def test_a_line_that_cannot_be_taken_does_not_cost_the_child_its_pipe(stream: io.StringIO) -> None:
    set_up_logs(json_=True, stream=stream)
    heard: list[str] = []

    def take(line: str) -> None:
        heard.append(line)
        if line == "1":
            raise ValueError(SECRET)

    code = "for i in range(50_000): print(i)\nprint('done')"
    with Supervisor([ChildProcess("the child", python(code), take)]) as children:
        children.wait("the end", lambda: "done" in heard, 60)
    assert heard[-1] == "done"
    assert [line["message"] for line in told(stream)] == ["a line of the child could not be taken"]
    assert SECRET not in stream.getvalue()


def test_the_end_of_a_command_is_the_last_line_and_its_exit_code(stream: io.StringIO) -> None:
    set_up_logs(json_=True, stream=stream)
    log = logging.getLogger("bottega.x")

    def ours() -> None:
        raise ProcessError("port 8440 cannot be taken", advice="Stop what uses it.")

    def foreign() -> None:
        raise KeyError(SECRET)

    assert [carried_out(log, work) for work in (lambda: None, ours, foreign)] == [0, 1, 1]
    one, two = told(stream)
    assert (one["level"], one["message"]) == ("critical", "port 8440 cannot be taken. Stop what uses it.")
    assert two["error"].startswith("KeyError")
    assert SECRET not in stream.getvalue()
