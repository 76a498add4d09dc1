# SPDX-License-Identifier: MPL-2.0
"""Ending the GPU processes of tasks on a GPU that will not work again by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import pytest

from nomad_nvidia_vgpu.device.task_ending import NobodyAttributed, TaskEnder, TaskProcess
from nomad_nvidia_vgpu.gpu.model import Gpu, Health, Inventory, SeenGpu
from unit.example_gpus import FULL_SAMPLE, gpu, inventory
from unit.gpu.scripted_source import RecordingSink
from unit.manual_clock import DEADLINE_S

A, B = gpu("GPU-a"), gpu("GPU-b")
NO_GRACE_S = 1 / 64
POLITE = "signal.signal(signal.SIGTERM, signal.SIG_DFL)"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


def grave(one: Gpu) -> SeenGpu:
    """Gives a GPU that needs a reset."""
    return SeenGpu(one, Health(False, f"{one.uuid}: lost", grave=True))


class Tasks:
    """Processes that sleep, and who has them on which GPU."""

    def __init__(self) -> None:
        """Runs none yet."""
        self.started: list[subprocess.Popen[str]] = []
        self.asked: list[str] = []
        self.pidfds: list[int] = []
        self._on: dict[str, list[subprocess.Popen[str]]] = {}

    def start(self, on: Gpu, manner: str = POLITE) -> subprocess.Popen[str]:
        """Starts a process that uses this GPU."""
        code = f"import signal, threading; {manner}; print(flush=True); threading.Event().wait()"
        process = subprocess.Popen([sys.executable, "-Sc", code], stdout=subprocess.PIPE, text=True)
        self.started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        self._on.setdefault(on.uuid, []).append(process)
        return process

    def processes_on(self, gpu: Gpu) -> Sequence[TaskProcess]:
        """As an `Attribution` does."""
        self.asked.append(gpu.uuid)
        found = []
        for process in self._on.get(gpu.uuid, []):
            self.pidfds.append(os.pidfd_open(process.pid))
            found.append(TaskProcess(process.pid, self.pidfds[-1], "alloc/task"))
        return found


class Ending:
    """A `TaskEnder` with what is before and behind it."""

    def __init__(self, tasks: Tasks, grace_s: float) -> None:
        """Ends none yet."""
        self.sink = RecordingSink()
        self.ender = TaskEnder(self.sink, tasks, grace_s)
        self._others = set(threading.enumerate())

    def see(self, now: Inventory) -> None:
        """Hands on this inventory, and waits for what is done about it."""
        self.ender.take_inventory(now, complete=True)
        for thread in set(threading.enumerate()) - self._others:
            if not isinstance(thread, threading.Timer):  # that of the grace, started or not
                thread.join(DEADLINE_S)
                assert not thread.is_alive()


@pytest.fixture
def tasks() -> Iterator[Tasks]:
    """Gives tasks; ends their processes after the test."""
    made = Tasks()
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


def test_a_grave_gpu_ends_its_tasks(tasks: Tasks) -> None:
    """A process on a GPU that needs a reset is asked to end."""
    process = tasks.start(A)
    Ending(tasks, DEADLINE_S).see(inventory(grave(A)))
    assert process.wait(DEADLINE_S) == -signal.SIGTERM


def test_who_does_not_end_in_time_is_killed(tasks: Tasks) -> None:
    """A process that ignores the request is killed after the grace."""
    process = tasks.start(A, STUBBORN)
    Ending(tasks, NO_GRACE_S).see(inventory(grave(A)))
    assert process.wait(DEADLINE_S) == -signal.SIGKILL


def test_who_has_ended_already_is_no_failure(tasks: Tasks) -> None:
    """A process that ended and was collected meanwhile does not keep others from being ended."""
    gone, left = tasks.start(A), tasks.start(A)
    made = tasks.processes_on(A)
    gone.kill()
    gone.wait()

    class Late(Tasks):
        def processes_on(self, gpu: Gpu) -> Sequence[TaskProcess]:  # noqa: ARG002
            return made

    Ending(Late(), DEADLINE_S).see(inventory(grave(A)))
    assert left.wait(DEADLINE_S) == -signal.SIGTERM


def test_an_unhealthy_gpu_that_may_return_ends_nobody(tasks: Tasks) -> None:
    """A fault that needs neither reset nor reboot leaves every process alone."""
    tasks.start(A)
    odd = SeenGpu(A, Health(False, "GPU-a: odd"))
    Ending(tasks, NO_GRACE_S).see(inventory(odd))
    assert tasks.asked == []


def test_other_gpus_keep_their_tasks(tasks: Tasks) -> None:
    """Processes on a healthy GPU stay when its neighbour is lost."""
    lost, kept = tasks.start(A), tasks.start(B)
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
    for now in (SeenGpu(A, Health(False, "GPU-a: odd")), grave(A)):
        ending.see(inventory(now))
    assert tasks.asked == ["GPU-a"]


def test_no_descriptor_is_left_open(tasks: Tasks) -> None:
    """The descriptors of the processes are closed when they have been ended."""
    tasks.start(A)
    Ending(tasks, DEADLINE_S).see(inventory(grave(A)))
    (pidfd,) = tasks.pidfds
    with pytest.raises(OSError, match=r"Bad file descriptor"):
        os.fstat(pidfd)


def test_nobody_is_attributed_anything() -> None:
    """Without an attribution no process is ended."""
    assert NobodyAttributed().processes_on(A) == ()


def test_what_is_seen_is_handed_on(tasks: Tasks) -> None:
    """Whoever stands behind is told of inventory and samples as if nobody stood between."""
    ending = Ending(tasks, NO_GRACE_S)
    ending.see(inventory(grave(A), B))
    ending.ender.take_samples({"GPU-b": FULL_SAMPLE})
    assert ending.sink.told == [(inventory(grave(A), B), True)]
    assert ending.sink.samples == {"GPU-b": 1}
