# SPDX-License-Identifier: MPL-2.0
"""What the watch makes of events, of a replaced driver, and of GPUs on their way back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

import pytest
from typing_extensions import Self

from nomad_nvidia_vgpu.errors import GpuError, NoSuchGpuError, StaleLibraryError
from nomad_nvidia_vgpu.gpu import watch as watching_module
from nomad_nvidia_vgpu.gpu.answers import NO_ANSWER
from nomad_nvidia_vgpu.gpu.health import GONE, HealthPolicy
from nomad_nvidia_vgpu.gpu.model import Look, Signals, XidEvent
from nomad_nvidia_vgpu.gpu.roll_call import Worker
from unit.example_gpus import look
from unit.gpu.watching import A, B, Watching
from unit.manual_clock import DEADLINE_S, ManualClock

HEALTHY = {"GPU-a": "", "GPU-b": ""}
HOUR_S = 3600.0
STAYS = HealthPolicy(recovery_period_s=HOUR_S)
LOST = GpuError("GPU-b: lost: drain the node")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a GPU on its way back be looked at every few milliseconds."""
    monkeypatch.setattr(watching_module, "_MIN_CHECK_S", 1 / 64)


def test_an_event_makes_its_gpu_unhealthy() -> None:
    """A fatal XID is told at once, though no look has found anything."""
    with Watching(A, B, policy=STAYS) as on:
        on.sink.expect_health(HEALTHY)
        on.source.report(XidEvent("GPU-b", 79))
        on.sink.wait_until(lambda: "XID 79" in on.sink.health()["GPU-b"])
        assert on.sink.health()["GPU-a"] == ""


def test_an_applications_event_changes_nothing() -> None:
    """An XID that is an application's fault is told to nobody."""
    with Watching(A, policy=STAYS) as on:
        on.sink.wait_until(lambda: on.sink.complete)
        told = len(on.sink.told)
        on.source.report(XidEvent("GPU-a", 13))
        on.source.wait_for_more("events", 1)
        assert len(on.sink.told) == told


def test_an_event_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """However often an XID repeats, the log names it once, with the signal that decided."""
    caplog.set_level(logging.INFO)
    with Watching(A, policy=STAYS) as on:
        on.sink.wait_until(lambda: on.sink.complete)
        for _ in range(3):
            on.source.report(XidEvent("GPU-a", 79))
            on.source.wait_for_more("events", 1)
        on.source.wait_for_more("look 0", 3)
    (line,) = caplog.messages
    assert line.startswith("GPU-a cannot be used (says XID 79): GPU-a: XID 79 ")


class Pauses:
    """Stands in for the watch's condition: remembers each pause instead of making it."""

    def __init__(self, on: Watching, count: int) -> None:
        """Stops the watch after so many pauses."""
        self.made: list[float | None] = []
        self._on = on
        self._count = count

    def __enter__(self) -> Self:
        """Locks nothing."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unlocks nothing."""

    def wait_for(self, claim: Callable[[], bool], timeout: float | None = None) -> bool:
        """Notes the pause."""
        self.made.append(timeout)
        if len(self.made) == self._count:
            self._on.watch._stopped = True
        return claim()


def pauses(answer: Callable[[float], Sequence[XidEvent]], count: int) -> list[float | None]:
    """Gives the pauses between the calls, one per call, while each wait for events answers so."""
    on = Watching(A, clock=ManualClock())
    calls: list[float] = []

    def wait_for_events(timeout_s: float) -> Sequence[XidEvent]:
        calls.append(timeout_s)
        return answer(timeout_s)

    on.source.wait_for_events = wait_for_events  # type: ignore[method-assign]
    made = Pauses(on, count)
    on.watch._changed = made  # type: ignore[assignment]
    on.watch._watch_events()
    assert len(calls) == count
    return made.made


def test_events_that_fail_at_once_do_not_spin() -> None:
    """While waiting for events fails, each call is followed by a longer pause, up to a minute."""

    def fail(timeout_s: float) -> Sequence[XidEvent]:
        raise GpuError(f"lost within {timeout_s} s")

    assert pauses(fail, 8) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_events_that_come_back_empty_at_once_do_not_spin() -> None:
    """While nothing can report events, each call is followed by a longer pause, up to a minute."""
    assert pauses(lambda _: (), 7) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


def test_an_unforeseen_failure_of_events_is_got_over() -> None:
    """An error that nobody thought of does not end the waiting for events."""

    def fail(timeout_s: float) -> Sequence[XidEvent]:
        raise ZeroDivisionError(timeout_s)

    assert len(pauses(fail, 3)) == 3


