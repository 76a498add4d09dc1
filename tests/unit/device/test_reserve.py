# SPDX-License-Identifier: MPL-2.0
"""What a task is given."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu.config.blocks import MpsConfig
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device.reserve import reserve
from nomad_nvidia_vgpu.errors import RequestError
from nomad_nvidia_vgpu.gpu.model import Gpu, Inventory, SeenGpu
from nomad_nvidia_vgpu.sharing.grant import Delivery, DeviceNode, Mount
from nomad_nvidia_vgpu.sharing.plan import make_plan
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.sharing.withheld import Holding
from unit.example_gpus import LOST, gpu, inventory, mig

CONFIG = PluginConfig(vgpus=16)
NODE = inventory(
    gpu("GPU-a", memory_mib=81559),
    gpu("GPU-b", memory_mib=40960),
    gpu("GPU-dark", memory_mib=None),
    SeenGpu(gpu("GPU-lost"), LOST),
)
PLAN = make_plan(CONFIG, NODE)

GOOD_IDS = st.builds("{}-{}".format, st.sampled_from(["GPU-a", "GPU-b"]), st.integers(0, 15))
ODD_IDS = st.sampled_from(["", "GPU-a", "GPU-a-16", "GPU-a-00", "GPU-lost-0", "GPU-dark-3"])
ANY_TEXT = st.text(st.characters(exclude_categories=[]))


def envs(*ids: str, config: PluginConfig = CONFIG) -> dict[str, str]:
    """Gives the environment of a task that got these vGPUs."""
    return dict(reserve(config, PLAN, ids).envs)


def test_one_vgpu() -> None:
    """A task with one vGPU sees its GPU and is told its share."""
    assert envs("GPU-a-3") == {
        "NVIDIA_VISIBLE_DEVICES": "GPU-a",
        "NVIDIA_VGPU_IDS": "GPU-a-3",
        "NVIDIA_VGPU_MEMORY_MIB": "5097",
        "NVIDIA_VGPU_BUDGETS": "GPU-a=5097",
        "NVIDIA_VGPU_GROUP": "letmutx/gpu/NVIDIA L4 4.9GiB",
    }


def test_several_vgpus() -> None:
    """A task sees each of its GPUs once, sorted, and each budget; the smallest is the limit."""
    assert envs("GPU-b-0", "GPU-a-10", "GPU-a-9") == {
        "NVIDIA_VISIBLE_DEVICES": "GPU-a,GPU-b",
        "NVIDIA_VGPU_IDS": "GPU-a-9,GPU-a-10,GPU-b-0",
        "NVIDIA_VGPU_MEMORY_MIB": "2560",
        "NVIDIA_VGPU_BUDGETS": "GPU-a=10194,GPU-b=2560",
    }


def test_every_configured_variable_has_the_uuids() -> None:
    """Each variable that the operator named tells the task its GPUs."""
    config = PluginConfig(vgpus=16, visible_devices_envs=("CUDA_VISIBLE_DEVICES", "MY_GPUS"))
    given_envs = envs("GPU-b-1", config=config)
    assert given_envs["CUDA_VISIBLE_DEVICES"] == given_envs["MY_GPUS"] == "GPU-b"
    assert "NVIDIA_VISIBLE_DEVICES" not in given_envs


def test_unknown_memory_has_no_budget() -> None:
    """Where no GPU tells its memory, the task is told no budget at all."""
    assert set(envs("GPU-dark-0")) == {
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_VGPU_IDS",
        "NVIDIA_VGPU_GROUP",
    }


def test_partly_unknown_memory_has_no_limit() -> None:
    """Where one GPU does not tell its memory, the others' budgets are told but no limit for all."""
    given_envs = envs("GPU-dark-0", "GPU-b-0")
    assert given_envs["NVIDIA_VGPU_BUDGETS"] == "GPU-b=2560"
    assert "NVIDIA_VGPU_MEMORY_MIB" not in given_envs


@given(st.lists(GOOD_IDS | ODD_IDS | ANY_TEXT, max_size=20))
def test_any_ids_are_a_reservation_or_a_request_error(ids: list[str]) -> None:
    """Whatever ids Nomad sends, the answer is a reservation or a RequestError."""
    try:
        found = reserve(CONFIG, PLAN, ids)
    except RequestError:
        return
    assert found.envs["NVIDIA_VGPU_IDS"]


@given(st.lists(GOOD_IDS, min_size=1, max_size=32), st.randoms())
def test_order_and_doubles_do_not_matter(ids: list[str], chance: random.Random) -> None:
    """The same vGPUs in any order, any number of times, make the same reservation."""
    shuffled = ids * 2
    chance.shuffle(shuffled)
    assert reserve(CONFIG, PLAN, shuffled) == reserve(CONFIG, PLAN, ids)


