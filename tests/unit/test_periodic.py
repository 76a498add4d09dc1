# SPDX-License-Identifier: MPL-2.0
"""A thread that no error ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from nomad_nvidia_vgpu.periodic import PeriodicThread

DEADLINE_S = 60.0


class Turns:
    """Work that fails as told, and counts."""

    def __init__(self) -> None:
        """Does nothing yet."""
        self.errors: list[str | None] = []
        self.done = 0
        self._changed = threading.Condition()

    def __call__(self) -> None:
        """One turn."""
        with self._changed:
            self.done += 1
            self._changed.notify_all()
            error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise ValueError(error)

    def wait(self, turns: int) -> None:
        """Waits until so many turns have begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.done >= turns, DEADLINE_S)


@pytest.fixture
def turns() -> Turns:
    """Gives the work."""
    return Turns()


@pytest.fixture
def thread(turns: Turns) -> Iterator[PeriodicThread]:
    """Gives its thread, not started."""
    made = PeriodicThread("turns", turns, 0.001, failing="cannot turn")
    yield made
    made.stop()


def test_an_error_ends_no_thread_and_is_logged_when_it_is_new(
    turns: Turns, thread: PeriodicThread, caplog: pytest.LogCaptureFixture
) -> None:
    """The same one again is silent; after a good turn it is news again."""
    turns.errors = ["a", "a", "b", None, "b"]
    with caplog.at_level(logging.ERROR):
        thread.start()
        turns.wait(7)
    causes = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert causes == ["a", "b", "b"]
    assert caplog.messages[0] == "cannot turn: report this as a bug"


def test_it_stops_when_told(turns: Turns) -> None:
    """Even where it would wait for an hour before its first turn."""
    within = threading.Event()

    class Within:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            within.set()

    thread = PeriodicThread("turns", turns, 3600.0, failing="cannot turn", at_once=False)
    thread.start(Within())
    assert not thread.stopped
    thread.stop()
    assert within.wait(DEADLINE_S)
    assert turns.done == 0
