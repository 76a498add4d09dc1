# SPDX-License-Identifier: MPL-2.0
"""What the plugin has done since it started, counted for Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Mapping

MADE = "made"
REFUSED = "refused"

WARNED = "warned"
TERMINATED = "terminated"
KILLED = "killed"


class Tally:
    """Counts, from any thread; all begin at zero, for a counter that appears late has no rate."""

    def __init__(self) -> None:
        """Nothing has been done yet."""
        self._lock = threading.Lock()
        self._reservations = dict.fromkeys((MADE, REFUSED), 0)
        self._guard_actions = dict.fromkeys((WARNED, TERMINATED, KILLED), 0)

    @property
    def reservations(self) -> Mapping[str, int]:
        """How many were made and refused; a copy."""
        with self._lock:
            return dict(self._reservations)

    @property
    def guard_actions(self) -> Mapping[str, int]:
        """How many tasks the memory guard warned of, and processes it sent a signal; a copy."""
        with self._lock:
            return dict(self._guard_actions)

    def reserved(self, result: str) -> None:
        """Nomad asked for a reservation: `MADE` or `REFUSED`."""
        with self._lock:
            self._reservations[result] += 1

    def guarded(self, action: str) -> None:
        """The memory guard acted: `WARNED`, `TERMINATED` or `KILLED`."""
        with self._lock:
            self._guard_actions[action] += 1
