# SPDX-License-Identifier: MPL-2.0
"""What one measurement yields, and how it is judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    measured: float | None
    """None if it could not be measured here; `note` then says why."""
    unit: str
    budget: float | None = None
    """What it may be at most; None for a figure that only explains others."""
    exact: bool = False
    """Whether the budget is the one right value, not a limit."""
    note: str = ""
    samples: tuple[float, ...] = ()
    """What the figure was made of, for result.json."""

    @property
    def verdict(self) -> str:
        """`ok`, `MISSED`, `not measured`, or nothing for a figure without a budget."""
        if self.measured is None:
            return "not measured"
        if self.budget is None:
            return ""
        kept = self.measured == self.budget if self.exact else self.measured <= self.budget
        return "ok" if kept else "MISSED"


TIMES = "\N{MULTIPLICATION SIGN}"


class Effort(NamedTuple):
    """How often each thing is repeated."""

    launches: int
    """Of each kind, interleaved; the medians need 20 for a verdict to be worth its name."""
    memory_launches: int
    flat_from: int
    """The stats message after which memory must have stopped growing."""
    flat_to: int
    messages: int
    reserves: int
    claimed_reserves: int
    """Calls of Reserve beside hostile processes, with a pause after each."""
    passes: int
    """Intervals over which calls of NVML are counted."""
    placements: int
    """How often a cluster is filled."""


FULL = Effort(25, 5, 360, 3600, 300, 4000, 1000, 60, 3)
QUICK = Effort(7, 2, 100, 400, 100, 1000, 200, 20, 1)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
