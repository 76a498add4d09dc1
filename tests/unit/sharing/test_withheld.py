# SPDX-License-Identifier: MPL-2.0
"""What is withheld for tasks that Nomad does not count as it should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.sharing.withheld import Division, Holding, withheld

GROUP = "letmutx/gpu/NVIDIA L4"
MEMORY_MIB = 16000


def held(
    *numbers: int, of: int, task: str = "a", group: str | None = GROUP, uuid: str = "GPU-a"
) -> Holding:
    """Gives what a task holds that was given vGPUs when the GPU was divided into `of`."""
    vgpus = frozenset(VgpuId(uuid, number) for number in numbers)
    return Holding(task, group, vgpus, ((uuid, MEMORY_MIB * len(numbers) // of),))


def now(vgpus: int, group: str = GROUP) -> Division:
    """Gives the present division."""
    return Division("GPU-a", group, vgpus, MEMORY_MIB)


def test_what_nomad_counts_is_not_withheld() -> None:
    """A task of the present division holds its own vGPUs, and Nomad knows."""
    assert withheld(now(8), [held(3, of=8), held(1, 2, of=8, task="b")]) == frozenset()


def test_other_gpus_tasks_do_not_matter() -> None:
    """What is held of another GPU is held of that."""
    assert withheld(now(8), [held(12, of=16, uuid="GPU-b")]) == frozenset()


def test_a_vgpu_of_a_larger_number_is_covered_by_one_that_is_left() -> None:
    """With fewer vGPUs, an id beyond them takes one of those that are left, the highest free one."""
    assert withheld(now(8), [held(12, of=16), held(7, of=8, task="b")]) == {6}


def test_two_small_shares_take_one_large_one() -> None:
    """Two sixteenths are an eighth: no more than that is withheld."""
    tasks = [held(12, of=16), held(13, of=16, task="b")]
    assert withheld(now(8), tasks) == {7}


def test_a_share_that_was_larger_takes_more() -> None:
    """With more vGPUs, a task from before has more than the one that Nomad counts for it."""
    assert withheld(now(16), [held(3, of=8)]) == {3, 15}


@pytest.mark.parametrize("group", ["letmutx/gpu/NVIDIA L4/GPU-a", "other/gpu/NVIDIA L4"])
def test_a_group_of_another_name_counts_nothing(group: str) -> None:
    """Nomad forgets what is held of a group whose name has changed, so that we must not."""
    assert withheld(now(8, group), [held(3, of=8)]) == {3}


def test_a_task_of_an_older_version_is_judged_by_its_ids() -> None:
    """It does not say its group: what fits the present division is taken as counted."""
    assert withheld(now(8), [held(3, of=8, group=None)]) == frozenset()
    assert withheld(now(8), [held(9, of=16, group=None)]) == {7}


def test_without_a_budget_an_id_is_worth_one_vgpu() -> None:
    """Nothing better is known of a GPU that does not tell its memory."""
    dark = Division("GPU-a", GROUP, 8, None)
    assert withheld(dark, [held(9, of=16)]) == {7}
    assert withheld(dark, [held(3, of=16)]) == frozenset()


def test_what_was_withheld_stays() -> None:
    """A vGPU that was offered is not taken back because a higher one has become free."""
    assert withheld(now(8), [held(12, of=16)], before=frozenset({4})) == {4}


def test_vgpus_in_use_come_last() -> None:
    """Where too few are free, those in use are withheld too, lest they be given away after it."""
    tasks = [*(held(n, of=8, task=str(n)) for n in range(8)), held(15, of=16)]
    assert withheld(now(8), tasks) == {7}


def test_no_more_than_all_are_withheld() -> None:
    """A task that claims more than there is withholds the GPU and no more."""
    greedy = Holding("a", None, frozenset({VgpuId("GPU-a", 9)}), (("GPU-a", 10**12),))
    assert withheld(now(8), [greedy]) == set(range(8))


@given(
    before=st.integers(1, 64),
    after=st.integers(1, 64),
    running=st.sets(st.integers(0, 63)),
    renamed=st.booleans(),
    memory_mib=st.integers(1024, 200_000),
)
def test_the_memory_of_all_tasks_fits(
    before: int, after: int, running: set[int], renamed: object, memory_mib: int
) -> None:
    """However N changes, tasks from before and all that Nomad can still place fit on the GPU."""
    old = [
        Holding(str(n), GROUP, frozenset({VgpuId("GPU-a", n)}), (("GPU-a", memory_mib // before),))
        for n in running
        if n < before
    ]
    division = Division("GPU-a", "renamed" if renamed else GROUP, after, memory_mib)
    kept = withheld(division, old)
    assert all(number < after for number in kept)
    taken = {n for n in running if n < min(before, after)} if not renamed else set()
    offered = set(range(after)) - kept - taken
    promised = sum(budget for holding in old for _, budget in holding.budgets)
    assert promised + len(offered) * (memory_mib // after) <= memory_mib
    if renamed or before != after:
        assert not offered & {n for n in running if n < before}, "an id is never held twice"
