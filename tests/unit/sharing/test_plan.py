# SPDX-License-Identifier: MPL-2.0
"""What is published of which GPUs."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.config.options import GpuBlock, GpuConfig, PluginConfig
from nomad_nvidia_vgpu.gpu.model import HEALTHY, Gpu, Health, Inventory, SeenGpu
from nomad_nvidia_vgpu.sharing.enforcement import STARTING, Enforcement
from nomad_nvidia_vgpu.sharing.holding import Holding
from nomad_nvidia_vgpu.sharing.plan import Plan, SharedGpu, make_plan
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from unit.example_gpus import LOST, gpu, inventory, mig

A, B = gpu("GPU-a"), gpu("GPU-b")
T4 = gpu("GPU-t", model="Tesla T4")


def uuids(plan: Plan) -> list[str]:
    """Gives the UUIDs of all published GPUs."""
    return [shared.gpu.uuid for group in plan.groups for shared in group.gpus]


def test_every_gpu_becomes_n_vgpus() -> None:
    """Each GPU is divided into as many vGPUs as the config says, numbered from 0."""
    plan = make_plan(PluginConfig(vgpus=3), inventory(A, B))
    (group,) = plan.groups
    assert [one.ids() for one in group.gpus] == [
        [VgpuId(uuid, number) for number in range(3)] for uuid in ("GPU-a", "GPU-b")
    ]


@pytest.mark.parametrize("config", [PluginConfig(), PluginConfig(enabled=False, vgpus=4)])
def test_without_a_size_nothing_is_published(config: PluginConfig) -> None:
    """A config that is off, or that gives no size, publishes nothing."""
    assert make_plan(config, inventory(A)) == Plan()


def test_no_gpus_make_an_empty_plan() -> None:
    """A node without GPUs publishes nothing and warns of nothing."""
    assert make_plan(PluginConfig(vgpus=4), Inventory()) == Plan()


def test_gpus_are_grouped_by_model() -> None:
    """GPUs of one model are one group under the model's name; the groups are in order."""
    plan = make_plan(PluginConfig(vgpus=2), inventory(A, T4, B))
    assert [(group.name, [s.gpu for s in group.gpus]) for group in plan.groups] == [
        ("NVIDIA L4", [A, B]),
        ("Tesla T4", [T4]),
    ]


def test_gpus_can_be_groups_of_their_own() -> None:
    """Grouped by GPU, each is a group named after model and UUID."""
    plan = make_plan(PluginConfig(vgpus=2, group_by="gpu"), inventory(A, T4, B))
    assert [group.name for group in plan.groups] == [
        "NVIDIA L4/GPU-a",
        "NVIDIA L4/GPU-b",
        "Tesla T4/GPU-t",
    ]


@pytest.mark.parametrize("ignored", ["GPU-a", "gpu-A", "GPU-A"])
def test_ignored_gpus_are_left_out(ignored: str) -> None:
    """A GPU whose UUID is ignored is not published, in whatever case it was written."""
    config = PluginConfig(vgpus=2, ignored_gpu_ids=(ignored, "GPU-nowhere"))
    assert uuids(make_plan(config, inventory(A, B))) == ["GPU-b"]


@pytest.mark.parametrize(
    ("ignored", "left"),
    [("GPU-P", ["GPU-a", "MIG-3"]), ("mig-1", ["GPU-a", "MIG-2", "MIG-3"])],
)
def test_a_parents_uuid_ignores_its_mig_devices(ignored: str, left: list[str]) -> None:
    """The UUID of a GPU in MIG mode ignores all its devices; that of a device only that one."""
    devices = (mig("MIG-1", "GPU-p"), mig("MIG-2", "GPU-p"), mig("MIG-3", "GPU-q"))
    config = PluginConfig(vgpus=1, ignored_gpu_ids=(ignored,))
    assert sorted(uuids(make_plan(config, inventory(A, *devices)))) == left


def test_an_unhealthy_gpu_is_published_as_such() -> None:
    """A GPU that cannot be used is published with its reason and all its vGPUs."""
    plan = make_plan(PluginConfig(vgpus=4), inventory(SeenGpu(A, LOST)))
    (shared,) = plan.by_uuid().values()
    assert (shared.health, len(shared.ids())) == (LOST, 4)


def many(count: int) -> Inventory:
    """Gives so many GPUs."""
    return inventory(*(gpu(f"GPU-{number:03}") for number in range(count)))


@pytest.mark.parametrize(("gpus", "warns"), [(4, False), (5, True)])
def test_many_vgpus_are_worth_a_warning(gpus: int, warns: object) -> None:
    """More than 1,024 vGPUs on a node are one warning that says what to do."""
    warnings = make_plan(PluginConfig(vgpus=256), many(gpus)).warnings
    assert any("1280 vGPUs on one node" in warning for warning in warnings) is warns
    assert len(warnings) == int(bool(warns))


