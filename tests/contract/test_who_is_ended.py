# SPDX-License-Identifier: MPL-2.0
"""The table of docs/security.md: which process the guard and `end_tasks` end, and which never."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

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
    node,
    passes,
    task,
    use,
)

__all__ = ["node", "task"]  # fixtures

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
        guard = {"action": "kill", "grace": "0s", "tolerance_percent": 0}
        host = start(node, vgpus=VGPUS, memory_guard=guard)
        next(host.fingerprints())
        check(node, host, process, ended=ended)
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
        host = start(
            node,
            vgpus=VGPUS,
            memory_guard={"action": "off"},
            health={"recovery_period": "0s", "end_tasks": True},
        )
        next(host.fingerprints())
        passes(node, 4)
        node.set("gpu 0", "recovery_action", 1)
        check(node, host, process, ended=ended)
    finally:
        beside.end()
