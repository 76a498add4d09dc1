# SPDX-License-Identifier: MPL-2.0
"""What Nomad asked the plugin for since it started."""

from __future__ import annotations

import threading

from nomad_nvidia_vgpu.state.tally import MADE, REFUSED, Tally


def test_all_counts_begin_at_zero() -> None:
    """A counter that is there from the start has a rate from the start."""
    tally = Tally()
    assert tally.reservations == {MADE: 0, REFUSED: 0}


def test_each_deed_is_counted_once() -> None:
    """What is done raises its own count and no other."""
    tally = Tally()
    tally.reserved(MADE)
    tally.reserved(REFUSED)
    tally.reserved(REFUSED)
    assert tally.reservations == {MADE: 1, REFUSED: 2}


def test_no_count_is_lost_between_threads() -> None:
    """Many threads that count at once are all counted."""
    tally = Tally()

    def count() -> None:
        for _ in range(500):
            tally.reserved(MADE)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.reservations[MADE] == 4000
