# SPDX-License-Identifier: MPL-2.0
"""A clock that moves only when a test says so."""

from __future__ import annotations

import threading
from collections import Counter

DEADLINE_S = 120.0
"""Ends a test that waits in vain; nothing takes as long, even where the CPU is scarce."""


class ManualClock:
    """Seconds, as `time.monotonic` gives them."""

    def __init__(self, now: float = 1000.0) -> None:
        """Stands at `now`."""
        self._read = threading.Condition()
        self._reads: Counter[str] = Counter()
        self.now = now

    def __call__(self) -> float:
        """Gives the time."""
        with self._read:
            self._reads[threading.current_thread().name] += 1
            self._read.notify_all()
        return self.now

    def advance(self, seconds: float) -> None:
        """Moves on."""
        self.now += seconds

    def wait_for_reads(self, thread: str, more: int) -> None:
        """Waits until the thread of this name has asked for the time so many times more."""
        with self._read:
            enough = self._reads[thread] + more
            assert self._read.wait_for(lambda: self._reads[thread] >= enough, DEADLINE_S)
