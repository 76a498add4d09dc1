# SPDX-License-Identifier: MPL-2.0
"""What is decided under a lock and told after it: the log, or another part with locks of its own."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable


class Outbox:
    """Calls that wait for `deliver`, which makes them in the order in which they were put."""

    def __init__(self) -> None:
        """Empty."""
        self._lock = threading.Lock()  # guards what follows
        self._waiting: collections.deque[Callable[[], object]] = collections.deque()
        self._delivering = False

    def put(self, call: Callable[[], object]) -> None:
        """Keeps a call for later; the caller may hold any lock."""
        with self._lock:
            self._waiting.append(call)

    def deliver(self) -> None:
        """Makes the calls that wait; the caller holds no lock.

        A thread that finds another one at it leaves its calls to that one, so that none is late.
        """
        with self._lock:
            if self._delivering:
                return
            self._delivering = True
        try:
            while (call := self._next()) is not None:
                call()
        except BaseException:
            self._delivering = False  # the next delivery goes on behind the call that failed
            raise

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            self._delivering = bool(self._waiting)
            return self._waiting.popleft() if self._waiting else None
