# SPDX-License-Identifier: MPL-2.0
"""Which GPUs are one device group, and what it is called."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.config.blocks import GpuBlock, GpuConfig, MemoryGuardConfig
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.model import HEALTHY, Inventory, SeenGpu
from nomad_nvidia_vgpu.sharing.plan import Plan, make_plan
from unit.example_gpus import LOST, gpu, inventory, mig

T4 = gpu("GPU-t", model="Tesla T4")


def blocks(**by_selector: dict[str, Any]) -> tuple[GpuBlock, ...]:
    """Gives gpu blocks; an underscore in a selector stands for a dash, `any` for a star."""
    return tuple(
        GpuBlock("*" if s == "any" else s.replace("_", "-"), GpuConfig(**fields))
        for s, fields in by_selector.items()
    )


def names(plan: Plan) -> dict[str, list[str]]:
    """Gives the UUIDs in each group by its name."""
    return {group.name: [shared.gpu.uuid for shared in group.gpus] for group in plan.groups}


A100S = [gpu(f"GPU-{letter}", model="A100", memory_mib=81920) for letter in "abcd"]


def test_a_block_for_a_model_leaves_its_group_its_name() -> None:
    """All GPUs of the model have the same share: there is nothing to tell apart."""
    config = PluginConfig(vgpus=16, gpu=blocks(A100={"vgpu_memory_mib": 10240}))
    plan = make_plan(config, inventory(*A100S, T4))
    assert names(plan) == {"A100": [card.uuid for card in A100S], "Tesla T4": ["GPU-t"]}
    assert {card.vgpus for card in plan.groups[0].gpus} == {8}


def test_a_gpu_that_is_divided_otherwise_tells_its_share_in_its_name() -> None:
    """Unequal shares are never in one group: `<model> <share>GiB` holds those of another size."""
    config = PluginConfig(
        vgpus=16, gpu=blocks(GPU_a={"vgpus": 4}, GPU_b={"vgpus": 4}, GPU_c={"vgpus": 3})
    )
    assert names(make_plan(config, inventory(*A100S))) == {
        "A100": ["GPU-d"],
        "A100 20GiB": ["GPU-a", "GPU-b"],
        "A100 26.6GiB": ["GPU-c"],
    }


def test_a_group_is_named_by_config_and_gpu_alone() -> None:
    """A GPU that comes or goes must not rename the groups of others, by which Nomad counts."""
    config = PluginConfig(vgpus=16, gpu=blocks(GPU_a={"vgpus": 4}, GPU_c={"vgpus": 3}))
    whole = names(make_plan(config, inventory(*A100S)))
    for card in A100S:
        rest = names(make_plan(config, inventory(*(g for g in A100S if g != card))))
        assert rest.keys() <= whole.keys()
        assert all(set(inside) <= set(whole[name]) for name, inside in rest.items())


def test_a_name_takes_the_place_of_the_models() -> None:
    """With a name given, the group has it, alone or before the UUID."""
    config = PluginConfig(
        vgpus=16, gpu=blocks(GPU_a={"vgpus": 4, "name": "big"}, T4={"name": "x", "group_by": "gpu"})
    )
    t4 = gpu("GPU-t", model="T4")
    assert set(names(make_plan(config, inventory(*A100S, t4)))) == {"A100", "big", "x/GPU-t"}


def test_one_name_for_unequal_shares_does_not_hide_them() -> None:
    """GPUs of one name whose shares differ are told apart by them all the same."""
    config = PluginConfig(vgpu_memory_mib=10240, gpu=blocks(any={"name": "pool"}))
    plan = make_plan(config, inventory(A100S[0], gpu("GPU-l", memory_mib=23034)))
    assert names(plan) == {"pool 10GiB": ["GPU-a"], "pool 11.2GiB": ["GPU-l"]}


def test_shares_that_are_nearly_equal_are_named_exactly() -> None:
    """Two groups never have one name."""
    config = PluginConfig(vgpus=200, gpu=blocks(GPU_a={"vgpus": 255}, GPU_b={"vgpus": 254}))
    assert names(make_plan(config, inventory(*A100S[:3]))) == {
        "A100": ["GPU-c"],
        "A100 255 x 321MiB": ["GPU-a"],
        "A100 254 x 322MiB": ["GPU-b"],
    }


def test_a_gpu_of_its_own_group_among_others() -> None:
    """`group_by` may be that of some GPUs only."""
    config = PluginConfig(vgpus=4, gpu=blocks(GPU_a={"group_by": "gpu"}))
    assert set(names(make_plan(config, inventory(*A100S)))) == {"A100", "A100/GPU-a"}


def test_sharing_may_be_that_of_some_gpus() -> None:
    """A GPU shared by MPS is alone in its group; the others are as before."""
    config = PluginConfig(vgpus=4, gpu=blocks(GPU_a={"sharing": "mps"}))
    plan = make_plan(config, inventory(*A100S))
    assert {g.name: {shared.sharing for shared in g.gpus} for g in plan.groups} == {
        "A100": {"time-slicing"},
        "A100/GPU-a": {"mps"},
    }


def test_a_gpu_that_cannot_be_decided_is_unhealthy_and_alone() -> None:
    """It is published with one vGPU and the sentence, and takes nothing from its model's group."""
    config = PluginConfig(vgpus=4, gpu=blocks(GPU_a={"vgpu_memory_mib": 90000}))
    plan = make_plan(config, inventory(*A100S))
    assert set(names(plan)) == {"A100", "A100/GPU-a"}
    undecided = plan.by_uuid()["GPU-a"]
    assert (undecided.published, undecided.health.healthy) == (1, False)
    assert "less than one vgpu_memory" in undecided.health.reason
    assert all(plan.by_uuid()[uuid].health == HEALTHY for uuid in ("GPU-b", "GPU-c", "GPU-d"))


