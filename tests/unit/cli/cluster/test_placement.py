# SPDX-License-Identifier: MPL-2.0
"""Whether a task group fits on a node, how often, and what is in its way."""

from __future__ import annotations

from typing import Any

import pytest

from nomad_nvidia_vgpu.cli.cluster.attributes import Value
from nomad_nvidia_vgpu.cli.cluster.jobs import Job
from nomad_nvidia_vgpu.cli.cluster.model import Node, Resources
from nomad_nvidia_vgpu.cli.cluster.placement import KINDS, Obstacle, human, obstacles, room
from nomad_nvidia_vgpu.sharing.withheld import WITHHELD
from unit.cli.cluster.made_cluster import allocation, block, device_group, fleet, job, node

MEMORY = "${device.attr.vgpu_memory}"
ON_T4 = "${device.attr.model} = Tesla T4"
FOUR_AT_MOST = (
    "are asked for in one device block, and the largest device group here has 4 (NVIDIA L4)"
)
L4_AND_T4 = (device_group(), device_group("Tesla T4", memory_mib=3840))


def one_node(*groups: dict[str, Any], held: tuple[str, ...] = (), **other: Any) -> Node:
    """A node with some L4 vGPUs held."""
    holders = [allocation("aa", "b", "NVIDIA L4", *held, job="infer")] if held else []
    return fleet([node("b", *groups, **other)], holders).nodes[0]


def found(asked: Job, where: Node) -> list[Obstacle]:
    """What is in the way of the job's one group."""
    there = obstacles(asked, asked.groups[0], where)
    assert all(obstacle.kind in KINDS for obstacle in there)
    return there


def only(asked: Job, where: Node) -> Obstacle:
    """The one thing that is in the way."""
    (obstacle,) = found(asked, where)
    assert room(asked.groups[0], where) == 0 or not obstacle.of_devices
    return obstacle


def test_what_fits_has_nothing_in_its_way() -> None:
    """Four vGPUs: four times one, twice two, once three."""
    where = one_node(device_group())
    for count, times in ((1, 4), (2, 2), (3, 1)):
        asked = job(block(count=count))
        assert found(asked, where) == []
        assert room(asked.groups[0], where) == times


