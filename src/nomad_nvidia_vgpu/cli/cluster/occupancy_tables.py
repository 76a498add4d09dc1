# SPDX-License-Identifier: MPL-2.0
"""A cluster, or a node of it, as a table and as a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from nomad_nvidia_vgpu.cli.cluster.explanation import node_name
from nomad_nvidia_vgpu.cli.cluster.model import ID_LENGTH, Group, Instance, Node
from nomad_nvidia_vgpu.cli.cluster.occupancy import (
    NodeRow,
    Occupancy,
    UsedMib,
    by_gpu,
    by_holder,
    occupancy,
    totals,
)
from nomad_nvidia_vgpu.cli.cluster.placement import unwell_text
from nomad_nvidia_vgpu.cli.tables.style import table
from nomad_nvidia_vgpu.cli.tables.top import short_numbers, short_uuid

_COLUMNS = ("Node", "State", "GPUs", "vGPUs", "Used", "Free", "Unhealthy", "Withheld")
_MEMORY = "MiB used of granted"
_LARGEST = "Largest request now"


def cluster_table(found: Sequence[NodeRow], everything: Sequence[NodeRow]) -> Table:
    """A row for each of the nodes `found`, and one for all of `everything`."""
    lines: list[tuple[object, ...]] = [
        (
            node_name(row.node),
            state(row.node),
            row.gpus,
            *row.occupancy[:5],
            _memory(row.occupancy),
            _largest(row),
        )
        for row in found
    ]
    whole = totals(everything)
    gpus = sum(row.gpus for row in everything)
    lines.append((f"all nodes ({len(everything)})", None, gpus, *whole[:5], _memory(whole), None))
    return table("Cluster", (*_COLUMNS, _MEMORY, _LARGEST), lines)


def node_table(row: NodeRow, used: UsedMib) -> Table:
    """A row for each GPU of a node, and below it one for each task on it."""
    columns = ("GPU, vGPUs", "PCI bus", "Model, task", "Alloc", "MiB used of granted", "Health")
    gpus = [
        (instances[0].pci_bus_id or "", group, uuid, instances)
        for group in row.groups
        for uuid, instances in by_gpu(group).items()
    ]
    lines = [
        line
        for _, group, uuid, instances in sorted(gpus, key=lambda gpu: gpu[0])
        for line in _gpu_lines(group, uuid, instances, used)
    ]
    return table(f"{node_name(row.node)}: {state(row.node)}", columns, lines)


def _gpu_lines(
    group: Group, uuid: str, instances: Sequence[Instance], used: UsedMib
) -> Iterator[tuple[object, ...]]:
    occupied = occupancy(group, instances, used)
    bad = [vgpu for vgpu in instances if vgpu.unhealthy]
    health = unwell_text(bad) if bad else "healthy"
    bus = instances[0].pci_bus_id
    yield short_uuid(uuid), bus, group.name, None, _memory(occupied), health
    for holder, held in by_holder(group, instances).items():
        memory = _memory(occupancy(group, held, used))
        task = f"{holder.job}/{holder.group}/{holder.task}"
        ids = short_numbers([vgpu.id for vgpu in held])
        yield f"  {ids}", None, task, holder.allocation[:ID_LENGTH], memory, None
    free = [vgpu.id for vgpu in instances if vgpu in group.free]
    if free:
        yield f"  {short_numbers(free)}", None, "free", None, None, None


def cluster_document(
    found: Sequence[NodeRow], used: dict[str, UsedMib], notes: Sequence[str]
) -> dict[str, object]:
    """The same for machines; memory in MiB."""
    return {
        "nodes": [_row_document(row, used.get(row.node.id, {})) for row in found],
        "totals": {"nodes": len(found), **totals(found)._asdict()},
        "notes": list(notes),
    }


def _row_document(row: NodeRow, used: UsedMib) -> dict[str, object]:
    node = row.node
    return {
        "id": node.id,
        "name": node.name,
        "state": state(node),
        "datacenter": node.datacenter,
        "node_pool": node.pool,
        **row.occupancy._asdict(),
        "largest_request": row.largest and row.largest._asdict(),
        "groups": [
            {
                "device": group.device,
                "vgpu_memory_mib": group.memory_mib(),
                **occupancy(group, group.instances, used)._asdict(),
                "gpus": [
                    _gpu_document(group, uuid, instances, used)
                    for uuid, instances in by_gpu(group).items()
                ],
            }
            for group in row.groups
        ],
    }


def _gpu_document(
    group: Group, uuid: str, instances: Sequence[Instance], used: UsedMib
) -> dict[str, object]:
    return {
        "uuid": uuid,
        "pci_bus_id": instances[0].pci_bus_id,
        **occupancy(group, instances, used)._asdict(),
        "health": unwell_text([vgpu for vgpu in instances if vgpu.unhealthy]) or "healthy",
        "tasks": [
            {
                **holder._asdict(),
                "vgpus": [vgpu.id for vgpu in held],
                "used_mib": occupancy(group, held, used).used_mib,
                "granted_mib": occupancy(group, held, used).granted_mib,
            }
            for holder, held in by_holder(group, instances).items()
        ],
    }


def state(node: Node) -> str:
    """In a word or two: why Nomad places nothing there, or that it is ready."""
    if node.status != "ready":
        return node.status
    if node.draining:
        return "draining"
    return "ready" if node.eligible else "ineligible"


def _memory(occupied: Occupancy) -> str | None:
    if occupied.granted_mib is None:
        return None
    used = "?" if occupied.used_mib is None else occupied.used_mib
    return f"{used} / {occupied.granted_mib}"


def _largest(row: NodeRow) -> str | None:
    if row.largest is None:
        return None
    vgpus, memory_mib, device = row.largest
    memory = "" if memory_mib is None else f", {memory_mib} MiB"
    return f"{vgpus} of {device}{memory}; {row.occupancy.free} on the node"