def test_a_sick_gpu_keeps_the_reason_of_its_sickness() -> None:
    """What is wrong with the GPU is more urgent than what is wrong with its config."""
    config = PluginConfig(vgpu_memory_mib=90000)
    (shared,) = make_plan(config, inventory(SeenGpu(A100S[0], LOST))).by_uuid().values()
    assert shared.health == LOST


def test_blocks_that_are_for_no_gpu_are_worth_a_warning() -> None:
    """Whoever mistypes a selector is told so, and which GPUs there are."""
    config = PluginConfig(vgpus=4, gpu=blocks(GPU_x={"vgpus": 4}, A100={"vgpus": 4}))
    (warning,) = make_plan(config, inventory(*A100S, mig("MIG-1"))).warnings
    assert warning.startswith('gpu "GPU-x" is for none of the GPUs of this node, which are GPU-a (')
    assert "MIG-1 (NVIDIA A100-SXM4-40GB MIG 3g.20gb, 0000:07:00.0, of GPU-p)" in warning
    assert make_plan(config, Inventory()).warnings == ()


@given(
    st.lists(st.sampled_from([15109, 15360, 23034, 81559, 81920]), min_size=1, max_size=6),
    st.lists(st.integers(1, 256) | st.none(), min_size=6, max_size=6),
    st.integers(1, 20000),
    st.randoms(),
)
def test_a_group_is_true_for_each_of_its_gpus(
    memories: list[int], sizes: list[int | None], least_mib: int, shuffle: random.Random
) -> None:
    """However GPUs are divided, a group has one N, and the order in which they come is nothing."""
    gpus = [gpu(f"GPU-{n}", model="M", memory_mib=mib) for n, mib in enumerate(memories)]
    own = tuple(GpuBlock(f"GPU-{n}", GpuConfig(vgpus=size)) for n, size in enumerate(sizes) if size)
    config = PluginConfig(vgpu_memory_mib=least_mib, gpu=own)
    plan = make_plan(config, inventory(*gpus))
    for group in plan.groups:
        assert len({shared.vgpus for shared in group.gpus}) == 1
        shares = [shared.memory_mib(1) or 0 for shared in group.gpus]
        assert max(shares) * 8 <= min(shares) * 9
    assert sorted(shared.gpu.uuid for group in plan.groups for shared in group.gpus) == sorted(
        shared.uuid for shared in gpus
    )
    shuffle.shuffle(gpus)
    assert names(make_plan(config, inventory(*gpus))) == names(plan)


def test_load_that_cannot_be_published_is_a_warning() -> None:
    """A group of several GPUs has none; whoever asks for it is told how to have it."""
    config = PluginConfig(vgpus=4, publish_load=True)
    (warning,) = make_plan(config, inventory(*A100S, T4)).warnings
    assert "publish_load says nothing of A100, a device group of 4 GPUs" in warning
    assert make_plan(config._replace(group_by="gpu"), inventory(*A100S, T4)).warnings == ()


def test_overcommitted_memory_is_promised_no_more() -> None:
    """A task may use half as much again of its share; what it is promised stays the share."""
    config = PluginConfig(
        vgpus=4, memory_overcommit=1.5, gpu=blocks(A100={"memory_overcommit": 1.0})
    )
    plan = make_plan(config, inventory(A100S[0], gpu("GPU-t", memory_mib=4000)))
    large, small = plan.by_uuid()["GPU-a"], plan.by_uuid()["GPU-t"]
    assert (small.memory_mib(1), small.limit_mib(1), small.limit_mib(4)) == (1000, 1500, 4000)
    assert (large.overcommitted, small.overcommitted) == (False, True)


def test_what_a_neighbour_may_take_is_not_isolated() -> None:
    """MPS holds each task to more than its share, so only the guard stands for the promise."""
    config = PluginConfig(vgpus=4, sharing="mps", memory_overcommit=1.5)
    kill = MemoryGuardConfig("kill")
    node = inventory(gpu("GPU-t", memory_mib=4000))

    def isolation(made: PluginConfig) -> str:
        return make_plan(made, node).by_uuid()["GPU-t"].memory_isolation

    assert isolation(config._replace(memory_overcommit=1.0)) == "mps"
    assert isolation(config) == "none"
    assert isolation(config._replace(memory_guard=kill)) == "guard"
    assert isolation(config._replace(vgpus=1)) == "whole"
