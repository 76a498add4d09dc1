# SPDX-License-Identifier: MPL-2.0
"""What the environment of a task claims."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.host.cgroups import TaskCgroup, task_cgroup
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.tasks.claims import claim_of
from unit.host.made_proc import ALLOCATION, CONTAINER, docker_v2, nomad_v2

TOLD = {
    "NVIDIA_VGPU_IDS": "GPU-a-10,GPU-a-2,GPU-b-0",
    "NVIDIA_VGPU_BUDGETS": "GPU-a=2000,GPU-b=1000",
    "NOMAD_ALLOC_ID": "told-allocation",
    "NOMAD_TASK_NAME": "told-task",
    "NOMAD_GROUP_NAME": "group",
    "NOMAD_JOB_ID": "job",
}


def cgroup(lines: str) -> TaskCgroup:
    """Gives the cgroup in these lines."""
    found = task_cgroup(lines)
    assert found is not None
    return found


def test_a_task_of_nomads_own_is_named_by_its_cgroup() -> None:
    """Allocation and task come from the cgroup, whatever the environment says; group and job do not."""
    claim = claim_of(TOLD, cgroup(nomad_v2()), certain=True)
    assert claim is not None
    assert (claim.task.allocation, claim.task.name) == (ALLOCATION, "train")
    assert (claim.task.group, claim.task.job, claim.task.container) == ("group", "job", None)
    assert claim.task.certain
    assert claim.task.label == f"{ALLOCATION}/train"


def test_a_container_is_named_by_its_environment() -> None:
    """Of a container the cgroup knows the id alone; the names are for display."""
    claim = claim_of(TOLD, cgroup(docker_v2()), certain=True)
    assert claim is not None
    assert (claim.task.allocation, claim.task.name) == ("told-allocation", "told-task")
    assert claim.task.container == CONTAINER
    nameless = claim_of({"NVIDIA_VGPU_IDS": "GPU-a-0"}, cgroup(docker_v2()), certain=True)
    assert nameless is not None
    assert nameless.task.label == f"container {CONTAINER[:12]}"


def test_without_a_cgroup_nothing_is_certain() -> None:
    """A claim that is known by an environment alone never counts as beyond doubt."""
    claim = claim_of(TOLD, None, certain=True)
    assert claim is not None
    assert not claim.task.certain
    assert claim.task.label == "told-allocation/told-task"


def test_the_same_words_are_the_same_claim() -> None:
    """Processes without a cgroup that say the same belong together, others do not."""
    same, other = {**TOLD, "LANG": "C"}, {**TOLD, "NOMAD_TASK_NAME": "other"}
    keys = [c.task.key for e in (TOLD, same, other) if (c := claim_of(e, None, certain=False))]
    assert keys[0] == keys[1] != keys[2]


def test_the_vgpus_are_sorted_by_their_numbers() -> None:
    """The ids of each GPU come by number, as the vGPUs are counted."""
    claim = claim_of(TOLD, None, certain=False)
    assert claim is not None
    assert claim.task.vgpu_ids == ("GPU-a-2", "GPU-a-10", "GPU-b-0")
    assert claim.on("GPU-a") == [VgpuId("GPU-a", 2), VgpuId("GPU-a", 10)]
    assert claim.on("GPU-c") == []
    assert claim.promised_mib == {"GPU-a": 2000, "GPU-b": 1000}


def test_who_claims_nothing_has_no_claim() -> None:
    """No variable, an empty one, or one that holds no ids is no claim."""
    for text in (None, "", ",", "nonsense", "GPU-a", "GPU-a-x", "GPU-a-01"):
        environment = {} if text is None else {"NVIDIA_VGPU_IDS": text}
        assert claim_of(environment, None, certain=False) is None


def test_nonsense_is_no_hindrance() -> None:
    """Words that are no ids or budgets are passed over, and names are made fit for the log."""
    claim = claim_of(
        {
            "NVIDIA_VGPU_IDS": " GPU-a-1 ,,x",
            "NVIDIA_VGPU_BUDGETS": "GPU-a=x,=5,GPU-b,GPU-c=99999999999999999999,GPU-d=7",
            "NOMAD_ALLOC_ID": "evil\n\x1b[2J" + "x" * 1000,
        },
        None,
        certain=False,
    )
    assert claim is not None
    assert claim.task.vgpu_ids == ("GPU-a-1",)
    assert claim.promised_mib == {"GPU-d": 7}
    assert claim.task.allocation is not None
    assert claim.task.allocation.startswith("evil??[2J")
    assert len(claim.task.allocation) < 200


@pytest.mark.parametrize(
    "uuid",
    [
        "a",
        "GPU-",
        "gpu-a",
        "XGPU-a",
        "GPU-a b",
        "GPU-a\n",
        "GPU-\x1b[2J",
        "GPU-\u0430",
        "MIG-" + "a" * 200,
    ],
)
def test_what_looks_like_no_uuid_is_no_claim(uuid: str) -> None:
    """What a task makes up as the UUID of a GPU reaches no log, label or terminal."""
    assert claim_of({**TOLD, "NVIDIA_VGPU_IDS": f"{uuid}-0"}, None, certain=False) is None
    claim = claim_of({**TOLD, "NVIDIA_VGPU_BUDGETS": f"{uuid}=1,GPU-a=2"}, None, certain=False)
    assert claim is not None
    assert claim.promised_mib == {"GPU-a": 2}


@pytest.mark.parametrize("uuid", ["GPU-4e1f-0", "MIG-1a2b", "MIG-GPU-4e1f-0/1/0"])
def test_all_forms_of_uuids_are_known(uuid: str) -> None:
    """GPUs, MIG devices, and MIG devices as drivers before R470 named them."""
    told = {"NVIDIA_VGPU_IDS": f"{uuid}-3", "NVIDIA_VGPU_BUDGETS": f"{uuid}=5"}
    claim = claim_of(told, None, certain=False)
    assert claim is not None
    assert (claim.task.vgpu_ids, claim.promised_mib) == ((f"{uuid}-3",), {uuid: 5})


def test_a_claim_of_very_many_vgpus_is_cut_off() -> None:
    """A task cannot make us work for ever."""
    many = ",".join(f"GPU-a-{number % 10000}" for number in range(10**5))
    claim = claim_of({"NVIDIA_VGPU_IDS": many}, None, certain=False)
    assert claim is not None
    assert len(claim.vgpus) <= 4096
