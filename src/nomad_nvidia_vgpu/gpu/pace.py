# SPDX-License-Identifier: MPL-2.0
"""When the threads of the GPUs take their samples: at the same moment, and one after the other.

A thread that wakes alone finds the caches cold, and threads that call the driver at once take
Python's lock from each other at each call. Together and in turn they cost less: a fifth to a third,
as measured on two busy cores.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

PATIENCE_S = 0.01
"""How long a GPU waits for its turn: the call of another may hang."""


def next_beat(after: float, interval_s: float) -> float:
    """The next multiple of `interval_s`: all GPUs come to the same, at most an interval away."""
    beat = (after // interval_s + 1) * interval_s
    return beat if beat > after else beat + interval_s  # quotients of floats are rounded


class Turn:
    """Whose turn it is. It is for the cost alone: who has waited long enough goes on without."""

    def __init__(self) -> None:
        """Nobody's."""
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Within it, others wait for `PATIENCE_S`."""
        held = self._lock.acquire(timeout=PATIENCE_S)
        try:
            yield
        finally:
            if held:
                self._lock.release()
