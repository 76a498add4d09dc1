# SPDX-License-Identifier: MPL-2.0
"""Device groups as tables and as documents: the same for a plan and for a running plugin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup, Instance
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId


def group_tables(groups: Sequence[DeviceGroup]) -> tuple[Table, ...]:
    """What Nomad is told: the groups, their attributes, and the vGPUs by GPU."""
    overview = style.table(
        "Device groups",
        ("Device", "vGPUs", "Healthy", "Memory of one", "Sharing", "Isolation"),
        [_overview_row(group) for group in groups],
    )
    names = sorted({name for group in groups for name in group.attributes})
    attributes = style.table(
        "Attributes",
        ("Attribute", *(group.name for group in groups)),
        [(name, *(_attribute(group, name) for group in groups)) for name in names],
        by_column=True,
    )
    vgpus = style.table(
        "vGPUs", ("Ids", "GPU", "Health"), [row for group in groups for row in _gpu_rows(group)]
    )
    return overview, attributes, vgpus


def group_documents(groups: Sequence[DeviceGroup]) -> list[dict[str, object]]:
    """The same for machines."""
    return [
        {
            "device": device_name(group),
            "attributes": {
                name: {"value": a.value, **({"unit": a.unit} if a.unit else {})}
                for name, a in group.attributes.items()
            },
            "vgpus": [instance._asdict() for instance in group.instances],
        }
        for group in groups
    ]


def device_name(group: DeviceGroup) -> str:
    """The full name by which a job can ask for the group."""
    return f"{group.vendor}/{group.type}/{group.name}"


def _overview_row(group: DeviceGroup) -> tuple[object, ...]:
    return (
        device_name(group),
        len(group.instances),
        sum(instance.healthy for instance in group.instances),
        _attribute(group, "vgpu_memory"),
        _attribute(group, "sharing"),
        _attribute(group, "memory_isolation"),
    )


def _attribute(group: DeviceGroup, name: str) -> str | None:
    attribute = group.attributes.get(name)
    return None if attribute is None else style.attribute_text(attribute)


def _gpu_rows(group: DeviceGroup) -> list[tuple[object, ...]]:
    """One row for each GPU: sixteen ids that differ in their last number are no reading matter."""
    first: dict[str, Instance] = {}
    counts: Counter[str] = Counter()
    for instance in group.instances:
        vgpu = VgpuId.parse(instance.id)
        uuid = vgpu.gpu_uuid if vgpu else instance.id
        first.setdefault(uuid, instance)
        counts[uuid] += 1
    return [
        (
            f"{uuid}-0" if counts[uuid] == 1 else f"{uuid}-0 … -{counts[uuid] - 1}",
            instance.pci_bus_id,
            "healthy" if instance.healthy else instance.health_description,
        )
        for uuid, instance in first.items()
    ]
