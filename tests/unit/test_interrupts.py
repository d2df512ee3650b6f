"""Ctrl-C does not get lost."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from common.interrupts import Interrupts


def test_who_swallows_it_is_told_again() -> None:
    with Interrupts() as interrupts:
        interrupts.check()
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                interrupts.check()


def test_it_comes_at_once_where_nobody_swallows_it() -> None:
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_what_was_done_at_ctrl_c_before_is_done_again_after() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
