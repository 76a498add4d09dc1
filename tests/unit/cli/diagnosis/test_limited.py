# SPDX-License-Identifier: MPL-2.0
"""Functions that may hang, in children of this process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.diagnosis import limited
from nomad_nvidia_vgpu.cli.diagnosis.limited import Child, ChildFailedError, OverTimeError

PATIENCE_S = 100.0


def result_of(function: Callable[[], object]) -> object:
    """What it returns."""
    with Child(function) as child:
        return child.result(time.monotonic() + PATIENCE_S)


def test_a_result_of_any_size_comes_back() -> None:
    """More than a pipe takes at once, too."""
    assert result_of(lambda: ["x" * 1_000_000, 7]) == ["x" * 1_000_000, 7]


def test_it_runs_elsewhere() -> None:
    """What it does to itself does not concern this process."""
    assert result_of(os.getpid) != os.getpid()


def test_an_error_comes_back_as_text() -> None:
    """Also one that cannot be pickled, and a result that cannot."""
    with pytest.raises(ChildFailedError, match="ZeroDivisionError: "):
        result_of(lambda: 1 // 0)
    with pytest.raises(ChildFailedError, match="pickle"):
        result_of(threading.Lock)


def test_a_process_that_dies_is_noticed() -> None:
    """As one does that calls a library that crashes."""
    with pytest.raises(ChildFailedError, match="died"):
        result_of(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_what_hangs_is_given_up_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who waits is told at its deadline, and nothing is left running."""
    monkeypatch.setattr(limited, "_REAP_S", PATIENCE_S)
    child = Child(lambda: time.sleep(PATIENCE_S * 100))
    with child, pytest.raises(OverTimeError):
        child.result(time.monotonic() + 0.1)
    with pytest.raises(ChildProcessError):
        os.waitpid(child._pid, os.WNOHANG)


def test_nothing_it_prints_is_seen(capfd: pytest.CaptureFixture[str]) -> None:
    """A library's own words must not spoil a JSON document."""
    result_of(lambda: os.write(1, b"noise"))
    assert capfd.readouterr().out == ""


def test_it_starts_no_pipe_that_outlives_it() -> None:
    """A command makes dozens of children."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        result_of(lambda: 1)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