@pytest.mark.parametrize(
    ("asked", "kind", "text", "remedy"),
    [
        (
            block("nvidia/gpu"),
            "no-such-device",
            "no device is called nvidia/gpu: it offers letmutx/gpu/NVIDIA L4, letmutx/gpu/Tesla T4",
            'write device "letmutx/gpu", or one of these names in full',
        ),
        (
            block("gpu", 1, f"{MEMORY} >= 40 GiB"),
            "constraint",
            f"{MEMORY} >= 40 GiB: the largest here is 5 GiB (NVIDIA L4)",
            "ask for at most 5 GiB",
        ),
        (
            block("gpu", 1, f"{MEMORY} > 5 GiB"),
            "constraint",
            f"{MEMORY} > 5 GiB: the largest here is 5 GiB (NVIDIA L4)",
            "ask for less than 5 GiB",
        ),
        (
            block("gpu", 1, f"{MEMORY} <= 1 GiB"),
            "constraint",
            f"{MEMORY} <= 1 GiB: the smallest here is 3840 MiB (Tesla T4)",
            "ask for at least 3840 MiB",
        ),
        (
            block("gpu", 1, f"{MEMORY} >= 4"),
            "unit",
            f"{MEMORY} >= 4: Nomad cannot compare it with 5 GiB, because its value has no unit",
            'write "4 GiB" or "4 MiB"',
        ),
        (
            block("gpu", 1, "${device.attr.vgpus} >= 4 GiB"),
            "unit",
            "${device.attr.vgpus} >= 4 GiB: Nomad cannot compare it with 4, because the attribute has no unit",
            'write "4" without a unit',
        ),
        (
            block("gpu", 1, f"{MEMORY} >= 4 GHz"),
            "unit",
            f"{MEMORY} >= 4 GHz: Nomad cannot compare it with 5 GiB, because it measures something else",
            "write a value in MiB",
        ),
        (
            block("gpu", 1, "${device.attr.vgpus} = many"),
            "type",
            "${device.attr.vgpus} = many: Nomad cannot compare it with 4, because the value is a word",
            "write a value such as 4",
        ),
        (
            block("gpu", 1, "${device.attr.vgpu_mem} >= 4 GiB"),
            "attribute",
            "${device.attr.vgpu_mem} >= 4 GiB: no device here has the attribute vgpu_mem",
            "write vgpu_memory if that is meant",
        ),
        (
            block("gpu", 1, "${attr.kernel.name} = linux"),
            "constraint",
            "${attr.kernel.name} = linux: a device has no ${attr.kernel.name}",
            "write ${device.attr.NAME}, ${device.model}, ${device.vendor} or ${device.type}",
        ),
        (
            block("gpu", 1, "${device.attr.model} = NVIDIA H100"),
            "constraint",
            "${device.attr.model} = NVIDIA H100: here it is NVIDIA L4, Tesla T4",
            "ask for what is there",
        ),
        (
            block("gpu", 1, f"{MEMORY} >= 5 GiB", ON_T4),
            "constraint",
            f"no group meets all constraints: NVIDIA L4 fails {ON_T4}, Tesla T4 fails {MEMORY} >= 5 GiB",
            "take one of these constraints out",
        ),
        (
            block(count=9),
            "too-many",
            f"9 {FOUR_AT_MOST}",
            "ask for at most 4 in one block",
        ),
        (
            block(count=8),
            "too-many",
            f"8 {FOUR_AT_MOST}: a count lands in one group",
            "ask for at most 4 in one block",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_what_no_group_can_give(asked: dict[str, Any], kind: str, text: str, remedy: str) -> None:
    """The value that is asked for, the value that is there, and what to write."""
    assert only(job(asked), one_node(*L4_AND_T4)) == Obstacle(kind, text, remedy)


def test_a_node_without_devices() -> None:
    """Nothing to name."""
    assert only(job(block()), one_node()).text == "it offers no devices at all"


def test_a_group_of_one_gpu_has_more_in_its_name_than_the_model() -> None:
    """The commonest slip with group_by = "gpu"."""
    where = one_node(device_group(name="NVIDIA L4/GPU-a"))
    asked = job(block("gpu", 1, "${device.model} = NVIDIA L4"))
    assert only(asked, where).remedy.startswith("write ${device.attr.model}")


def test_unhealthy_vgpus_say_why() -> None:
    """Not counted as taken: a task that ends would not help."""
    where = one_node(device_group(unhealthy={f"GPU-l4-0-{n}": "XID 79" for n in range(3)}))
    obstacle = only(job(block(count=2)), where)
    assert obstacle.kind == "unhealthy"
    assert (
        obstacle.text
        == "2 are asked for, and of 4 in NVIDIA L4 1 can be given: 3 unhealthy (XID 79)"
    )


def test_withheld_vgpus_wait_for_tasks() -> None:
    """Nothing is wrong with them."""
    where = one_node(device_group(unhealthy={f"GPU-l4-0-{n}": WITHHELD for n in range(3)}))
    obstacle = only(job(block(count=2)), where)
    assert obstacle.kind == "withheld"
    assert f"3 withheld ({WITHHELD})" in obstacle.text
    assert obstacle.remedy.startswith("wait until the tasks of the earlier division have ended")


def test_vgpus_that_are_held_say_by_whom() -> None:
    """And what is unhealthy beside them."""
    where = one_node(
        device_group(unhealthy={"GPU-l4-0-3": "XID 79"}), held=("GPU-l4-0-0", "GPU-l4-0-1")
    )
    obstacle = only(job(block(count=2)), where)
    assert obstacle.kind == "held"
    assert obstacle.text == (
        "2 are asked for and 1 of 4 are free: infer/work (aa-0000-) has 2; 1 unhealthy (XID 79)"
    )


def test_a_count_lands_in_one_group() -> None:
    """Enough are free, but in two groups."""
    groups = [device_group(vgpus=1, name=f"NVIDIA L4/{n}") for n in range(2)]
    groups[1]["Instances"][0]["ID"] = "GPU-other-0-0"
    big = device_group("NVIDIA A2", vgpus=2, unhealthy={})
    where = fleet(
        [node("b", *groups, big)],
        [allocation("aa", "b", "NVIDIA A2", "GPU-a2-0-0", "GPU-a2-0-1")],
    ).nodes[0]
    obstacle = only(job(block(count=2)), where)
    assert obstacle.kind == "split"
    assert obstacle.text == (
        "2 are asked for and 2 are free, but in 2 device groups (1 in NVIDIA L4/0, 1 in NVIDIA L4/1):"
        " a count lands in one group"
    )
    assert obstacle.remedy.startswith("ask for at most 1 in one block")


def test_blocks_must_fit_together() -> None:
    """Each alone would."""
    where = one_node(device_group())
    obstacle = only(job(block(count=3), block(count=2)), where)
    assert obstacle.kind == "together"
    assert obstacle.text == (
        "its 2 device blocks fit one by one and not together: free are 4 in NVIDIA L4"
    )


def test_blocks_are_put_where_all_find_room() -> None:
    """The block that admits any group leaves the L4 to the block that admits no other."""
    where = one_node(*L4_AND_T4)
    asked = job(block(count=4), block("gpu", 4, "${device.model} = NVIDIA L4"))
    assert found(asked, where) == []
    assert room(asked.groups[0], where) == 1


def test_two_blocks_that_ask_for_the_same_are_told_once() -> None:
    """One sentence."""
    assert len(found(job(block(count=9), block(count=9)), one_node(device_group()))) == 1


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"Status": "down"}, "it is down"),
        ({"Drain": True}, "it is draining"),
        ({"SchedulingEligibility": "ineligible"}, "it is not eligible for placements"),
        ({"Datacenter": "eu"}, "it is in datacenter eu, and the job asks for dc*"),
        ({"NodePool": "gpu"}, "it is in node pool gpu, and the job asks for default"),
        ({"Drivers": {}}, "its task driver docker is missing or unhealthy"),
    ],
)
def test_a_node_that_is_out_of_the_question(state: dict[str, Any], text: str) -> None:
    """Its devices are told of where they are in the way, too, and not shown."""
    obstacle = only(job(block(count=99)), one_node(device_group(), **state))
    assert (obstacle.kind, obstacle.text) == ("node", text)
    assert obstacle.of_devices, "99 vGPUs would not fit there, either"
    assert not only(job(block()), one_node(device_group(), **state)).of_devices


