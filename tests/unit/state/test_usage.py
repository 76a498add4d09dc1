# SPDX-License-Identifier: MPL-2.0
"""How use is divided among vGPUs, and what a use says of itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.state.usage import (
    UNKNOWN,
    GpuUse,
    Share,
    StrayProcess,
    Task,
    TaskProcess,
    Usage,
    divided,
    parts_of,
)
from unit.example_gpus import NOON
from unit.tasks.doomed_processes import TASK, share, use_of

WHOLE = st.integers(0, 10**7)


@given(WHOLE, st.integers(1, 256))
def test_parts_add_up(total: int, parts: int) -> None:
    """However a number is divided, the parts make up the whole and differ by one at most."""
    found = divided(total, parts)
    assert len(found) == parts
    assert sum(found) == total
    assert found == sorted(found, reverse=True)
    assert found[0] - found[-1] <= 1


@given(st.lists(WHOLE, min_size=1, max_size=20), st.integers(1, 20))
def test_the_vgpus_of_a_share_show_all_of_it(memory: list[int], vgpus: int) -> None:
    """Memory and processes of a task, summed over its vGPUs, are what the task uses."""
    processes = tuple(TaskProcess(n, n, mib, "compute") for n, mib in enumerate(memory))
    ids = tuple(f"GPU-a-{n}" for n in range(vgpus))
    held = Share(TASK, "GPU-a", ids, processes, sum(memory), 1000)
    parts = parts_of(held, 10)
    assert [vgpu_id for vgpu_id, _ in parts] == list(ids)
    assert sum(part.used_mib or 0 for _, part in parts) == sum(memory)
    assert sum(part.processes for _, part in parts) == len(memory)
    assert all(part.budget_mib == 10 and part.share == held for _, part in parts)


def test_unknown_memory_stays_unknown() -> None:
    """The parts of what is not known are not known either; the processes are."""
    held = share(TaskProcess(1, 1, None, "compute"))
    ((_, part),) = parts_of(held, 10)
    assert part.figures == (None, 10, 1)


def test_a_share_is_certain_when_task_and_budget_are() -> None:
    """Doubt of either is doubt."""
    assert share().certain
    assert not share(doubt="odd").certain
    assert not share(task=TASK._replace(certain=False)).certain


def test_a_task_is_called_by_the_best_name_there_is() -> None:
    """Allocation and task, else the container, else what tells it from others."""
    assert Task("k", certain=True, allocation="a", name="t").label == "a/t"
    assert Task("k", certain=True, allocation="a").label == "a/?"
    assert Task("k", certain=True, container="c" * 64).label == "container " + "c" * 12
    assert Task("k", certain=True).label == "k"


def test_a_usage_sums_up_its_gpus() -> None:
    """Shares and strays of all GPUs; before the first pass there are none."""
    stray = StrayProcess(9, 1, "compute", "nobody's")
    first, two = share(), share(gpu="GPU-b")
    usage = Usage(
        NOON, {"GPU-a": use_of(first), "GPU-b": GpuUse("GPU-b", 0.0, {}, (two,), (stray,))}
    )
    assert usage.shares == (first, two)
    assert usage.strays == 1
    assert (UNKNOWN.shares, UNKNOWN.strays, UNKNOWN.taken_at) == ((), 0, None)
