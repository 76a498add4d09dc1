# SPDX-License-Identifier: MPL-2.0
"""When the watch samples GPUs, and what it logs."""

from __future__ import annotations

import logging
from contextlib import ExitStack

import pytest

from nomad_nvidia_vgpu.errors import DriverError, GpuError
from nomad_nvidia_vgpu.gpu.model import GpuProcess
from nomad_nvidia_vgpu.gpu.sample_rounds import LIST_EVERY_S
from unit.example_gpus import look
from unit.gpu.watching import A, B, Watching
from unit.manual_clock import ManualClock

# Powers of two, so that the sums that the watch makes of them are exact.
PERIOD_S = 1.0
INTERVAL_S = 1 / 256
LOST = GpuError("GPU-b: lost: drain the node")


def serve(on: Watching, clock: ManualClock, intervals: int) -> None:
    """Lets so many intervals pass; each must bring one sample, and none more than one."""
    on.until_called("sample 0", clock, INTERVAL_S)
    began, before = clock.now, on.source.calls["sample 0"]
    for _ in range(intervals):
        on.until_called("sample 0", clock, INTERVAL_S, within_s=2.0)
    passed = (clock.now - began) / INTERVAL_S
    # One more may have been under way when the count began.
    assert on.source.calls["sample 0"] - before <= passed + 1
    # The clock may have been moved under a look, whose interval begins with its end.
    assert passed <= intervals + 3


def test_a_look_takes_one_sample() -> None:
    """Without anyone who wants stats, each look takes one sample and nothing else does."""
    with Watching(A) as on:
        on.source.wait_for_calls("look 0", 5)
    assert on.source.calls["sample 0"] == on.source.calls["look 0"]


def test_samples_reach_the_sink() -> None:
    """A sample is handed on under the UUID of its GPU."""
    with Watching(A, B) as on:
        on.sink.wait_until(lambda: set(on.sink.samples) == {"GPU-a", "GPU-b"})


def test_who_asks_is_served_each_interval() -> None:
    """While somebody asks, each interval brings one sample, and no look."""
    clock = ManualClock()
    with Watching(A, period_s=PERIOD_S, clock=clock) as on:
        on.source.wait_for_calls("sample 0", 1)
        with on.watch.sampling(INTERVAL_S):
            serve(on, clock, 10)
        assert on.source.calls["look 0"] == 1


def test_many_who_ask_share_one_pass() -> None:
    """However many ask, one pass is made, at the smallest of their intervals."""
    clock = ManualClock()
    with Watching(A, period_s=PERIOD_S, clock=clock) as on, ExitStack() as asking:
        on.source.wait_for_calls("sample 0", 1)
        for interval_s in (16 * INTERVAL_S, INTERVAL_S, INTERVAL_S, 4 * INTERVAL_S):
            asking.enter_context(on.watch.sampling(interval_s))
        serve(on, clock, 10)


def test_the_smallest_interval_ends_with_who_asked_for_it() -> None:
    """When the most eager one leaves, samples come at the interval of the next."""
    clock = ManualClock()
    with Watching(A, period_s=PERIOD_S, clock=clock) as on, on.watch.sampling(8 * INTERVAL_S):
        on.source.wait_for_calls("sample 0", 1)
        with on.watch.sampling(INTERVAL_S):
            serve(on, clock, 2)
        before = on.source.calls["sample 0"]
        for _ in range(32):
            clock.advance(INTERVAL_S)
            clock.wait_for_reads("gpu-samples-0", 3)
        assert 3 <= on.source.calls["sample 0"] - before <= 6


def test_sampling_ends_with_the_last_who_asked() -> None:
    """When nobody asks any more, no sample is taken but those of the looks."""
    clock = ManualClock()
    with Watching(A, period_s=4 * INTERVAL_S, clock=clock) as on:
        on.source.wait_for_calls("sample 0", 1)
        with on.watch.sampling(INTERVAL_S):
            serve(on, clock, 2)
        on.until_called("look 0", clock, INTERVAL_S)
        on.until_called("look 0", clock, INTERVAL_S)
        spare = on.source.calls["sample 0"] - on.source.calls["look 0"]
        for _ in range(4):
            on.until_called("look 0", clock, INTERVAL_S)
    assert on.source.calls["sample 0"] - on.source.calls["look 0"] in (spare, spare + 1)


def test_a_new_interval_is_heeded_at_once() -> None:
    """Who asks for stats does not wait for the end of a long interval or period."""
    clock = ManualClock()
    with Watching(A, period_s=3600.0, clock=clock) as on, on.watch.sampling(1800.0):
        on.source.wait_for_calls("sample 0", 1)
        with on.watch.sampling(INTERVAL_S):
            on.until_called("sample 0", clock, INTERVAL_S)


def test_a_gpu_that_hangs_does_not_delay_the_samples_of_others() -> None:
    """While one GPU hangs in the driver, the others are sampled on time."""
    clock = ManualClock()
    on = Watching(A, B, period_s=PERIOD_S, clock=clock)
    on.source.hang("look 1")
    with on, on.watch.sampling(INTERVAL_S):
        on.source.wait_until_hanging("look 1")
        on.source.wait_for_calls("sample 0", 1)
        serve(on, clock, 5)
        assert on.source.calls["sample 1"] == 0


