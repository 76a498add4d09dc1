# SPDX-License-Identifier: MPL-2.0
"""When to start again what did not start: a node whose MPS cannot work is not kept busy by it."""

from __future__ import annotations

import time
from collections.abc import Callable

from nomad_nvidia_vgpu.errors import NOTHING, Problem

_STARTING_S = 15.0
"""How long a server may take to be ready before that is a problem."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
"""Between two tries to start what does not start."""


class Tries:
    """The tries to start one server or daemon: two at once, and then ever less often."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """None yet; `clock` in seconds."""
        self._clock = clock
        self._since = clock()
        self._pause_s = self._next = 0.0
        self.failure: Problem = NOTHING
        """Why the last one failed, if that is known; set by who tries."""

    def due(self) -> bool:
        """Whether to try now; counts as a try if so."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._pause_s
        self._pause_s = min(2 * self._pause_s or _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        return True

    def lasted(self) -> bool:
        """Whether it takes too long by now."""
        return self._clock() - self._since > _STARTING_S