def test_the_nodes_limit_is_reached_by_sixteen_full_gpus() -> None:
    """4,096 vGPUs on a node are all published, and healthy."""
    plan = make_plan(PluginConfig(vgpus=256), many(16))
    shared = plan.by_uuid().values()
    assert sum(one.published for one in shared) == 4096
    assert all(one.health == HEALTHY for one in shared)


def test_gpus_beyond_the_nodes_limit_are_unhealthy() -> None:
    """A GPU beyond 4,096 vGPUs is one unhealthy vGPU that says why; the others are whole."""
    plan = make_plan(PluginConfig(vgpus=256), many(18))
    *fitting, first, second = plan.by_uuid().values()
    assert all(one.health == HEALTHY and one.published == 256 for one in fitting)
    for surplus in (first, second):
        assert surplus.published == 1
        assert not surplus.health.healthy
        assert surplus.health.reason == "beyond 4096 vGPUs on this node: set a lower vgpus"


def test_ignored_gpus_do_not_count_towards_the_limit() -> None:
    """The limit is of what is published, not of what is there."""
    config = PluginConfig(vgpus=256, ignored_gpu_ids=("GPU-000", "GPU-001"))
    plan = make_plan(config, many(18))
    assert all(one.health == HEALTHY for one in plan.by_uuid().values())


def test_simulated_gpus_are_worth_a_warning() -> None:
    """Whoever simulates GPUs is told so once."""
    plan = make_plan(PluginConfig(vgpus=2), inventory(gpu(simulated=True), B))
    (warning,) = plan.warnings
    assert "simulated" in warning


def shared_gpu(memory_mib: int | None, vgpus: int) -> SharedGpu:
    """Gives a divided GPU."""
    one: Gpu = gpu(memory_mib=memory_mib)
    return SharedGpu(one, HEALTHY, vgpus, "time-slicing", published=vgpus)


@given(st.integers(0, 2**40), st.integers(1, 256))
def test_budgets_never_exceed_the_gpu(memory_mib: int, vgpus: int) -> None:
    """For any number of vGPUs granted the budget is at most the total, and more buys no less."""
    shared = shared_gpu(memory_mib, vgpus)
    budgets = [shared.memory_mib(granted) for granted in range(1, vgpus + 1)]
    known = [budget for budget in budgets if budget is not None]
    assert len(known) == vgpus
    assert known == sorted(known)
    assert known[-1] == memory_mib


@given(st.integers(0, 2**40), st.lists(st.integers(1, 16), min_size=1, max_size=16))
def test_the_budgets_of_all_tasks_fit_together(memory_mib: int, granted: list[int]) -> None:
    """However the vGPUs of a GPU are spread over tasks, their budgets fit on it together."""
    shared = shared_gpu(memory_mib, sum(granted))
    assert sum(shared.memory_mib(count) or 0 for count in granted) <= memory_mib


def test_unknown_memory_has_no_budget() -> None:
    """A GPU that does not tell its memory gives no budgets."""
    assert shared_gpu(None, 4).memory_mib(2) is None


MPS = PluginConfig(vgpus=2, sharing="mps")


def test_gpus_shared_by_mps_are_groups_of_their_own() -> None:
    """A process has one MPS server, so a request must land on one GPU, whatever `group_by` says."""
    plan = make_plan(MPS, inventory(A, B))
    assert [group.name for group in plan.groups] == ["NVIDIA L4/GPU-a", "NVIDIA L4/GPU-b"]
    assert [group.gpus[0].memory_isolation for group in plan.groups] == ["mps", "mps"]


def test_what_is_wrong_with_a_daemon_makes_its_gpu_alone_unhealthy() -> None:
    """Until it is known what holds a GPU's shares, and while it does not, the GPU is kept apart."""
    broken = Enforcement(problem="GPU-a: its daemon is gone: mend it")
    plan = make_plan(MPS, inventory(A, B), {"GPU-a": broken})
    assert {uuid: one.health for uuid, one in plan.by_uuid().items()} == {
        "GPU-a": Health(False, broken.problem),
        "GPU-b": Health(False, STARTING.problem),
    }
    assert plan.starting
    assert not make_plan(MPS, inventory(A), {"GPU-a": broken}).starting


def test_a_gpus_own_trouble_comes_first() -> None:
    """What the daemon says of a lost GPU follows from that."""
    lost = SeenGpu(A, LOST)
    plan = make_plan(MPS, inventory(lost), {"GPU-a": Enforcement(problem="no daemon")})
    assert plan.by_uuid()["GPU-a"].health == LOST