def test_a_failing_sample_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """A GPU that gives no figures keeps its health, is asked again, and stays out of the log."""
    caplog.set_level(logging.INFO)
    on = Watching(A)
    on.source.fail_samples(GpuError("no figures"))
    with on:
        on.source.wait_for_calls("sample 0", 3)
        assert on.sink.health() == {"GPU-a": ""}
        assert not caplog.messages
        on.source.fail_samples(None)
        on.sink.wait_until(lambda: on.sink.samples["GPU-a"] > 0)


def test_a_failing_gpu_is_not_sampled() -> None:
    """A GPU whose look failed is not asked for figures as well."""
    on = Watching(A, B)
    on.source.answer(1, LOST)
    with on:
        on.source.wait_for_calls("look 1", 3)
        assert on.source.calls["sample 1"] == 0


def test_the_log_has_one_line_per_change(caplog: pytest.LogCaptureFixture) -> None:
    """However often a GPU fails for one cause, the log says so once, and once when it is back."""
    caplog.set_level(logging.INFO)
    with Watching(A, B) as on:
        on.sink.expect_health({"GPU-a": "", "GPU-b": ""})
        on.source.answer(1, LOST)
        on.sink.expect_health({"GPU-a": "", "GPU-b": str(LOST)})
        on.source.wait_for_more("look 1", 5)
        on.source.answer(1, look(B))
        on.sink.expect_health({"GPU-a": "", "GPU-b": ""})
        on.source.wait_for_more("look 1", 3)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"GPU-b cannot be used (says a getter's error): {LOST}"),
        ("INFO", "GPU-b can be used again"),
    ]


def test_a_graver_cause_is_a_new_line(caplog: pytest.LogCaptureFixture) -> None:
    """A GPU that now needs a reset, as it did not before, is worth another line."""
    with Watching(A, B) as on:
        on.sink.expect_health({"GPU-a": "", "GPU-b": ""})
        for cause in (LOST, GpuError("GPU-b: in need of a reset", grave=True)):
            on.source.answer(1, cause)
            on.sink.expect_health({"GPU-a": "", "GPU-b": str(cause)})
    assert len(caplog.messages) == 2


def test_another_cause_no_graver_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    """A GPU that fails in one way after another keeps the text and the line of the first."""
    with Watching(A, B) as on:
        on.sink.expect_health({"GPU-a": "", "GPU-b": ""})
        on.source.answer(1, LOST)
        on.sink.expect_health({"GPU-a": "", "GPU-b": str(LOST)})
        on.source.answer(1, GpuError("GPU-b: odd"))
        on.source.wait_for_more("look 1", 3)
        assert on.sink.health()["GPU-b"] == str(LOST)
    assert len(caplog.messages) == 1


def test_a_missing_driver_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """However often the driver is missed, the log says so once, and once when it is there."""
    caplog.set_level(logging.INFO)
    on = Watching(A)
    on.source.driver(DriverError("install the driver"))
    with on:
        on.source.wait_for_calls("open", 5)
        on.source.driver(None)
        on.sink.expect_health({"GPU-a": ""})
        on.source.wait_for_more("open", 3)
    assert caplog.messages == [
        "the GPUs of this node cannot be used (says the driver): install the driver",
        "the GPUs of this node can be used again",
    ]


def test_processes_are_listed_less_often_than_figures_are_taken() -> None:
    """However often somebody wants stats, the processes are listed at their own, longer interval."""
    clock = ManualClock()
    with Watching(A, period_s=1024.0, clock=clock) as on:
        on.sink.wait_until(lambda: "GPU-a" in on.sink.processes)
        with on.watch.sampling(LIST_EVERY_S / 4):
            for _ in range(9):
                seen = on.source.calls["sample 0"]
                clock.advance(LIST_EVERY_S / 4)
                on.source.wait_for_calls("sample 0", seen + 1)
        assert 2 <= on.source.calls["processes 0"] <= 4


def test_processes_reach_the_sink() -> None:
    """The processes of each GPU are handed on under its UUID."""
    process = GpuProcess(17, 512, "compute")
    with Watching(A, B, listed={"GPU-b": (process,)}) as on:
        on.sink.wait_until(lambda: on.sink.processes == {"GPU-a": (), "GPU-b": (process,)})


def test_processes_that_cannot_be_listed_take_nothing_away() -> None:
    """Figures come and the GPU stays healthy, whatever goes wrong with its list of processes."""
    with Watching(A, listed=GpuError("GPU-a: odd")) as on:
        on.source.wait_for_calls("processes 0", 1)
        on.source.wait_for_calls("look 0", 3)
        on.sink.wait_until(lambda: on.sink.samples["GPU-a"] >= 3)
        assert on.sink.health() == {"GPU-a": ""}
        assert on.sink.processes == {}
