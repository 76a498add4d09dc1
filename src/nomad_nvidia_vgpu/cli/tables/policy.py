# SPDX-License-Identifier: MPL-2.0
"""Why each GPU is divided and grouped as it is: what decided it, as a table and as a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.model import Inventory, SeenGpu
from nomad_nvidia_vgpu.sharing.plan import Plan, SharedGpu
from nomad_nvidia_vgpu.sharing.policy import NODE, Policy, decide

_COLUMNS = ("GPU", "Model", "PCI bus", "vGPUs", "Share", "Sharing", "Group", "Why")


class Decision(NamedTuple):
    """One GPU of the node, what the config says of it, and what came of it."""

    seen: SeenGpu
    policy: Policy
    shared: SharedGpu | None
    """None: it is not published."""
    group: str | None


def decisions(config: PluginConfig, inventory: Inventory, plan: Plan) -> list[Decision]:
    """One for each GPU of the node, ignored ones too."""
    groups = {one.gpu.uuid: (one, group.name) for group in plan.groups for one in group.gpus}
    return [
        Decision(seen, decide(config, seen.gpu), *groups.get(seen.gpu.uuid, (None, None)))
        for seen in inventory.gpus
    ]


def policy_table(made: Sequence[Decision]) -> Table:
    """One row for each GPU."""
    return style.table("What decides", _COLUMNS, [_row(one) for one in made])


def policy_documents(made: Sequence[Decision]) -> list[dict[str, object]]:
    """The same for machines; what does not apply is null."""
    return [
        {
            "uuid": one.seen.gpu.uuid,
            "model": one.seen.gpu.model,
            "pci_bus_id": one.seen.gpu.pci_bus_id,
            "parent_uuid": one.seen.gpu.parent_uuid,
            "memory_mib": one.seen.gpu.own_memory_mib,
            "ignored": one.policy.ignored,
            "vgpus": one.shared.vgpus if one.shared else None,
            "share_mib": one.shared.memory_mib(1) if one.shared else None,
            "sharing": one.shared.sharing if one.shared else None,
            "mps_priority": one.policy.mps_priority if _by_mps(one) else None,
            "group": one.group,
            "size_asked": one.policy.asked or None,
            "decided_by": one.policy.decided_by._asdict(),
            "problem": one.policy.problem or None,
        }
        for one in made
    ]


def _by_mps(one: Decision) -> bool:
    return one.shared is not None and one.shared.sharing == "mps"


def _sharing(one: Decision) -> str | None:
    sharing = one.shared.sharing if one.shared else None
    low = _by_mps(one) and one.policy.mps_priority != "normal"
    return f"{sharing}, {one.policy.mps_priority}" if low else sharing


def _row(one: Decision) -> tuple[object, ...]:
    gpu, shared = one.seen.gpu, one.shared
    share = shared.memory_mib(1) if shared else None
    return (
        gpu.uuid,
        gpu.model,
        gpu.pci_bus_id,
        shared.vgpus if shared else None,
        None if share is None else f"{share} MiB",
        _sharing(one),
        one.group,
        _why(one),
    )


def _why(one: Decision) -> str:
    """The size and its rule, then what else is not left to the node's options."""
    policy = one.policy
    if policy.ignored:
        return f"ignored ({policy.decided_by.ignored})"
    if policy.problem:
        return policy.problem
    parts = [f"{policy.asked} ({policy.decided_by.size})"]
    parts += [
        f"{field} ({rule})"
        for field, rule in policy.decided_by._asdict().items()
        if field != "size" and rule != NODE
    ]
    return ", ".join(parts)
