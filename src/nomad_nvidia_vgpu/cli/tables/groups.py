# SPDX-License-Identifier: MPL-2.0
"""Device groups as tables and as documents: the same for a plan and for a running plugin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.table import Table

from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.device.fingerprint import DeviceGroup, Instance
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId

_OF_ONE_GPU = frozenset({"gpu_uuid", "pci_bus_id"})
"""Attributes that differ from GPU to GPU by nature: the table of the GPUs has them."""


def group_tables(groups: Sequence[DeviceGroup]) -> tuple[Table, ...]:
    """What Nomad is told: the groups, and their attributes."""
    overview = style.table(
        "Device groups",
        ("Device", "Groups", "vGPUs", "Healthy", "vGPU memory", "Sharing", "Isolation"),
        _overview_rows(groups),
    )
    return overview, *_attribute_tables(groups)


def vgpu_table(groups: Sequence[DeviceGroup]) -> Table:
    """The vGPUs, one row for each GPU."""
    rows = [row for group in groups for row in _gpu_rows(group)]
    return style.table("vGPUs", ("Ids", "GPU", "Health"), rows)


def _overview_rows(groups: Sequence[DeviceGroup]) -> list[tuple[object, ...]]:
    """One row for each group; alike groups of one GPU each have one row together."""
    rows: Counter[tuple[object, ...]] = Counter()
    for group in groups:
        row = (f"{group.vendor}/{group.type}/{_kind(group)}", *_overview(group))
        rows[row] += 1
    return [(device, count, *figures) for (device, *figures), count in rows.items()]


def _kind(group: DeviceGroup) -> str:
    """The group's name; without the UUID for a group that is named after its one GPU."""
    uuid = group.attributes.get("gpu_uuid")
    alike = uuid is not None and group.name.endswith(f"/{uuid.value}")
    return f"{group.name.rpartition('/')[0]}/<GPU uuid>" if alike else group.name


def _attribute_tables(groups: Sequence[DeviceGroup]) -> list[Table]:
    """What all groups have in common once, then what differs."""
    hidden = _OF_ONE_GPU if len(groups) > 1 else frozenset()
    names = sorted({name for group in groups for name in group.attributes} - hidden)
    values = {name: [_attribute(group, name) for group in groups] for name in names}
    common = [(name, of_all[0]) for name, of_all in values.items() if len(set(of_all)) == 1]
    differ = {name: of_all for name, of_all in values.items() if len(set(of_all)) > 1}
    title = "Attributes" if len(groups) == 1 else "Attributes of all groups"
    tables = [style.pairs(title, common)] if common else []
    if differ:
        columns = _columns(groups, differ.values())
        rows = list(zip(differ, *columns.values(), strict=True))
        headings = ("Attribute", *columns)
        tables.append(style.table("Attributes that differ", headings, rows, by_column=True))
    return tables


def _columns(
    groups: Sequence[DeviceGroup], rows: Iterable[Sequence[str | None]]
) -> dict[str, tuple[str | None, ...]]:
    """A column for each group, by its heading; one for all groups of one GPU that are alike."""
    columns = list(zip(*rows, strict=True))
    kinds = [_kind(group) for group in groups]
    together = dict(zip(kinds, columns, strict=True))
    if all(together[kind] == column for kind, column in zip(kinds, columns, strict=True)):
        return together
    return {group.name: column for group, column in zip(groups, columns, strict=True)}


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


def _overview(group: DeviceGroup) -> tuple[object, ...]:
    return (
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