@given(st.sets(GOOD_IDS, min_size=1, max_size=32), st.integers(1, 31))
def test_the_shares_of_two_tasks_fit_together(ids: set[str], cut: int) -> None:
    """However vGPUs are divided between two tasks, their budgets fit on each GPU together."""
    chosen = sorted(ids)
    total = {"GPU-a": 0, "GPU-b": 0}
    for part in (chosen[:cut], chosen[cut:]):
        if part:
            for budget in envs(*part)["NVIDIA_VGPU_BUDGETS"].split(","):
                uuid, _, mib = budget.partition("=")
                total[uuid] += int(mib)
    assert total["GPU-a"] <= 81559
    assert total["GPU-b"] <= 40960


@pytest.mark.parametrize(
    "unknown",
    ["GPU-a-16", "GPU-a-01", "GPU-a", "GPU-z-0", "", "nonsense", "GPU-a-0\n", "MIG-a-0"],
)
def test_an_unknown_vgpu_is_refused_by_name(unknown: str) -> None:
    """An id that is no vGPU of this node is refused, and named."""
    with pytest.raises(RequestError, match=r"is not a vGPU of this node now") as refused:
        envs("GPU-a-0", unknown)
    assert repr(unknown) in str(refused.value)
    assert "GPU-a-0'" not in str(refused.value)


def test_an_unhealthy_vgpu_is_refused_with_its_reason() -> None:
    """A vGPU of a GPU that cannot be used is refused with why it cannot."""
    with pytest.raises(RequestError, match=r"GPU-lost-0 is unhealthy") as refused:
        envs("GPU-lost-0")
    assert LOST.reason in str(refused.value)


def test_every_wrong_id_is_named() -> None:
    """One refusal names all that is wrong with a request."""
    with pytest.raises(RequestError) as refused:
        envs("GPU-a-0", "GPU-z-0", "GPU-lost-1", "GPU-y-0")
    assert all(wrong in str(refused.value) for wrong in ("GPU-z-0", "GPU-lost-1", "GPU-y-0"))


def test_a_long_refusal_is_cut() -> None:
    """A refusal of very many ids names some, counts the rest, and stays readable."""
    with pytest.raises(RequestError, match=r"; and 92 more") as refused:
        envs(*(f"GPU-z-{number}" for number in range(100)))
    assert len(str(refused.value)) < 1000


def test_a_huge_id_is_cut() -> None:
    """An id of any length makes a refusal of bounded length."""
    with pytest.raises(RequestError) as refused:
        envs("x" * 1_000_000)
    assert len(str(refused.value)) < 1000


def test_a_request_for_nothing_is_refused() -> None:
    """A request without ids is refused with what to write into the job."""
    with pytest.raises(RequestError, match=r"count of at least 1"):
        envs()


def test_a_gpu_beyond_the_nodes_limit_grants_nothing() -> None:
    """The vGPUs of a GPU beyond the node's limit are refused, published or not."""
    config = PluginConfig(vgpus=256)
    node = inventory(*(gpu(f"GPU-{number:02}") for number in range(17)))
    plan = make_plan(config, node)
    with pytest.raises(RequestError, match=r"beyond 4096 vGPUs"):
        reserve(config, plan, ["GPU-16-0"])
    with pytest.raises(RequestError, match=r"is not a vGPU of this node"):
        reserve(config, plan, ["GPU-16-1"])


MPS = PluginConfig(vgpus=16, sharing="mps", mps=MpsConfig(mount=True, max_vgpus_per_task=3))
MPS_PLAN = make_plan(MPS, NODE)


def test_mps_adds_its_limits_to_the_environment() -> None:
    """A task gets what every task gets, and the way to its server."""
    reserved = reserve(MPS, MPS_PLAN, ["GPU-a-3"])
    assert reserved.envs == {
        **envs("GPU-a-3"),
        "NVIDIA_VGPU_GROUP": "letmutx/gpu/NVIDIA L4/GPU-a",
        "CUDA_MPS_PIPE_DIRECTORY": "/run/nvidia-vgpu/mps/GPU-a/pipe",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=5097M",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "6",
    }
    assert [mount.host_path for mount in reserved.mounts] == ["/run/nvidia-vgpu/mps/GPU-a/pipe"]


def test_two_gpus_of_mps_are_refused_in_one_sentence() -> None:
    """A process has one MPS server."""
    with pytest.raises(RequestError, match=r"vGPUs of GPU-a, GPU-b for .* on one GPU$"):
        reserve(MPS, MPS_PLAN, ["GPU-a-3", "GPU-b-3"])


def test_more_than_the_largest_grant_is_refused() -> None:
    """The sentence names the option."""
    with pytest.raises(RequestError, match=r"mps\.max_vgpus_per_task"):
        reserve(MPS, MPS_PLAN, [f"GPU-a-{number}" for number in range(4)])


def test_withheld_vgpus_are_refused() -> None:
    """A vGPU that is held for a task of an earlier division is not given, and its siblings are."""
    old = Holding("t", "letmutx/gpu/NVIDIA L4", frozenset({VgpuId("GPU-a", 3)}))
    plan = make_plan(MPS, NODE, holdings=[old])
    with pytest.raises(RequestError, match=r"GPU-a-3 is unhealthy \(held for tasks that were"):
        reserve(MPS, plan, ["GPU-a-3"])
    assert reserve(MPS, plan, ["GPU-a-4"]).envs["NVIDIA_VGPU_IDS"] == "GPU-a-4"


