"""The spool: what is kept comes back byte for byte, and what cannot be written is said so and leaves nothing."""

from __future__ import annotations

import resource
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import RunError
from server.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@given(letter=st.binary(max_size=400), body=st.binary(max_size=400))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_kept_comes_back_byte_for_byte(spool: Spool, letter: bytes, body: bytes) -> None:
    spool.keep("rossi", letter, memoryview(body))
    back, rest = spool.take("rossi")
    assert (back, bytes(rest)) == (letter, body)


def test_a_file_is_the_letters_length_the_letter_and_the_body(spool: Spool) -> None:
    spool.keep("rossi", b"letter", b"body")
    assert (spool.folder / "rossi.sealed").read_bytes() == b"\x00\x00\x00\x06letterbody"


def test_files_are_for_their_owner_alone(spool: Spool) -> None:
    spool.keep("rossi", b"letter", b"body")
    assert stat.S_IMODE((spool.folder / "rossi.sealed").stat().st_mode) == 0o600


def test_clearing_removes_the_folder_and_may_be_done_again(spool: Spool) -> None:
    spool.keep("rossi", b"l", b"b")
    spool.clear()
    assert not spool.folder.exists()
    spool.clear()


def test_an_answer_that_is_not_there_is_a_clear_error(spool: Spool) -> None:
    with pytest.raises(RunError, match="a spooled answer cannot be read; got FileNotFoundError"):
        spool.take("rossi")


def test_without_room_nothing_is_left_behind_and_what_was_there_is_untouched(spool: Spool) -> None:
    spool.keep("rossi", b"first", b"answer")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(RunError, match=r"room and leave to write 8198 bytes"):
            spool.keep("rossi", b"se", bytes(8192))
        with pytest.raises(RunError):
            spool.keep("verdi", b"se", bytes(8192))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in spool.folder.iterdir()] == ["rossi.sealed"]
    assert spool.take("rossi")[0] == b"first"
