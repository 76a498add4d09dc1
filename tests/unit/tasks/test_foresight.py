# SPDX-License-Identifier: MPL-2.0
"""What the memory guard would do, without doing it."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.config.blocks import MemoryGuardConfig
from nomad_nvidia_vgpu.state.usage import GpuUse, Share, Task, TaskProcess, Usage
from nomad_nvidia_vgpu.tasks.foresight import Forecast, Foresight
from unit.manual_clock import ManualClock

TASK = Task("/a", certain=True, allocation="a1", name="infer")
OLD, YOUNG = TaskProcess(7, 10, 900, "compute"), TaskProcess(8, 20, 300, "compute")


def usage(*processes: TaskProcess, certain: bool = True, budget: int | None = 1000) -> Usage:
    """Gives what a task with these processes uses of its budget."""
    memory = [process.memory_mib for process in processes]
    used = None if None in memory else sum(mib or 0 for mib in memory)
    task = TASK._replace(certain=certain)
    share = Share(task, "GPU-a", ("GPU-a-0",), processes, used, budget)
    return Usage(None, {"GPU-a": GpuUse("GPU-a", 0.0, {}, (share,), ())})


def forecast(of: Usage, action: str = "kill", tolerance: int = 5) -> Forecast:
    """Gives what a guard with this action and the default grace would do."""
    (found,) = Foresight(MemoryGuardConfig(action, 30.0, tolerance)).forecasts(of)
    return found


def test_who_stays_within_the_limit_has_nothing_to_fear() -> None:
    """At the budget and its tolerance, nothing would happen."""
    found = forecast(usage(OLD, TaskProcess(8, 20, 150, "compute")))
    assert (found.limit_mib, found.over_s, found.victims) == (1050, None, ())
    assert found.verdict == "nothing happens: it is within its limit"


def test_the_youngest_would_be_ended_first() -> None:
    """Only as many as needed: with the young one gone the old one fits."""
    found = forecast(usage(OLD, YOUNG))
    assert found.victims == (YOUNG,)
    assert found.verdict == (
        "150 MiB above its limit; when that has lasted for 30 s, these are ended: 8 (300 MiB),"
        " the rest lives"
    )


def test_all_may_have_to_end() -> None:
    """A task whose one process is too big loses it."""
    found = forecast(usage(TaskProcess(7, 10, 2000, "compute")))
    assert found.verdict.endswith("these are ended: 7 (2000 MiB)")


@pytest.mark.parametrize(
    ("action", "ends"),
    [
        ("warn", 'the log has a warning; "kill" would end 8 (300 MiB)'),
        ("off", 'nothing happens, because memory_guard is "off"'),
    ],
)
def test_the_action_decides(action: str, ends: str) -> None:
    """A guard that does not kill says what one that does would do, or that it is off."""
    assert forecast(usage(OLD, YOUNG), action).verdict.endswith(ends)


def test_who_is_in_doubt_is_not_ended() -> None:
    """As the guard: a process is only ended if it is known beyond doubt whose it is."""
    found = forecast(usage(OLD, YOUNG, certain=False))
    assert found.victims == ()
    assert "nobody is ended: no cgroup" in found.verdict


def test_what_is_not_known_is_no_fault() -> None:
    """Neither memory that the driver does not tell nor a GPU without size ends anybody."""
    unknown = forecast(usage(OLD, TaskProcess(8, 20, None, "compute")))
    assert "does not tell how much" in unknown.verdict
    assert "is not known" in forecast(usage(OLD, budget=None)).verdict


def test_time_above_the_limit_counts_from_look_to_look() -> None:
    """It begins again for a task that was within its limit meanwhile."""
    clock = ManualClock()
    foresight = Foresight(MemoryGuardConfig(), clock)

    def over_s(of: Usage) -> float | None:
        (found,) = foresight.forecasts(of)
        clock.advance(2.0)
        return found.over_s

    assert [over_s(usage(OLD, YOUNG)) for _ in range(3)] == [0.0, 2.0, 4.0]
    assert over_s(usage(OLD)) is None
    assert over_s(usage(OLD, YOUNG)) == 0.0
