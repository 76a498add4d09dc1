# SPDX-License-Identifier: MPL-2.0
"""GPUs are sampled together and in turn, and none waits long for another."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.gpu.pace import Turn, next_beat


@given(st.floats(0, 1e8), st.sampled_from([0.01, 0.1, 0.3, 1.0, 2.5, 3600.0]))
def test_the_next_beat_is_ahead_and_no_further_than_an_interval(
    now: float, interval_s: float
) -> None:
    """At whatever moment it is asked for, a beat on it included."""
    for moment in (now, next_beat(now, interval_s)):
        beat = next_beat(moment, interval_s)
        assert moment < beat <= moment + interval_s * (1 + 1e-5)


def test_those_who_ask_at_different_moments_come_to_the_same_beat() -> None:
    """Threads that began one after the other wake together."""
    assert {next_beat(100 + late, 1.0) for late in (0.0, 0.2, 0.999)} == {101.0}


@pytest.mark.timeout(10)
def test_a_turn_that_never_ends_keeps_nobody_out() -> None:
    """A call that hangs costs the others a moment, and the turn is given back by its holder alone."""
    turn, entered, let_go = Turn(), threading.Event(), threading.Event()

    def hang() -> None:
        with turn.taken():
            entered.set()
            let_go.wait()

    hung = threading.Thread(target=hang)
    hung.start()
    entered.wait()
    for _ in range(2):
        with turn.taken():
            assert hung.is_alive()
    let_go.set()
    hung.join()
    with turn.taken():
        pass
