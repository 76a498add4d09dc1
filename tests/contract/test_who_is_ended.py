# SPDX-License-Identifier: MPL-2.0
"""The table of docs/security.md: which process the guard and `end_tasks` end, and which never."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from libnvidia_ml.driver import FakeDriver

from .conftest import Start, Started
from .task_cgroups import RealTask
from .test_usage import (
    BUDGET_MIB,
    FAR_TOO_MUCH_MIB,
    PATIENCE_S,
    VGPUS,
    MakeTask,
    claim,
    guarded,
    node,
    passes,
    task,
    use,
)

__all__ = ["node", "task"]  # fixtures

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
"""Root says here which pid was given last; the next process gets the one after it, if that is free."""
TRIES = 1000
NOT_SUPPORTED = 3
PASSES_IN_A_GRACE = 7
"""The lists of processes between a SIGTERM and a SIGKILL, and some more: one each 2 s, for 10 s."""

Process = subprocess.Popen[str]
Made = tuple[Process, ...]
"""The process that is meant, and others that use a little."""
Makes = Callable[[FakeDriver, MakeTask, RealTask], Made]


def of_a_task(node: FakeDriver, task: MakeTask, _outside: RealTask) -> Made:
    """It has the vGPU that its environment names."""
    return (task().start(claim(node, 0)),)


def hiding(node: FakeDriver, task: MakeTask, _outside: RealTask) -> Made:
    """It has cleared its environment; the oldest process of its cgroup has not."""
    made = task()
    made.start(claim(node, 0))
    return (made.start({}),)


def claiming_nothing(_node: FakeDriver, task: MakeTask, _outside: RealTask) -> Made:
    """No process of its cgroup names a vGPU."""
    return (task().start({}),)


def robbed(node: FakeDriver, task: MakeTask, _outside: RealTask) -> Made:
    """Another task names its vGPU, too."""
    other = task().start(claim(node, 0))
    return task().start(claim(node, 0)), other


def robbing(node: FakeDriver, task: MakeTask, _outside: RealTask) -> Made:
    """It names a vGPU of another task beside its own."""
    other = task().start(claim(node, 1))
    return task().start(claim(node, 0, 1)), other


def outside(node: FakeDriver, _task: MakeTask, outside: RealTask) -> Made:
    """It says the same, and is in no cgroup that a task driver made."""
    return (outside.start({**claim(node, 0), "NOMAD_ALLOC_ID": "told"}),)


def promised_otherwise(node: FakeDriver, task: MakeTask, _outside: RealTask) -> Made:
    """It was promised something else under another config."""
    given = claim(node, 0)
    uuid = given["NVIDIA_VGPU_BUDGETS"].partition("=")[0]
    return (task().start({**given, "NVIDIA_VGPU_BUDGETS": f"{uuid}=1"}),)


TABLE = [
    (of_a_task, True, True),
    (hiding, True, True),
    (claiming_nothing, False, False),
    (robbed, False, False),
    (robbing, False, False),
    (outside, False, False),
    (promised_otherwise, False, True),
]


def beside_a_sick_gpu(node: FakeDriver, start: Start) -> Started:
    """The plugin with `end_tasks`, which has listed the processes before their GPU needs a reset."""
    host = start(
        node,
        vgpus=VGPUS,
        memory_guard={"action": "off"},
        health={"recovery_period": "0s", "end_tasks": True},
    )
    next(host.fingerprints())
    passes(node, 4)
    node.set("gpu 0", "recovery_action", 1)
    return host


BOTH = pytest.mark.parametrize("begin", [guarded, beside_a_sick_gpu])
"""Each of the two that end processes."""
Begin = Callable[[FakeDriver, Start], Started]


def check(node: FakeDriver, host: Started, process: Process, *, ended: bool) -> None:
    """It is ended, or lives on though the processes are listed again and again."""
    if ended:
        assert process.wait(PATIENCE_S) < 0
    else:
        passes(node, 4)
        assert process.poll() is None, host.logs


@pytest.mark.parametrize(("who", "ended"), [(who, guard) for who, guard, _ in TABLE])
def test_who_uses_too_much(
    node: FakeDriver, start: Start, task: MakeTask, who: Makes, *, ended: bool
) -> None:
    """With `memory_guard { action = "kill" }`."""
    beside = RealTask.outside()
    try:
        process, *others = who(node, task, beside)
        use(node, {**{other.pid: 1 for other in others}, process.pid: FAR_TOO_MUCH_MIB})
        check(node, guarded(node, start), process, ended=ended)
    finally:
        beside.end()


@pytest.mark.parametrize(("who", "ended"), [(who, sick) for who, _, sick in TABLE])
def test_who_is_on_a_gpu_that_needs_a_reset(
    node: FakeDriver, start: Start, task: MakeTask, who: Makes, *, ended: bool
) -> None:
    """With `health { end_tasks = true }`, however little it uses."""
    beside = RealTask.outside()
    try:
        process, *others = who(node, task, beside)
        use(node, {**{other.pid: 1 for other in others}, process.pid: BUDGET_MIB // 2})
        check(node, beside_a_sick_gpu(node, start), process, ended=ended)
    finally:
        beside.end()


@BOTH
def test_whose_memory_the_driver_does_not_tell(
    node: FakeDriver, start: Start, task: MakeTask, begin: Begin
) -> None:
    """Nobody is ended for what is not known; a GPU that needs a reset has other reasons."""
    made = task()
    unknown, small = made.start(claim(node, 0)), made.start(claim(node, 0))
    use(node, {unknown.pid: "-", small.pid: 1})
    check(node, begin(node, start), unknown, ended=begin is beside_a_sick_gpu)


def test_who_uses_too_much_beside_what_is_not_known(
    node: FakeDriver, start: Start, task: MakeTask
) -> None:
    """What is known is proof enough, against the process of which it is known alone."""
    made = task()
    unknown, large = made.start(claim(node, 0)), made.start(claim(node, 0))
    use(node, {unknown.pid: "-", large.pid: FAR_TOO_MUCH_MIB})
    host = guarded(node, start)
    check(node, host, large, ended=True)
    use(node, {unknown.pid: "-"})
    check(node, host, unknown, ended=False)


def test_who_is_on_a_gpu_whose_memory_is_not_known(
    node: FakeDriver, start: Start, task: MakeTask
) -> None:
    """Without a budget nothing is too much."""
    process = task().start(claim(node, 0))
    node.set("gpu 0", "fault.nvmlDeviceGetMemoryInfo", NOT_SUPPORTED)
    node.set("gpu 0", "fault.nvmlDeviceGetMemoryInfo_v2", NOT_SUPPORTED)
    use(node, {process.pid: FAR_TOO_MUCH_MIB})
    check(node, guarded(node, start), process, ended=False)


def started_as(pid: int, task: RealTask, environment: Mapping[str, str]) -> Process:
    """A process of this task that has got a pid which is free."""
    for _ in range(TRIES):
        try:
            LAST_PID.write_text(str(pid - 1))
        except OSError as error:
            pytest.skip(f"no pid can be chosen here: {error}")
        process = task.start(environment)
        if process.pid == pid:
            return process
        task.processes.remove(process)  # another one was faster
        process.kill()
        process.communicate()
    raise AssertionError(f"pid {pid} is not given again")


@pytest.mark.may_skip("a kernel without CONFIG_CHECKPOINT_RESTORE lets nobody choose a pid")
@BOTH
def test_who_has_got_the_pid_of_one_that_was_ended(
    node: FakeDriver, start: Start, task: MakeTask, begin: Begin
) -> None:
    """Between SIGTERM and SIGKILL, in the cgroup of another task: it is spared."""
    before = task().start(claim(node, 0))
    use(node, {before.pid: FAR_TOO_MUCH_MIB})
    host = begin(node, start)
    check(node, host, before, ended=True)
    use(node, {})
    heir = started_as(before.pid, task(), claim(node, 1))
    passes(node, PASSES_IN_A_GRACE)
    check(node, host, heir, ended=False)