def test_a_replaced_driver_makes_us_leave() -> None:
    """When only a new process can use the driver, this one is asked to leave."""
    on = Watching(A, period_s=HOUR_S)
    on.source.driver(StaleLibraryError("the driver was replaced"))
    with on:
        on.sink.wait_until(lambda: on.sink.complete)
    assert on.left == 1


def test_we_are_asked_to_leave_once() -> None:
    """However long leaving takes, it is asked for once."""
    on = Watching(A)
    on.source.driver(StaleLibraryError("the driver was replaced"))
    with on:
        for thread in threading.enumerate():
            if thread.name == "gpu-driver":
                thread.join(DEADLINE_S)
                assert not thread.is_alive()
    assert on.left == 1
    assert on.source.calls["open"] == 1


def test_a_replaced_driver_leaves_the_gpus_with_its_reason() -> None:
    """Until we have left, every GPU says that the driver was replaced."""
    with Watching(A, B) as on:
        on.sink.expect_health(HEALTHY)
        on.source.driver(StaleLibraryError("the driver was replaced"))
        on.sink.expect_health(dict.fromkeys(HEALTHY, "the driver was replaced"))


def test_a_gpu_that_is_missed_makes_the_gpus_be_counted() -> None:
    """A GPU that has to be found again is cause to count at once, not at the next period."""
    on = Watching(A, B, period_s=HOUR_S)
    on.source.answer(1, NoSuchGpuError("no GPU-b"))
    with on:
        on.source.wait_for_calls("open", 2)


def test_a_gpu_that_is_missed_is_accused_after_a_roll_call() -> None:
    """A GPU that its handle does not lead to is not unhealthy before the others were asked."""
    on = Watching(A, B, period_s=HOUR_S)
    with on:
        on.sink.expect_health(HEALTHY)
        on.source.hang("find 0")
        on.source.answer(1, NoSuchGpuError("no GPU-b"))
        on.source.report(XidEvent("GPU-b", 13))
        on.source.wait_until_hanging("find 0")
        assert on.sink.health() == HEALTHY
        on.source.release("find 0")
        on.sink.expect_health({"GPU-a": "", "GPU-b": f"GPU-b: {GONE}"})


@pytest.mark.usefixtures("soon")
def test_a_gpu_on_its_way_back_is_looked_at_more_often() -> None:
    """A GPU that failed is not late by a whole period when it works again."""
    on = Watching(A, B, period_s=HOUR_S)
    on.source.answer(1, LOST)
    with on:
        on.source.wait_for_calls("look 1", 5)
        on.source.answer(1, look(B))
        on.sink.expect_health(HEALTHY)
        assert on.source.calls["look 0"] == 1


@pytest.mark.usefixtures("soon")
def test_a_gpu_with_an_event_is_looked_at_more_often() -> None:
    """A GPU that an event made unhealthy is not late by a whole period when it is well."""
    on = Watching(A, period_s=HOUR_S)
    on.source.answer(0, Look("GPU-a", (A,), Signals(recovery_action=0)))
    with on:
        on.sink.expect_health({"GPU-a": ""})
        on.source.report(XidEvent("GPU-a", 79))
        on.sink.wait_until_told(lambda inventory: not inventory.gpus[0].health.healthy)
        on.source.wait_for_calls("look 0", 3)
        on.sink.expect_health({"GPU-a": ""})


@pytest.mark.usefixtures("soon")
def test_a_hung_sample_that_returns_brings_its_gpu_back() -> None:
    """A GPU that was given up during a sample is looked at as soon as the sample returns."""
    clock = ManualClock()
    on = Watching(A, period_s=HOUR_S, give_up_s=9.0, clock=clock)
    on.source.hang("sample 0")
    with on:
        on.source.wait_until_hanging("sample 0")
        clock.advance(9.0)
        on.watch.check_workers()
        assert on.sink.health() == {"GPU-a": NO_ANSWER}
        on.source.release("sample 0")
        on.source.wait_for_calls("look 0", 2)
        on.until_called("look 0", clock, 1 / 64)
        on.sink.expect_health({"GPU-a": ""})


class Ending(Worker):
    """A worker whose call ends between two reads of when it began."""

    def __init__(self) -> None:
        """Is busy for one more read."""
        self._began: list[float | None] = [1.0]
        super().__init__()

    @property
    def busy_since(self) -> float | None:
        """When the call began, once."""
        return self._began.pop() if self._began else None

    @busy_since.setter
    def busy_since(self, value: float | None) -> None:
        """Keeps what it had."""


def test_a_call_may_end_while_it_is_timed() -> None:
    """A call that ends while it is found to be late does no harm."""
    worker = Ending()
    assert worker.busy_longer_than(2.0)
    assert not worker.busy_longer_than(2.0)
