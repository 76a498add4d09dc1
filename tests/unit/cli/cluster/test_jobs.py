# SPDX-License-Identifier: MPL-2.0
"""What a job asks for."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.cli.cluster.jobs import Constraint, job_of
from nomad_nvidia_vgpu.cli.cluster.model import Resources
from unit.cli.cluster.made_cluster import block, device_group, fleet, job, node, raw_job


@pytest.fixture(scope="module")
def group() -> object:
    """Gives an L4 of four vGPUs."""
    return fleet([node("b", device_group())]).nodes[0].groups[0]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gpu", True),
        ("letmutx/gpu", True),
        ("letmutx/gpu/NVIDIA L4", True),
        ("//NVIDIA L4", True),
        ("nvidia/gpu", False),
        ("letmutx/gpu/NVIDIA", False),
        ("letmutx/gpu/nvidia l4", False),
        ("letmutx", False),
    ],
)
def test_a_block_names_a_type_a_vendor_or_all(group: object, name: str, *, meant: bool) -> None:
    """Exactly, case and all; an empty part is any."""
    (request,) = job(block(name)).groups[0].requests
    assert request.names(group) is meant  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("constraint", "met"),
    [
        ("${device.attr.vgpu_memory} >= 5 GiB", True),
        ("${device.attr.vgpu_memory} > 5 GiB", False),
        ("${device.model} = NVIDIA L4", True),
        ("${device.vendor} = letmutx", True),
        ("${device.type} = gpu", True),
        ("${device.ids} set_contains GPU-l4-0-1", True),
        ("${device.nonsense} = x", False),
        ("${attr.kernel.name} = linux", False),
        ("5 = ${device.attr.vgpus}", False),
        ("4 = ${device.attr.vgpus}", True),
    ],
)
def test_the_sides_of_a_constraint(group: object, constraint: str, *, met: bool) -> None:
    """Attributes, name parts, ids, and what stands as it is, on either side."""
    (request,) = job(block("gpu", 1, constraint)).groups[0].requests
    assert (request.failing(group) == []) is met  # type: ignore[arg-type]


def test_a_constraint_on_ids_chooses_among_instances() -> None:
    """Of a group that has them, only the named ones."""
    (request,) = (
        job(block("gpu", 1, "${device.ids} set_contains GPU-a-1, GPU-a-2")).groups[0].requests
    )
    assert [request.admits(id_) for id_ in ("GPU-a-0", "GPU-a-1", "GPU-a-2")] == [False, True, True]


def test_what_is_left_out_has_nomads_default() -> None:
    """One task group of one, any datacenter, one instance, service."""
    found = job_of({"ID": "x", "TaskGroups": [{"Name": "g", "Tasks": []}]}, "ml")
    assert (found.namespace, found.kind, found.datacenters, found.pool) == (
        "ml",
        "service",
        ("*",),
        "default",
    )
    assert found.groups[0].wanted == 1
    raw = {"Name": "main", "Resources": {"Devices": [{"Name": "gpu"}]}}
    read = job_of({"ID": "x", "TaskGroups": [{"Name": "g", "Count": 0, "Tasks": [raw]}]}, "ml")
    assert (read.groups[0].wanted, read.groups[0].requests[0].wanted) == (0, 1)


def test_a_request_is_told_as_a_person_would() -> None:
    """Number, name, conditions and task."""
    text = "${device.attr.vgpu_memory} >= 5 GiB"
    (request,) = job(block("gpu", 2, text)).groups[0].requests
    assert str(request) == f"2 of gpu with {text} for task main"
    assert Constraint("${device.attr.x}", "is_set", "").attribute == "x"
    assert Constraint("${device.model}", "=", "x").attribute is None


def test_tasks_that_take_turns_need_the_most_of_any_turn() -> None:
    """What runs before the main tasks ends before them; a sidecar runs beside all."""

    def task(name: str, memory_mb: int, **lifecycle: object) -> dict[str, object]:
        resources = {"CPU": 10, "MemoryMB": memory_mb}
        return {"Name": name, "Driver": "docker", "Resources": resources, "Lifecycle": lifecycle}

    raw = raw_job()
    raw["TaskGroups"][0]["Tasks"] = [
        task("prepare", 500, Hook="prestart"),
        task("main", 300),
        task("also", 100),
        task("logs", 50, Hook="prestart", Sidecar=True),
    ]
    assert job_of(raw, "default").groups[0].needs == Resources(30, 550)


@pytest.mark.parametrize(
    ("constraints", "alone"),
    [([], False), ([{"Operand": "distinct_hosts", "RTarget": "true"}], True),
     ([{"Operand": "distinct_hosts", "RTarget": "false"}], False)],
)  # fmt: skip
def test_a_group_that_wants_nodes_of_its_own(
    constraints: list[dict[str, str]], *, alone: bool
) -> None:
    """Said in the job."""
    assert job(block(), Constraints=constraints).groups[0].alone is alone


def test_datacenters_and_pools() -> None:
    """A datacenter by pattern, a pool by name or all."""
    (here,) = fleet([node("b", Datacenter="dc1", NodePool="gpu")]).nodes
    assert job(Datacenters=["dc*"]).wants(here)
    assert not job(Datacenters=["eu"]).wants(here)
    assert job(NodePool="all").wants_pool_of(here)
    assert job(NodePool="gpu").wants_pool_of(here)
    assert not job().wants_pool_of(here)
