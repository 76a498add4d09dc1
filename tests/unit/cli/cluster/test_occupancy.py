# SPDX-License-Identifier: MPL-2.0
"""How full the nodes of a cluster are."""

from __future__ import annotations

from typing import Any

import pytest

from nomad_nvidia_vgpu.cli.cluster.model import Fleet
from nomad_nvidia_vgpu.cli.cluster.occupancy import (
    Largest,
    NodeRow,
    Occupancy,
    Wanted,
    by_gpu,
    by_holder,
    rows,
    totals,
    used_memory,
)
from nomad_nvidia_vgpu.sharing.withheld import WITHHELD
from unit.cli.cluster.made_cluster import allocation, device_group, fleet, node, serving

EVERYTHING = Wanted()


def l4(vgpus: int = 4, **other: Any) -> dict[str, Any]:
    """A group of L4 vGPUs, of which the third is unhealthy and the fourth withheld."""
    return device_group(vgpus=vgpus, unhealthy={"GPU-l4-0-2": "x", "GPU-l4-0-3": WITHHELD}, **other)


def two_nodes() -> Fleet:
    """One with an L4, and one with two T4 whose four vGPUs two jobs share."""
    held = [
        allocation("aa", "b", "Tesla T4", "GPU-t4-0-0", "GPU-t4-1-0", job="infer"),
        allocation("bb", "b", "Tesla T4", "GPU-t4-0-1", job="train"),
    ]
    t4 = device_group("Tesla T4", gpus=2, vgpus=2, memory_mib=7680)
    return fleet([node("a", l4()), node("b", t4), node("c")], held)


def by_name(found: list[NodeRow]) -> dict[str, NodeRow]:
    """The rows by the name of their node."""
    return {row.node.name: row for row in found}


def test_each_vgpu_is_counted_once() -> None:
    """Used, free, unhealthy or withheld; a node without vGPUs has no row."""
    found = by_name(rows(two_nodes().nodes, EVERYTHING))
    assert found.keys() == {"a", "b"}
    assert found["a"].occupancy == Occupancy(4, 0, 2, 1, 1)
    assert found["b"].occupancy == Occupancy(4, 3, 1, 0, 0, None, 3 * 7680)
    assert found["b"].gpus == 2
    assert totals(found.values()) == Occupancy(8, 3, 3, 1, 1, None, 3 * 7680)


def test_a_vgpu_that_is_in_use_is_used_however_it_fares() -> None:
    """All states together are all vGPUs."""
    held = allocation("aa", "a", "NVIDIA L4", "GPU-l4-0-2", "GPU-l4-0-3")
    (row,) = rows(fleet([node("a", l4())], [held]).nodes, EVERYTHING)
    assert row.occupancy[:5] == (4, 2, 2, 0, 0)


def test_the_largest_request_is_that_of_one_group() -> None:
    """With its memory; of a node where nothing is placed there is none."""
    found = by_name(rows(two_nodes().nodes, EVERYTHING))
    assert found["a"].largest == Largest(2, 2 * 5120, "letmutx/gpu/NVIDIA L4")
    assert found["b"].largest == Largest(1, 7680, "letmutx/gpu/Tesla T4")
    (drained,) = rows(fleet([node("a", l4(), Drain=True)]).nodes, EVERYTHING)
    assert drained.largest is None


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Wanted(node="a"), {"a"}),
        (Wanted(node="b-0000"), {"b"}),
        (Wanted(model="t4"), {"b"}),
        (Wanted(model="NVIDIA*"), {"a"}),
        (Wanted(job="train"), {"b"}),
        (Wanted(job="tr*"), {"b"}),
        (Wanted(job="tr"), set()),
        (Wanted(model="L4", job="train"), set()),
    ],
)
def test_only_what_is_wanted(wanted: Wanted, names: set[str]) -> None:
    """By node, by model, by job."""
    assert by_name(rows(two_nodes().nodes, wanted)).keys() == names


def test_vgpus_by_gpu_and_by_task() -> None:
    """A task may have vGPUs of several GPUs."""
    group = by_name(rows(two_nodes().nodes, EVERYTHING))["b"].groups[0]
    assert {uuid: len(them) for uuid, them in by_gpu(group).items()} == {
        "GPU-t4-0": 2,
        "GPU-t4-1": 2,
    }
    held = {holder.job: len(them) for holder, them in by_holder(group, group.instances).items()}
    assert held == {"infer": 2, "train": 1}


def test_the_memory_that_tasks_use() -> None:
    """Of the vGPUs in use, from the stats of each node; of those that say nothing it is unknown."""

    def stat(used: int | None) -> dict[str, Any]:
        memory = {} if used is None else {"vGPU memory": {"IntNumeratorVal": used}}
        return {"Stats": {"Attributes": memory}}

    instances = {"GPU-t4-0-0": stat(100), "GPU-t4-1-0": stat(50), "GPU-t4-0-1": stat(None),
                 "GPU-t4-1-1": stat(7), "GPU-t4-9-9": None}  # fmt: skip
    stats = {"DeviceStats": [{"InstanceStats": instances}, {"InstanceStats": None}]}
    nodes = two_nodes().nodes
    with serving({"/v1/client/stats": stats}) as served:
        used, problems = used_memory(served.connection(), nodes)
    assert problems == []
    assert {asked.query["node_id"] for asked in served.asked} == {entry.id for entry in nodes}
    row = by_name(rows(nodes, EVERYTHING, used))["b"]
    assert row.occupancy.used_mib == 150


def test_nodes_that_give_no_figures_are_told_together() -> None:
    """One sentence, with how many; a node that is down is not asked."""
    nodes = fleet([node("a"), node("b"), node("c", Status="down")]).nodes
    with serving({"/v1/client/stats": (500, "no path to node")}) as served:
        used, problems = used_memory(served.connection(), nodes)
    assert not any(used.values())
    (problem,) = problems
    assert problem.startswith("2 nodes give no figures: ")
    assert "no path to node" in problem
