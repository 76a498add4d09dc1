# SPDX-License-Identifier: MPL-2.0
"""GPUs are sampled together, one after the other, and none waits long for another."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.gpu.sample_rounds import QUICK_ROUNDS, SLOW_S, next_beat
from unit.gpu.watching import A, B, C, Watching
from unit.manual_clock import DEADLINE_S, ManualClock

INTERVAL_S = 1 / 256


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


def test_one_thread_asks_all_gpus() -> None:
    """Waking costs as much as asking, so the GPUs of a node share a thread."""
    clock = ManualClock()
    with Watching(A, B, C, period_s=3600.0, clock=clock) as on, on.watch.sampling(INTERVAL_S):
        all_in_rounds(on)
        for turn in range(2, 5):
            clock.wait_for_reads("gpu-samples-0", 4)  # it rests
            clock.advance(INTERVAL_S)
            for index in range(3):
                on.source.wait_for_calls(f"sample {index}", turn)
        assert len(rounds(on)) == 1


def test_what_goes_wrong_with_a_gpus_figures_ends_no_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug of ours costs that GPU's figures, and is told once."""
    clock = ManualClock()
    with Watching(A, B, period_s=3600.0, clock=clock) as on, on.watch.sampling(INTERVAL_S):
        all_in_rounds(on)
        monkeypatch.setattr(on.sink, "take_samples", lambda _: 1 // 0)
        for _ in range(3):
            on.until_called("sample 0", clock, INTERVAL_S)
            on.until_called("sample 1", clock, INTERVAL_S)
    assert sum("report this as a bug" in message for message in caplog.messages) == 1


def test_a_sample_that_hangs_holds_up_no_other_gpu_for_long() -> None:
    """The others go on in a thread of their own, and so does the slow GPU when it answers."""
    clock = ManualClock()
    on = Watching(A, B, C, period_s=3600.0, clock=clock)
    with on, on.watch.sampling(INTERVAL_S):
        all_in_rounds(on)
        on.source.hang("sample 1")
        clock.advance(INTERVAL_S)
        on.source.wait_until_hanging("sample 1")
        clock.advance(2 * SLOW_S)
        on.watch.check_workers()
        asked = on.source.calls["sample 1"]
        for call in ("sample 0", "sample 2"):
            on.until_called(call, clock, INTERVAL_S)
        assert on.source.calls["sample 1"] == asked
        on.source.release("sample 1")
        on.until_called("sample 1", clock, INTERVAL_S)
        assert len(rounds(on)) >= 2


def test_a_gpu_is_never_asked_twice_at_once() -> None:
    """While its sample hangs it is not looked at, and it counts as not answering in time."""
    on = Watching(A, B, give_up_s=0.05)
    with on, on.watch.sampling(0.01):
        on.sink.expect_health({"GPU-a": "", "GPU-b": ""})
        on.source.hang("sample 1")
        on.source.wait_until_hanging("sample 1")
        looks = on.source.calls["look 1"]
        on.watch.check_workers()
        on.sink.wait_until(lambda: "does not answer" in on.sink.health()["GPU-b"])
        on.source.wait_for_more("look 0", 3)
        assert on.source.calls["look 1"] <= looks + 1
        on.source.release("sample 1")
        on.sink.expect_health({"GPU-a": "", "GPU-b": ""})


def test_a_round_that_takes_half_its_interval_is_split() -> None:
    """On a node whose driver is slow, GPUs are asked at the same time, as each had a thread."""
    clock = ManualClock()
    on = Watching(A, B, C, period_s=3600.0, clock=clock)
    with on, on.watch.sampling(INTERVAL_S):
        all_in_rounds(on)
        on.source.hang("sample 2")
        clock.advance(INTERVAL_S)
        on.source.wait_until_hanging("sample 2")
        clock.advance(INTERVAL_S)
        on.source.release("sample 2")
        for index in range(3):
            on.until_called(f"sample {index}", clock, INTERVAL_S)
        assert len(rounds(on)) >= 2


def test_rounds_that_are_quick_again_become_one() -> None:
    """One slow moment does not cost a thread for ever; until then every GPU is asked."""
    clock = ManualClock()
    on = Watching(A, B, C, period_s=3600.0, clock=clock)
    with on, on.watch.sampling(INTERVAL_S):
        all_in_rounds(on)
        on.source.hang("sample 1")
        clock.advance(INTERVAL_S)
        on.source.wait_until_hanging("sample 1")
        clock.advance(2 * SLOW_S)
        on.watch.check_workers()
        on.source.release("sample 1")
        on.until_called("sample 1", clock, INTERVAL_S)
        assert len(rounds(on)) == 2
        for _ in range(100 * QUICK_ROUNDS):
            on.until_called("sample 0", clock, INTERVAL_S)
            if len(rounds(on)) == 1:
                break
        assert len(rounds(on)) == 1
        for index in range(3):
            on.until_called(f"sample {index}", clock, INTERVAL_S)


def rounds(on: Watching) -> list[threading.Thread]:
    """The threads that sample."""
    return [thread for thread in on.threads() if thread.name.startswith("gpu-samples-")]


def all_in_rounds(on: Watching) -> None:
    """Waits until each GPU has had its first look and is in a round."""
    deadline = time.monotonic() + DEADLINE_S
    while sum(len(known.gpus) for known in on.watch._samples._rounds) < on.source.count():
        assert time.monotonic() < deadline
        time.sleep(0.001)  # between two looks at another thread's state
