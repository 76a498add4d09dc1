# SPDX-License-Identifier: MPL-2.0
"""What is read of a cluster."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.cli.cluster.connection import NomadError
from nomad_nvidia_vgpu.cli.cluster.model import Holder, Resources, read_fleet
from nomad_nvidia_vgpu.sharing.withheld import WITHHELD
from unit.cli.cluster.made_cluster import allocation, cluster, device_group, fleet, node, serving


def test_nodes_with_their_devices_and_holders() -> None:
    """Each vGPU is free, held by a task, or not offered for a reason."""
    group = device_group(unhealthy={"GPU-l4-0-2": "XID 79", "GPU-l4-0-3": WITHHELD})
    held = allocation("aa", "b", "NVIDIA L4", "GPU-l4-0-0", job="train")
    (first, second) = fleet([node("c"), node("b", group)], [held]).nodes
    assert (first.name, second.name) == ("b", "c")
    (found,) = first.groups
    assert found.ours
    assert found.memory_mib() == 5120
    assert found.holders == {"GPU-l4-0-0": Holder("aa-0000-0000", "train", "work", "main")}
    assert [vgpu.id for vgpu in found.free] == ["GPU-l4-0-1"]
    assert [vgpu.withheld for vgpu in found.instances] == [False, False, False, True]
    assert found.instances[0].pci_bus_id == "0000:00:00.0"
    assert second.groups == ()


def test_a_vgpu_is_counted_by_the_name_of_its_group_too() -> None:
    """As Nomad counts: the same id under another name holds nothing of this group."""
    held = allocation("aa", "b", "NVIDIA L4 5GiB", "GPU-l4-0-0")
    (found,) = fleet([node("b", device_group())], [held]).nodes
    assert len(found.groups[0].free) == 4


@pytest.mark.parametrize("status", ["complete", "failed", "lost"])
def test_what_has_ended_holds_nothing(status: str) -> None:
    """An old Nomad does not filter, so they are in the list."""
    ended = allocation("aa", "b", "NVIDIA L4", "GPU-l4-0-0", ClientStatus=status)
    (found,) = fleet([node("b", device_group())], [ended]).nodes
    assert len(found.groups[0].free) == 4
    assert found.free == Resources(4000, 8000)


def test_processor_time_and_memory_that_are_left() -> None:
    """What the node has without what it keeps for itself, and without what its tasks were given."""
    reserved = {"Cpu": {"CpuShares": 500}, "Memory": {"MemoryMB": 1000}}
    held = allocation("aa", "b", "NVIDIA L4", "GPU-l4-0-0")
    (found,) = fleet([node("b", device_group(), ReservedResources=reserved)], [held]).nodes
    assert found.total == Resources(3500, 7000)
    assert found.free == Resources(3400, 6700)
    assert found.empty().free == found.total
    assert len(found.empty().groups[0].free) == 4


def test_a_nomad_that_lists_no_resources_is_asked_one_by_one() -> None:
    """As before 1.0."""
    whole, held = node("b", device_group()), allocation("aa", "b", "NVIDIA L4", "GPU-l4-0-0")
    short = {k: v for k, v in whole.items() if k != "NodeResources"}
    stub = {k: v for k, v in held.items() if k != "AllocatedResources"}
    answers = {
        **cluster([short], [stub]),
        "/v1/node/b-0000-0000": whole,
        "/v1/allocation/aa-0000-0000": held,
    }
    with serving(answers) as served:
        (found,) = read_fleet(served.connection()).nodes
    assert len(found.groups[0].free) == 3


@pytest.mark.parametrize(
    ("state", "placeable"),
    [
        ({}, True),
        ({"Status": "down"}, False),
        ({"SchedulingEligibility": "ineligible"}, False),
        ({"Drain": True}, False),
    ],
)
def test_where_nomad_places_nothing(state: dict[str, object], *, placeable: bool) -> None:
    """A node that is down, drained or not eligible."""
    (found,) = fleet([node("b", **state)]).nodes
    assert found.placeable is placeable


def test_a_group_of_another_plugin_is_not_ours() -> None:
    """Ours says how many vGPUs a GPU has, and numbers them."""
    other = device_group()
    del other["Attributes"]["vgpus"]
    whole = device_group(vgpus=1)
    whole["Instances"][0]["ID"] = "GPU-l4"
    (found,) = fleet([node("b", other, whole)]).nodes
    assert [group.ours for group in found.groups] == [False, False]


@pytest.mark.parametrize(
    ("token", "noted"),
    [
        ((400, "ACL support disabled"), False),
        ({"AccessorID": "acls-disabled", "Type": "client"}, False),  # Nomad 2.0.5 without ACLs
        ({"Type": "management"}, False),
        ({"Type": "client"}, True),
        ((403, "Permission denied"), True),
    ],
)
def test_a_token_that_may_not_see_all_is_noted(token: object, *, noted: bool) -> None:
    """What is held in a namespace that it cannot read shows as free, so that is said."""
    with serving({**cluster([]), "/v1/acl/token/self": token}) as served:
        notes = read_fleet(served.connection()).notes
    assert bool(notes) is noted
    assert not notes or 'namespace "*" { policy = "read" }' in notes[0]


def test_what_a_token_lacks_for_it_is_named() -> None:
    """Nodes and jobs are two rules."""
    for path, rule in (("/v1/nodes", "node {"), ("/v1/allocations", 'namespace "*" {')):
        answers = {**cluster([]), path: (403, "Permission denied")}
        with serving(answers) as served, pytest.raises(NomadError) as refused:
            read_fleet(served.connection(NOMAD_TOKEN="x"))
        assert f"lacks {rule}" in str(refused.value)
