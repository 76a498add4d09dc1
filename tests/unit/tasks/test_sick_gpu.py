# SPDX-License-Identifier: MPL-2.0
"""Ending the GPU processes of tasks on a GPU that will not work again by itself."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator

import pytest

from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.model import Gpu, GpuProcess, Health, Inventory, SeenGpu
from nomad_nvidia_vgpu.state.usage import GpuUse, Task
from nomad_nvidia_vgpu.tasks.sick_gpu import TaskEnder
from unit.example_gpus import FULL_SAMPLE, gpu, inventory
from unit.gpu.scripted_source import RecordingSink
from unit.manual_clock import DEADLINE_S
from unit.tasks.doomed_processes import (
    POLITE,
    STUBBORN,
    TASK,
    Sleepers,
    as_seen,
    same_process,
    share,
    use_of,
)

A, B = gpu("GPU-a"), gpu("GPU-b")
NO_GRACE_S = 1 / 64


def grave(one: Gpu) -> SeenGpu:
    """Gives a GPU that needs a reset."""
    return SeenGpu(one, Health(False, Problem(f"{one.uuid}: lost"), grave=True))


class Tasks(Sleepers):
    """Processes that sleep, and who has them on which GPU."""

    def __init__(self) -> None:
        """Runs none yet."""
        super().__init__()
        self.asked: list[str] = []
        self._uses: dict[str, GpuUse] = {}

    def start_on(self, on: Gpu, manner: str = POLITE, task: Task = TASK) -> subprocess.Popen[str]:
        """Starts a process that uses this GPU."""
        process = self.start(manner)
        one = share(as_seen(process), task=task, gpu=on.uuid)
        self._uses[on.uuid] = use_of(one, gpu=on.uuid)
        return process

    def last_use(self, gpu_uuid: str) -> GpuUse | None:
        """As an accountant."""
        self.asked.append(gpu_uuid)
        return self._uses.get(gpu_uuid)


class Ending:
    """A `TaskEnder` with what is before and behind it."""

    def __init__(self, tasks: Tasks, grace_s: float) -> None:
        """Ends none yet."""
        self.sink = RecordingSink()
        self.ender = TaskEnder(self.sink, tasks.last_use, same_process, grace_s)
        self._others = set(threading.enumerate())

    def see(self, now: Inventory) -> None:
        """Hands on this inventory, and waits for what is done about it."""
        self.ender.take_inventory(now, complete=True)
        for thread in set(threading.enumerate()) - self._others:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()


@pytest.fixture
def tasks() -> Iterator[Tasks]:
    """Gives tasks; ends their processes after the test."""
    made = Tasks()
    yield made
    made.end()


def test_a_grave_gpu_ends_its_tasks(tasks: Tasks) -> None:
    """A process on a GPU that needs a reset is asked to end."""
    process = tasks.start_on(A)
    Ending(tasks, DEADLINE_S).see(inventory(grave(A)))
    assert process.wait(DEADLINE_S) == -signal.SIGTERM


def test_who_does_not_end_in_time_is_killed(tasks: Tasks) -> None:
    """A process that ignores the request is killed after the grace."""
    process = tasks.start_on(A, STUBBORN)
    Ending(tasks, NO_GRACE_S).see(inventory(grave(A)))
    assert process.wait(DEADLINE_S) == -signal.SIGKILL


def test_who_is_not_known_beyond_doubt_is_spared(tasks: Tasks) -> None:
    """A process that is known by its environment only is left alone."""
    process = tasks.start_on(A, task=TASK._replace(certain=False))
    Ending(tasks, NO_GRACE_S).see(inventory(grave(A)))
    assert process.poll() is None


def test_an_unhealthy_gpu_that_may_return_ends_nobody(tasks: Tasks) -> None:
    """A fault that needs neither reset nor reboot leaves every process alone."""
    tasks.start_on(A)
    odd = SeenGpu(A, Health(False, Problem("GPU-a: odd")))
    Ending(tasks, NO_GRACE_S).see(inventory(odd))
    assert tasks.asked == []


def test_a_gpu_that_nobody_was_seen_on_ends_nobody(tasks: Tasks) -> None:
    """A GPU that was lost before its processes were ever listed is no failure."""
    Ending(tasks, NO_GRACE_S).see(inventory(grave(A)))
    assert tasks.asked == ["GPU-a"]


def test_other_gpus_keep_their_tasks(tasks: Tasks) -> None:
    """Processes on a healthy GPU stay when its neighbour is lost."""
    lost, kept = tasks.start_on(A), tasks.start_on(B)
    Ending(tasks, DEADLINE_S).see(inventory(grave(A), B))
    assert lost.wait(DEADLINE_S) == -signal.SIGTERM
    assert kept.poll() is None
    assert tasks.asked == ["GPU-a"]


def test_each_gpu_ends_its_tasks_once(tasks: Tasks) -> None:
    """However often a lost GPU is told of, its processes are ended once."""
    ending = Ending(tasks, NO_GRACE_S)
    for _ in range(3):
        ending.see(inventory(grave(A)))
    ending.see(inventory(grave(A), grave(B)))
    assert tasks.asked == ["GPU-a", "GPU-b"]


def test_a_gpu_that_is_lost_again_ends_its_tasks_again(tasks: Tasks) -> None:
    """After a GPU was usable, its next grave fault counts as the first did."""
    ending = Ending(tasks, NO_GRACE_S)
    for now in (inventory(grave(A)), inventory(A), inventory(grave(A))):
        ending.see(now)
    assert tasks.asked == ["GPU-a", "GPU-a"]


def test_a_fault_that_becomes_grave_ends_tasks(tasks: Tasks) -> None:
    """A GPU that was unhealthy before and then needs a reset ends its processes."""
    ending = Ending(tasks, NO_GRACE_S)
    for now in (SeenGpu(A, Health(False, Problem("GPU-a: odd"))), grave(A)):
        ending.see(inventory(now))
    assert tasks.asked == ["GPU-a"]


def test_what_is_seen_is_handed_on(tasks: Tasks) -> None:
    """Whoever stands behind is told of all as if nobody stood between."""
    ending = Ending(tasks, NO_GRACE_S)
    ending.see(inventory(grave(A), B))
    ending.ender.take_samples({"GPU-b": FULL_SAMPLE})
    ending.ender.take_processes({"GPU-b": (GpuProcess(7, 1, "compute"),)})
    assert ending.sink.told == [(inventory(grave(A), B), True)]
    assert ending.sink.samples == {"GPU-b": 1}
    assert ending.sink.processes == {"GPU-b": (GpuProcess(7, 1, "compute"),)}