def test_weaknesses_are_warnings_and_take_the_promise_down() -> None:
    """The GPU is offered, with what is true."""
    weak = Enforcement(weakness="GPU-a: a limit reads back as 0: check")
    plan = make_plan(MPS, inventory(A), {"GPU-a": weak})
    assert plan.warnings == (weak.weakness,)
    assert plan.by_uuid()["GPU-a"].memory_isolation == "none"
    assert plan.by_uuid()["GPU-a"].health == HEALTHY


def test_simulated_gpus_have_all_in_force() -> None:
    """Jobs can be tried without hardware: the same groups and attributes."""
    plan = make_plan(MPS, inventory(gpu("GPU-a", simulated=True)), {})
    assert plan.by_uuid()["GPU-a"].memory_isolation == "mps"
    assert plan.by_uuid()["GPU-a"].health == HEALTHY


def test_time_slicing_on_an_exclusive_gpu_is_worth_a_warning() -> None:
    """Only one task could use it; the sentence says what to do."""
    exclusive = gpu("GPU-a", compute_mode="EXCLUSIVE_PROCESS")
    (warning,) = make_plan(PluginConfig(vgpus=2), inventory(exclusive)).warnings
    assert "nvidia-smi -i GPU-a -c DEFAULT" in warning
    assert make_plan(PluginConfig(vgpus=1), inventory(exclusive)).warnings == ()


def blocks(**by_selector: dict[str, Any]) -> tuple[GpuBlock, ...]:
    """Gives gpu blocks; an underscore in a selector stands for a dash, `any` for a star."""
    return tuple(
        GpuBlock("*" if s == "any" else s.replace("_", "-"), GpuConfig(**fields))
        for s, fields in by_selector.items()
    )


def names(plan: Plan) -> dict[str, list[str]]:
    """Gives the UUIDs in each group by its name."""
    return {group.name: [one.gpu.uuid for one in group.gpus] for group in plan.groups}


A100S = [gpu(f"GPU-{letter}", model="A100", memory_mib=81920) for letter in "abcd"]


def test_a_block_for_a_model_leaves_its_group_its_name() -> None:
    """All GPUs of the model have the same share: there is nothing to tell apart."""
    config = PluginConfig(vgpus=16, gpu=blocks(A100={"vgpu_memory_mib": 10240}))
    plan = make_plan(config, inventory(*A100S, T4))
    assert names(plan) == {"A100": [one.uuid for one in A100S], "Tesla T4": ["GPU-t"]}
    assert {one.vgpus for one in plan.groups[0].gpus} == {8}


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
    for one in A100S:
        rest = names(make_plan(config, inventory(*(g for g in A100S if g != one))))
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
    assert {g.name: {one.sharing for one in g.gpus} for g in plan.groups} == {
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
    (one,) = make_plan(config, inventory(SeenGpu(A100S[0], LOST))).by_uuid().values()
    assert one.health == LOST


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
        assert len({one.vgpus for one in group.gpus}) == 1
        shares = [one.memory_mib(1) or 0 for one in group.gpus]
        assert max(shares) * 8 <= min(shares) * 9
    assert sorted(uuids(plan)) == sorted(one.uuid for one in gpus)
    shuffle.shuffle(gpus)
    assert names(make_plan(config, inventory(*gpus))) == names(plan)


def test_what_old_tasks_hold_is_withheld() -> None:
    """A vGPU that covers a task of an earlier division is published, unhealthy, with the reason."""
    old = Holding("t", None, frozenset({VgpuId("GPU-a", 9)}))
    plan = make_plan(PluginConfig(vgpus=4), inventory(A, B), holdings=[old])
    one = plan.by_uuid()["GPU-a"]
    assert one.withheld == {3}
    assert [one.health_of(number).healthy for number in range(4)] == [True, True, True, False]
    assert "it is free when they have ended" in one.health_of(3).reason
    assert plan.by_uuid()["GPU-b"].withheld == frozenset()


def test_withheld_vgpus_stay_the_same_ones() -> None:
    """The plan before says which were withheld."""
    first, other = (Holding(str(n), None, frozenset({VgpuId("GPU-a", n)})) for n in (9, 3))
    config = PluginConfig(vgpus=4)
    dark = inventory(gpu("GPU-a", memory_mib=None))
    before = make_plan(config, dark, holdings=[first, other])
    assert before.by_uuid()["GPU-a"].withheld == {2}
    after = make_plan(config, dark, holdings=[first], before=before)
    assert after.by_uuid()["GPU-a"].withheld == {2}


def test_a_sick_gpu_says_what_is_worse() -> None:
    """A withheld vGPU of an unhealthy GPU has the GPU's reason."""
    old = Holding("t", None, frozenset({VgpuId("GPU-a", 9)}))
    plan = make_plan(PluginConfig(vgpus=4), inventory(SeenGpu(A, LOST)), holdings=[old])
    assert plan.by_uuid()["GPU-a"].health_of(3) == LOST