def test_processor_time_and_memory() -> None:
    """Beside what devices are in the way, and counted in how often it fits."""
    where = one_node(device_group(vgpus=40))
    (group,) = job(block()).groups
    assert room(group._replace(needs=Resources(100, 3000)), where) == 2
    much = job()._replace(groups=(group._replace(needs=Resources(100, 9000)),))
    obstacle = only(much, where)
    assert obstacle.text == "9000 MB of memory are asked for and 8000 are free"
    assert not obstacle.of_devices


def test_a_group_that_wants_nodes_of_its_own_fits_once() -> None:
    """By distinct_hosts."""
    asked = job(block(), Constraints=[{"Operand": "distinct_hosts"}])
    assert room(asked.groups[0], one_node(device_group())) == 1


def test_a_group_without_devices_is_counted_by_the_rest() -> None:
    """A hundred MHz each of four thousand; memory gives out first."""
    asked = job()
    assert found(asked, one_node()) == []
    assert room(asked.groups[0], one_node()) == 26


def test_memory_is_shown_in_whole_gib() -> None:
    """And in MiB where it is none."""
    shown = [human(v) for v in (Value(20480, "MiB"), Value(3840, "MiB"), Value(True), Value(9.5))]
    assert shown == ["20 GiB", "3840 MiB", "true", "9.5"]