class FileOfEach:
    """Gives one device file and one mount for each GPU, and names that are ours."""

    def deliver(self, gpus: Sequence[Gpu]) -> Delivery:
        """What a node's specification might hold."""
        return Delivery(
            {"NVIDIA_VGPU_IDS": "none of these", "OF_THE_NODE": "1"},
            tuple(Mount(f"/host/{card.uuid}", "/lib/x", read_only=True) for card in gpus),
            tuple(DeviceNode(f"/dev/{card.uuid}", f"/dev/{card.uuid}", "rw") for card in gpus),
        )


def test_device_files_come_with_their_mounts_and_variables() -> None:
    """What the node needs for the GPUs is added; it does not replace what is ours."""
    reserved = reserve(CONFIG, PLAN, ["GPU-b-1", "GPU-a-3", "GPU-a-4"], FileOfEach())
    assert [device.host_path for device in reserved.devices] == ["/dev/GPU-a", "/dev/GPU-b"]
    assert [mount.host_path for mount in reserved.mounts] == ["/host/GPU-a", "/host/GPU-b"]
    assert reserved.envs["OF_THE_NODE"] == "1"
    assert reserved.envs["NVIDIA_VGPU_IDS"] == "GPU-a-3,GPU-a-4,GPU-b-1"


@pytest.mark.parametrize(
    ("named", "given_names"),
    [
        (("NVIDIA_VISIBLE_DEVICES",), {"CUDA_VISIBLE_DEVICES"}),
        (("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"), {"CUDA_VISIBLE_DEVICES"}),
        (("NVIDIA_VISIBLE_DEVICES", "MY_GPUS"), {"CUDA_VISIBLE_DEVICES", "MY_GPUS"}),
        (("MY_GPUS",), {"MY_GPUS"}),
    ],
)
def test_with_device_files_no_runtime_is_demanded(
    named: tuple[str, ...], given_names: set[str]
) -> None:
    """Docker would demand NVIDIA's runtime as soon as its variable is there: CUDA's is instead."""
    config = PluginConfig(vgpus=16, visible_devices_envs=named)
    found = reserve(config, PLAN, ["GPU-a-3"], FileOfEach()).envs
    assert {name for name, text in found.items() if text == "GPU-a"} == given_names
    assert "NVIDIA_VISIBLE_DEVICES" not in found


def test_mps_and_device_files_go_together() -> None:
    """The pipe of the server is mounted beside what the node's specification wants."""
    reserved = reserve(MPS, MPS_PLAN, ["GPU-a-3"], FileOfEach())
    assert [mount.task_path for mount in reserved.mounts] == [
        "/lib/x",
        "/run/nvidia-vgpu/mps/GPU-a/pipe",
    ]
    assert reserved.envs["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "6"
    assert reserved.devices


def hinted(*ids: str, node: Inventory = NODE, vgpus: int = 16) -> dict[str, str]:
    """Gives what the frameworks of a task are told."""
    config = PluginConfig(vgpus=vgpus, framework_hints=("jax", "tensorflow"))
    given_envs = reserve(config, make_plan(config, node), ids).envs
    return {n: v for n, v in given_envs.items() if n.startswith(("XLA_", "TF_"))}


def test_frameworks_are_told_nothing_unless_asked() -> None:
    """A job cannot override what a plugin sets."""
    assert not [name for name in envs("GPU-a-0") if name.startswith(("XLA_", "TF_", "PYTORCH_"))]


def test_frameworks_are_told_the_share_of_the_grant() -> None:
    """Four of sixteen vGPUs of 81,559 MiB are a quarter; 512 MiB of it are the context's."""
    assert hinted(*(f"GPU-a-{n}" for n in range(4))) == {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2437",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }


def test_frameworks_with_a_whole_gpu_are_told_nothing() -> None:
    """There is nobody to leave memory to."""
    assert hinted(*(f"GPU-a-{n}" for n in range(16))) == {}
    assert hinted("GPU-a-0", vgpus=1) == {}
    assert hinted("GPU-a-0", *(f"GPU-b-{n}" for n in range(16))) != {}


def test_frameworks_on_a_part_of_a_gpu_instance_are_told_its_part() -> None:
    """Such a MIG device shows the memory of the whole GPU instance, and owns a third of it."""
    device = mig("MIG-1", profile="1c.3g.20gb", memory_mib=20_000)
    told = hinted("MIG-1-0", node=inventory(device), vgpus=1)
    assert told["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.3077"  # (6,666 - 512) / 20,000


def test_frameworks_where_no_memory_is_known() -> None:
    """No fraction can be told, but not to take all there is can be."""
    assert hinted("GPU-dark-0") == {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
