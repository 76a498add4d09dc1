# SPDX-License-Identifier: MPL-2.0
"""How far the machinery behind a way of sharing holds the tasks of one GPU, as last read back."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from nomad_nvidia_vgpu.errors import NOTHING, Problem


class Phase(Enum):
    """How much is known of what holds the shares of a GPU."""

    STARTING = "starting"
    """Nothing has been read back yet."""
    KNOWN = "known"


class Enforcement(NamedTuple):
    """What is in force on one GPU. Stable: no pids, no counts, nothing that moves by itself."""

    problem: Problem = NOTHING
    """Why the GPU cannot be shared in this way now, and what to do; empty: it can."""
    holds_memory: bool = False
    """Whether a task that follows its environment cannot take more memory than its share."""
    weakness: Problem = NOTHING
    """Why it does not hold all that the config asks for, for the log; empty: it does."""
    phase: Phase = Phase.KNOWN

    @property
    def starting(self) -> bool:
        """Whether nothing has been read back yet."""
        return self.phase is Phase.STARTING


IN_FORCE = Enforcement(holds_memory=True)
"""All is as the config asks, and that is all there can be."""

STARTING = Enforcement(
    problem=Problem("what holds its shares is being started", "wait a moment"),
    phase=Phase.STARTING,
)
