# SPDX-License-Identifier: MPL-2.0
"""What the watch makes of GPUs that come, fail, hang and go."""

from __future__ import annotations

from nomad_nvidia_vgpu.errors import DriverError, GpuError
from nomad_nvidia_vgpu.gpu.answers import NO_ANSWER
from nomad_nvidia_vgpu.gpu.health import GONE
from nomad_nvidia_vgpu.gpu.model import Inventory, Look
from unit.example_gpus import gpu, look, mig
from unit.gpu.watching import A, B, C, Watching
from unit.manual_clock import ManualClock

NO_DRIVER = DriverError("libnvidia-ml.so.1 not found: install the driver")
LOST = GpuError("GPU-b: lost: drain the node")
HEALTHY = {"GPU-a": "", "GPU-b": ""}


def test_every_gpu_is_found() -> None:
    """All GPUs that the driver counts are found, and then the inventory is complete."""
    with Watching(A, B) as on:
        on.sink.wait_until(lambda: on.sink.complete)
        assert on.sink.health() == HEALTHY


def test_a_node_without_gpus_is_complete() -> None:
    """A driver that counts no GPU makes a complete, empty inventory."""
    with Watching() as on:
        on.sink.wait_until(lambda: on.sink.complete)
        assert on.sink.inventory == Inventory()


def test_a_node_without_a_driver_is_complete() -> None:
    """Without a driver there is nothing to wait for: the inventory is empty and complete."""
    with Watching(A) as on:
        on.source.driver(NO_DRIVER)
        on.sink.wait_until(lambda: on.sink.complete)


def test_a_driver_that_appears_later_is_found() -> None:
    """A driver installed while we run brings its GPUs without a restart."""
    on = Watching(A, B)
    on.source.driver(NO_DRIVER)
    with on:
        on.sink.wait_until(lambda: on.sink.complete)
        assert on.sink.inventory == Inventory()
        on.source.driver(None)
        on.sink.expect_health(HEALTHY)


def test_a_driver_that_goes_away_takes_no_gpu_along() -> None:
    """A driver that fails later leaves every GPU published, unhealthy with the remedy."""
    with Watching(A, B) as on:
        on.sink.expect_health(HEALTHY)
        on.source.driver(NO_DRIVER)
        on.sink.expect_health(dict.fromkeys(HEALTHY, str(NO_DRIVER)))
        on.source.driver(None)
        on.sink.expect_health(HEALTHY)


def test_a_driver_problem_met_by_a_look_ends_with_the_next_opening() -> None:
    """GPUs that met a closed driver are looked at again at once when it has been opened."""
    frozen = ManualClock()  # so that no further look comes by itself
    on = Watching(A, clock=frozen)
    on.source.answer(0, DriverError("not initialised"))
    with on:
        on.source.wait_for_calls("look 0", 1)
        on.source.answer(0, look(A))
        on.sink.expect_health({"GPU-a": ""})


def test_a_driver_that_fails_in_an_unforeseen_way_is_tried_again() -> None:
    """An error that nobody thought of does not end the watch over the driver."""
    on = Watching(A)
    on.source.driver(MemoryError("odd"))
    with on:
        on.sink.wait_until(lambda: on.sink.complete)
        on.source.driver(None)
        on.sink.expect_health({"GPU-a": ""})


def test_one_failing_gpu_does_not_disturb_the_others() -> None:
    """A GPU that fails stays with its last facts and the reason, and the others stay healthy."""
    with Watching(A, B) as on:
        on.sink.expect_health(HEALTHY)
        on.source.answer(1, LOST)
        on.sink.expect_health({"GPU-a": "", "GPU-b": str(LOST)})
        assert on.sink.inventory.gpus[1].gpu == B


def test_a_gpu_that_works_again_is_back() -> None:
    """A GPU that answers again is healthy, with the facts that it gives now."""
    with Watching(A, B) as on:
        on.sink.expect_health(HEALTHY)
        on.source.answer(1, LOST)
        on.sink.expect_health({"GPU-a": "", "GPU-b": str(LOST)})
        repaired = gpu("GPU-b", power_limit_w=60)
        on.source.answer(1, look(repaired))
        on.sink.expect_health(HEALTHY)
        assert on.sink.inventory.gpus[1].gpu == repaired


