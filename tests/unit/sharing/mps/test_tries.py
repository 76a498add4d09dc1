# SPDX-License-Identifier: MPL-2.0
"""When what did not start is started again."""

from __future__ import annotations

from nomad_nvidia_vgpu.sharing.mps.tries import Tries
from unit.manual_clock import ManualClock


def test_pauses_grow_up_to_half_a_minute() -> None:
    """The first two tries are made at once, because one failure may be chance."""
    clock = ManualClock()
    tries = Tries(clock)
    made = []
    for second in range(130):
        while tries.due():
            made.append(second)
        clock.advance(1.0)
    assert made == [0, 0, 1, 3, 7, 15, 31, 61, 91, 121]


def test_what_takes_long_has_lasted() -> None:
    """However often it was tried meanwhile."""
    clock = ManualClock()
    tries = Tries(clock)
    clock.advance(15.0)
    assert tries.due()
    assert not tries.lasted()
    clock.advance(0.1)
    assert tries.lasted()
