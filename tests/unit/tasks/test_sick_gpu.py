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
from nomad_nvidia_vgpu.state.usage import GpuUse, Task, TaskProcess
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


def grave(card: Gpu) -> SeenGpu:
    """Gives a GPU that needs a reset."""
    return SeenGpu(card, Health(False, Problem(f"{card.uuid}: lost"), grave=True))


class Tasks(Sleepers):
    """Processes that sleep, and who has them on which GPU."""

    def __init__(self) -> None:
        """Runs none yet."""
        super().__init__()
        self.asked: list[str] = []
        self.restarted: dict[tuple[str, str], TaskProcess] = {}
        """The first process of each task that claims a GPU, listed or not."""
        self._uses: dict[str, GpuUse] = {}

    def start_on(self, on: Gpu, manner: str = POLITE, task: Task = TASK) -> subprocess.Popen[str]:
        """Starts a process that uses this GPU."""
        process = self.start(manner)
        held = share(as_seen(process), task=task, gpu=on.uuid)
        self._uses[on.uuid] = use_of(held, gpu=on.uuid)
        return process

    def first_process(self, task: Task, gpu_uuid: str) -> TaskProcess | None:
        """As an accountant."""
        return self.restarted.get((task.key, gpu_uuid))

    def last_use(self, gpu_uuid: str) -> GpuUse | None:
        """As an accountant."""
        self.asked.append(gpu_uuid)
        return self._uses.get(gpu_uuid)


class Ending:
    """A `TaskEnder` with what is before and behind it."""

    def __init__(self, tasks: Tasks, grace_s: float) -> None:
        """Ends none yet."""
        self.sink = RecordingSink()
        self.ender = TaskEnder(
            self.sink, tasks.last_use, same_process, grace_s, returned=tasks.first_process
        )
        self._others = set(threading.enumerate())

    def see(self, now: Inventory) -> None:
        """Hands on this inventory, and waits for what is done about it."""
        self.ender.take_inventory(now, complete=True)
        self.wait()

    def look_again(self) -> None:
        """Comes to the end of a pass over the processes, and waits for what is done about it."""
        self.ender.again()
        self.wait()

    def wait(self) -> None:
        """Waits until nobody is being ended."""
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


def test_a_fault_that_is_older_than_we_are_ends_tasks(tasks: Tasks) -> None:
    """Who uses a grave GPU is ended when that is known, be it long after the fault was."""
    ending = Ending(tasks, DEADLINE_S)
    ending.see(inventory(grave(A)))
    process = tasks.start_on(A)
    ending.look_again()
    assert process.wait(DEADLINE_S) == -signal.SIGTERM


def test_a_task_that_is_started_again_is_ended_again(tasks: Tasks) -> None:
    """Nomad starts tasks again in place, on the dead GPU: until it places them elsewhere."""
    ending = Ending(tasks, DEADLINE_S)
    first = tasks.start_on(A)
    ending.see(inventory(grave(A)))
    assert first.wait(DEADLINE_S) == -signal.SIGTERM
    for _ in range(2):
        process = tasks.start(POLITE)
        tasks.restarted[TASK.key, "GPU-a"] = as_seen(process)
        ending.look_again()
        assert process.wait(DEADLINE_S) == -signal.SIGTERM


def test_a_task_on_a_gpu_that_is_well_again_is_left_alone(tasks: Tasks) -> None:
    """What was held against a GPU is forgotten with its fault."""
    ending = Ending(tasks, DEADLINE_S)
    tasks.start_on(A)
    ending.see(inventory(grave(A)))
    ending.see(inventory(A))
    process = tasks.start(POLITE)
    tasks.restarted[TASK.key, "GPU-a"] = as_seen(process)
    ending.look_again()
    assert process.poll() is None


def test_nobody_is_ended_twice(tasks: Tasks) -> None:
    """A process that cannot end - it hangs in the driver - is not sent signals for ever."""
    ending = Ending(tasks, NO_GRACE_S)
    tasks.start_on(A, STUBBORN)
    sent: list[int] = []
    before = ending.ender._belongs

    def belongs(process: TaskProcess, task: Task) -> bool:
        sent.append(process.pid)
        return before(process, task)

    ending.ender._belongs = belongs
    ending.see(inventory(grave(A)))
    asked = len(sent)
    for _ in range(3):
        ending.look_again()
    assert len(sent) == asked


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
