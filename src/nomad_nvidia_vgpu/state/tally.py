# SPDX-License-Identifier: MPL-2.0
"""What Nomad asked the plugin for since it started, counted for Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Mapping

MADE = "made"
REFUSED = "refused"


class Tally:
    """Counts, from any thread; all begin at zero, because a counter that appears late has no rate."""

    def __init__(self) -> None:
        """Nothing has been done yet."""
        self._lock = threading.Lock()
        self._reservations = dict.fromkeys((MADE, REFUSED), 0)

    @property
    def reservations(self) -> Mapping[str, int]:
        """How many were made and refused; a copy."""
        with self._lock:
            return dict(self._reservations)

    def reserved(self, result: str) -> None:
        """Nomad asked for a reservation: `MADE` or `REFUSED`."""
        with self._lock:
            self._reservations[result] += 1