def test_a_gpu_that_fails_from_the_start_is_not_waited_for() -> None:
    """A GPU that fails before it said who it is does not keep the inventory incomplete."""
    on = Watching(A, B)
    on.source.hide(1, LOST)
    with on:
        on.sink.wait_until(lambda: on.sink.complete and on.sink.health() == {"GPU-a": ""})


def test_an_unforeseen_failure_is_that_gpus_alone() -> None:
    """An error that nobody thought of makes its GPU unhealthy, as a bug, and is got over."""
    with Watching(A, B) as on:
        on.sink.expect_health(HEALTHY)
        on.source.answer(1, ZeroDivisionError("odd"))
        on.sink.wait_until(lambda: "report this as a bug" in on.sink.health()["GPU-b"])
        assert on.sink.health()["GPU-a"] == ""
        on.source.answer(1, look(B))
        on.sink.expect_health(HEALTHY)


def test_a_call_that_hangs_is_given_up() -> None:
    """A GPU whose look does not return in time does not answer; those of the others go on."""
    clock = ManualClock()
    with Watching(A, B, give_up_s=9.0, clock=clock) as on:
        on.sink.expect_health(HEALTHY)
        on.source.hang("look 1")
        on.until_called("look 1", clock, 1 / 64)
        on.until_at_rest(0, clock)
        clock.advance(8.5)
        on.watch.check_workers()
        assert on.sink.health()["GPU-b"] == ""
        clock.advance(0.5)
        on.watch.check_workers()
        on.sink.expect_health({"GPU-a": "", "GPU-b": NO_ANSWER})
        on.until_called("look 0", clock, 1 / 64)


def test_a_hanging_call_is_not_repeated() -> None:
    """While a call hangs in the driver, nobody makes another for the same GPU."""
    clock = ManualClock()
    on = Watching(A, B, give_up_s=9.0, clock=clock)
    on.source.hang("look 1")
    with on:
        on.source.wait_until_hanging("look 1")
        on.source.wait_for_calls("look 0", 1)
        for _ in range(5):
            on.until_called("look 0", clock, 100.0)
            on.watch.check_workers()
        assert on.source.calls["look 1"] == 1


def test_a_call_that_returns_brings_its_gpu_back() -> None:
    """A call that was given up and returns after all makes its GPU healthy again."""
    clock = ManualClock()
    on = Watching(A, B, give_up_s=9.0, clock=clock)
    on.source.hang("look 1")
    with on:
        on.sink.expect_health({"GPU-a": ""})
        on.source.wait_until_hanging("look 1")
        on.until_at_rest(0, clock)
        clock.advance(9.0)
        on.watch.check_workers()
        assert on.sink.complete
        on.source.release("look 1")
        on.sink.expect_health(HEALTHY)


def test_a_gpu_that_has_not_answered_keeps_the_inventory_incomplete() -> None:
    """Until each GPU has answered or was given up, the inventory is not complete."""
    clock = ManualClock()
    on = Watching(A, B, give_up_s=9.0, clock=clock)
    on.source.hang("look 1")
    with on:
        on.sink.expect_health({"GPU-a": ""})
        assert not on.sink.complete


def test_a_sample_that_hangs_is_given_up() -> None:
    """A GPU that hangs while it is sampled does not answer either."""
    clock = ManualClock()
    on = Watching(A, give_up_s=9.0, clock=clock)
    on.source.hang("sample 0")
    with on:
        on.source.wait_until_hanging("sample 0")
        clock.advance(9.0)
        on.watch.check_workers()
        assert on.sink.health() == {"GPU-a": NO_ANSWER}


