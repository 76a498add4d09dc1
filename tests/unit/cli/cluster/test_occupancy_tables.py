# SPDX-License-Identifier: MPL-2.0
"""A cluster, or a node of it, as a table and as a document."""

from __future__ import annotations

from typing import Any

import pytest
from rich.table import Table

from nomad_nvidia_vgpu.cli.cluster.occupancy import NodeRow, Wanted, rows
from nomad_nvidia_vgpu.cli.cluster.occupancy_tables import (
    cluster_document,
    cluster_table,
    node_table,
    state,
)
from unit.cli.cluster.made_cluster import allocation, device_group, fleet, node

USED = {"GPU-l4-0-0": 100}


def one_row(**other: Any) -> NodeRow:
    """A node with an L4 of four: one held, one unhealthy, two free."""
    held = allocation("aa", "b", "NVIDIA L4", "GPU-l4-0-0", job="train")
    group = device_group(unhealthy={"GPU-l4-0-3": "XID 79"})
    return rows(fleet([node("b", group, **other)], [held]).nodes, Wanted(), {"b-0000-0000": USED})[
        0
    ]


def cells(table: Table) -> list[list[str]]:
    """Row by row."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def test_a_cluster_is_a_row_for_each_node_and_one_for_all() -> None:
    """The last line counts those too that are not shown."""
    row = one_row()
    first, last = cells(cluster_table([row], [row, row]))
    assert first == ["b (b-0000-0)", "ready", "1", "4", "1", "2", "1", "0", "100 / 5120",
                     "2 of letmutx/gpu/NVIDIA L4, 10240 MiB; 2 on the node"]  # fmt: skip
    assert last[:8] == ["all nodes (2)", "-", "2", "8", "2", "4", "2", "0"]


def test_a_node_is_a_row_for_each_gpu_and_task() -> None:
    """With its bus, its tasks and what is free."""
    assert cells(node_table(one_row(), USED)) == [
        ["GPU-l4-0", "0000:00:00.0", "NVIDIA L4", "-", "100 / 5120", "1 unhealthy (XID 79)"],
        ["  0", "-", "train/work/main", "aa-0000-", "100 / 5120", "-"],
        ["  1-2", "-", "free", "-", "-", "-"],
    ]


def test_the_gpus_of_a_node_are_in_the_order_of_the_driver() -> None:
    """By PCI bus id, across groups."""
    listed = device_group(gpus=3)
    for instance, bus in zip(listed["Instances"][::4], ("b", "c", "a"), strict=True):
        instance["Locality"] = {"PciBusID": f"0000:0{bus}:00.0"}
    (found,) = fleet([node("b", listed)], []).nodes
    (row,) = rows([found], Wanted(), {})
    assert [line[0] for line in cells(node_table(row, {})) if line[0].startswith("GPU")] == [
        "GPU-l4-2",
        "GPU-l4-0",
        "GPU-l4-1",
    ]


def test_memory_that_nobody_tells_is_not_zero() -> None:
    """A question mark where something is granted, nothing where nothing is."""
    row = one_row()
    assert cells(node_table(row, {}))[0][4] == "? / 5120"


def test_the_document_has_every_vgpu_with_its_task() -> None:
    """Node, group, GPU, task."""
    document: Any = cluster_document([one_row()], {"b-0000-0000": USED}, ["a note"])
    (entry,) = document["nodes"]
    assert (entry["name"], entry["total"], entry["used"], entry["used_mib"]) == ("b", 4, 1, 100)
    assert entry["largest_request"]["vgpus"] == 2
    (gpu,) = entry["groups"][0]["gpus"]
    (task,) = gpu["tasks"]
    assert (gpu["pci_bus_id"], task["job"], task["vgpus"]) == (
        "0000:00:00.0",
        "train",
        ["GPU-l4-0-0"],
    )
    assert document["totals"]["nodes"] == 1
    assert document["notes"] == ["a note"]


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({}, "ready"),
        ({"Status": "down"}, "down"),
        ({"Drain": True, "SchedulingEligibility": "ineligible"}, "draining"),
        ({"SchedulingEligibility": "ineligible"}, "ineligible"),
    ],
)
def test_a_state_is_a_word(other: dict[str, Any], word: str) -> None:
    """Why nothing is placed there."""
    assert state(one_row(**other).node) == word
