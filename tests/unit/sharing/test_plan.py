# SPDX-License-Identifier: MPL-2.0
"""What is published of which GPUs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.config.blocks import MemoryGuardConfig
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.model import HEALTHY, Gpu, Health, Inventory, SeenGpu
from nomad_nvidia_vgpu.sharing.enforcement import STARTING, Enforcement
from nomad_nvidia_vgpu.sharing.plan import Plan, SharedGpu, make_plan
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.sharing.withheld import Holding
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
    assert [shared.ids() for shared in group.gpus] == [
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


def test_an_index_ignores_no_gpu_and_that_is_told() -> None:
    """The operator thinks that GPU 0 is taken out: it is still offered."""
    plan = make_plan(PluginConfig(vgpus=2, ignored_gpu_ids=("0",)), inventory(gpu("GPU-a")))
    assert len(plan.by_uuid()) == 1
    (warning,) = plan.warnings
    assert str(warning) == (
        "ignored_gpu_ids has 0, which is no UUID, so no GPU is ignored by it: write the UUID as"
        " nvidia-vgpu gpus shows it"
    )


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
    assert sum(share.published for share in shared) == 4096
    assert all(share.health == HEALTHY for share in shared)


def test_gpus_beyond_the_nodes_limit_are_unhealthy() -> None:
    """A GPU beyond 4,096 vGPUs is one unhealthy vGPU that says why; the others are whole."""
    plan = make_plan(PluginConfig(vgpus=256), many(18))
    *fitting, first, second = plan.by_uuid().values()
    assert all(share.health == HEALTHY and share.published == 256 for share in fitting)
    for surplus in (first, second):
        assert surplus.published == 1
        assert not surplus.health.healthy
        assert surplus.health.reason == "beyond 4096 vGPUs on this node: set a lower vgpus"


def test_ignored_gpus_do_not_count_towards_the_limit() -> None:
    """The limit is of what is published, not of what is there."""
    config = PluginConfig(vgpus=256, ignored_gpu_ids=("GPU-000", "GPU-001"))
    plan = make_plan(config, many(18))
    assert all(share.health == HEALTHY for share in plan.by_uuid().values())


def test_simulated_gpus_are_worth_a_warning() -> None:
    """Whoever simulates GPUs is told so once."""
    plan = make_plan(PluginConfig(vgpus=2), inventory(gpu(simulated=True), B))
    (warning,) = plan.warnings
    assert "simulated" in warning


@pytest.mark.parametrize(("headroom_mib", "odd"), [(500, False), (501, True)])
def test_more_headroom_than_there_is_room_for_is_worth_a_warning(
    headroom_mib: int, *, odd: bool
) -> None:
    """It names the smallest share, and where nobody gets hints it does not matter."""
    node = inventory(gpu("GPU-a", memory_mib=8000), gpu("GPU-b", memory_mib=4000))
    config = PluginConfig(vgpus=4, framework_headroom_mib=headroom_mib)
    assert make_plan(config, node).warnings == ()
    warnings = make_plan(config._replace(framework_hints=("jax",)), node).warnings
    assert [all(part in w for part in ("501 MiB", "GPU-b (1000 MiB)")) for w in warnings] == (
        [True] if odd else []
    )


def shared_gpu(memory_mib: int | None, vgpus: int) -> SharedGpu:
    """Gives a divided GPU."""
    card: Gpu = gpu(memory_mib=memory_mib)
    return SharedGpu(card, HEALTHY, vgpus, "time-slicing", published=vgpus)


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
    broken = Enforcement(problem=Problem("GPU-a: its daemon is gone", "fix it"))
    plan = make_plan(MPS, inventory(A, B), {"GPU-a": broken})
    assert {uuid: share.health for uuid, share in plan.by_uuid().items()} == {
        "GPU-a": Health(False, broken.problem),
        "GPU-b": Health(False, STARTING.problem),
    }
    assert plan.starting
    assert not make_plan(MPS, inventory(A), {"GPU-a": broken}).starting


def test_a_gpus_own_trouble_comes_first() -> None:
    """What the daemon says of a lost GPU follows from that."""
    lost = SeenGpu(A, LOST)
    plan = make_plan(MPS, inventory(lost), {"GPU-a": Enforcement(problem=Problem("no daemon"))})
    assert plan.by_uuid()["GPU-a"].health == LOST


def test_weaknesses_are_warnings_and_take_the_promise_down() -> None:
    """The GPU is offered, with what is true."""
    weak = Enforcement(weakness=Problem("GPU-a: a limit reads back as 0", "check"))
    plan = make_plan(MPS, inventory(A), {"GPU-a": weak})
    assert plan.warnings == (weak.weakness,)
    assert plan.by_uuid()["GPU-a"].memory_isolation == "none"
    assert plan.by_uuid()["GPU-a"].health == HEALTHY


@pytest.mark.parametrize("simulated", [False, True])
def test_a_guard_that_ends_tasks_is_promised(*, simulated: bool) -> None:
    """On simulated GPUs too, so that a job's constraint can be tried."""
    config = PluginConfig(vgpus=2, memory_guard=MemoryGuardConfig("kill"))
    plan = make_plan(config, inventory(gpu("GPU-a", simulated=simulated)))
    assert plan.by_uuid()["GPU-a"].memory_isolation == "guard"


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


def test_what_old_tasks_hold_is_withheld() -> None:
    """A vGPU that covers a task of an earlier division is published, unhealthy, with the reason."""
    old = Holding("t", None, frozenset({VgpuId("GPU-a", 9)}))
    plan = make_plan(PluginConfig(vgpus=4), inventory(A, B), holdings=[old])
    shared = plan.by_uuid()["GPU-a"]
    assert shared.withheld == {3}
    assert [shared.health_of(number).healthy for number in range(4)] == [True, True, True, False]
    assert "it is free when they have ended" in shared.health_of(3).reason
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


@pytest.mark.parametrize(
    ("action", "vgpus", "isolation"),
    [("off", 4, "none"), ("warn", 4, "none"), ("kill", 4, "guard"), ("kill", 1, "whole")],
)
def test_a_guard_that_kills_holds_the_memory(action: str, vgpus: int, isolation: str) -> None:
    """Where nothing stronger does, and only if it ends who takes too much."""
    config = PluginConfig(vgpus=vgpus, memory_guard=MemoryGuardConfig(action))
    plan = make_plan(config, inventory(gpu("GPU-a")))
    assert plan.by_uuid()["GPU-a"].memory_isolation == isolation
