# SPDX-License-Identifier: MPL-2.0
"""Threads for calls."""

from __future__ import annotations

import threading

import pytest

from nomad_nvidia_vgpu.goplugin.workers import Workers
from unit.manual_clock import DEADLINE_S


def test_calls_run_beside_each_other() -> None:
    """Up to the number of threads; what they give and raise comes back."""
    workers, meeting = Workers(2), threading.Barrier(2)
    futures = [workers.submit(meeting.wait, DEADLINE_S) for _ in range(2)]
    assert {future.result(DEADLINE_S) for future in futures} == {0, 1}
    failing = workers.submit(divmod, 1, 0)
    assert isinstance(failing.exception(DEADLINE_S), ZeroDivisionError)
    assert workers.submit(divmod, 7, 2).result(DEADLINE_S) == (3, 1)


def test_a_call_is_made_though_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the thread that has been there from the start."""
    workers = Workers(2)
    ends = threading.Event()
    stream = workers.submit(ends.wait, DEADLINE_S)
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        assert workers.submit(divmod, 7, 2).result(DEADLINE_S) == (3, 1)
        assert workers.submit(divmod, 9, 2).result(DEADLINE_S) == (4, 1)
    ends.set()
    assert stream.result(DEADLINE_S)


def refuse(_thread: threading.Thread) -> None:
    """What the system says that has no memory for a thread."""
    raise RuntimeError("can't start new thread")