def test_a_driver_that_hangs_is_given_up() -> None:
    """A driver whose opening does not return makes the inventory complete, and can come back."""
    clock = ManualClock()
    on = Watching(A, give_up_s=9.0, clock=clock)
    on.source.hang("open")
    with on:
        on.source.wait_until_hanging("open")
        clock.advance(9.0)
        on.watch.check_workers()
        assert on.sink.complete
        assert on.sink.inventory == Inventory()
        on.source.release("open")
        on.sink.expect_health({"GPU-a": ""})


def test_a_driver_that_hangs_later_makes_all_unhealthy() -> None:
    """When the driver hangs after GPUs were seen, each of them does not answer."""
    clock = ManualClock()
    with Watching(A, B, give_up_s=9.0, clock=clock) as on:
        on.sink.expect_health(HEALTHY)
        on.source.hang("open")
        on.source.wait_until_hanging("open")
        clock.advance(9.0)
        on.watch.check_workers()
        assert on.sink.health() == dict.fromkeys(HEALTHY, NO_ANSWER)


def test_a_gpu_that_is_counted_no_more_stays() -> None:
    """A GPU that the driver no longer counts stays, unhealthy with what to do."""
    with Watching(A, B) as on:
        on.sink.expect_health(HEALTHY)
        on.source.plug(look(A))
        on.sink.expect_health({"GPU-a": "", "GPU-b": f"GPU-b: {GONE}"})


def test_a_gpu_that_is_plugged_in_appears() -> None:
    """A GPU that the driver counts later is found."""
    with Watching(A) as on:
        on.sink.expect_health({"GPU-a": ""})
        on.source.plug(look(A), look(B))
        on.sink.expect_health(HEALTHY)


def test_the_first_of_two_gpus_may_go() -> None:
    """When the first GPU goes, the second moves to its index and stays healthy."""
    with Watching(A, B) as on:
        on.sink.expect_health(HEALTHY)
        on.source.plug(look(B))
        on.sink.expect_health({"GPU-a": f"GPU-a: {GONE}", "GPU-b": ""})


def test_a_gpu_that_hangs_while_another_goes_is_the_one_that_hangs() -> None:
    """However the indexes move, a call that hangs is held against the GPU that it was made for."""
    clock = ManualClock()
    with Watching(A, B, C, give_up_s=9.0, clock=clock) as on:
        on.sink.expect_health({**HEALTHY, "GPU-c": ""})
        on.source.hang("look 0")
        on.until_called("look 0", clock, 1 / 64)
        on.source.plug(look(A), look(C))
        for index in (1, 2):
            on.until_at_rest(index, clock)
        clock.advance(9.0)
        on.watch.check_workers()
        assert on.sink.health()["GPU-a"] == NO_ANSWER
        on.until_called("find 1", clock, 1.0)
        on.sink.wait_until(lambda: on.sink.health()["GPU-b"] == f"GPU-b: {GONE}")


def test_a_gpu_put_into_mig_mode_is_replaced() -> None:
    """MIG devices made while we run take the place of their GPU."""
    with Watching(A, B) as on:
        on.sink.expect_health(HEALTHY)
        on.source.answer(1, Look("GPU-b", (mig("MIG-1", "GPU-b"), mig("MIG-2", "GPU-b"))))
        on.sink.expect_health({"GPU-a": "", "MIG-1": "", "MIG-2": ""})


def test_nothing_is_told_while_nothing_changes() -> None:
    """Looks that find what is known already are not told to anyone."""
    with Watching(A) as on:
        on.sink.wait_until(lambda: on.sink.complete)
        told = len(on.sink.told)
        on.source.wait_for_more("look 0", 5)
        on.source.wait_for_more("open", 2)
        assert len(on.sink.told) == told


def test_every_thread_ends_after_stop() -> None:
    """Told to stop, the watch leaves no thread behind."""
    with Watching(A, B) as on:
        on.sink.expect_health(HEALTHY)
        threads = on.threads()
    names = {thread.name for thread in threads}
    assert names == {"gpu-driver", "gpu-events", "gpu-watchdog", "gpu-0", "gpu-1", "gpu-samples-0"}
    assert not any(thread.is_alive() for thread in threads)
