# SPDX-License-Identifier: MPL-2.0
"""Why each GPU is divided and grouped as it is: what decided it, as a table and as a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.model import Gpu, Inventory, SeenGpu
from nomad_nvidia_vgpu.sharing.plan import Plan, SharedGpu
from nomad_nvidia_vgpu.sharing.policy import NODE, Policy, decide

_COLUMNS = ("GPU", "Model", "PCI bus", "vGPUs", "Share", "Sharing", "Group", "Health", "Why")


class Decision(NamedTuple):
    """One GPU of the node, what the config says of it, and what came of it."""

    seen: SeenGpu
    policy: Policy
    shared: SharedGpu | None
    """None: it is not published."""
    group: str | None


def decisions(config: PluginConfig, inventory: Inventory, plan: Plan) -> list[Decision]:
    """One for each GPU of the node, ignored ones too."""
    groups = {
        shared.gpu.uuid: (shared, group.name) for group in plan.groups for shared in group.gpus
    }
    return [
        Decision(seen, decide(config, seen.gpu), *groups.get(seen.gpu.uuid, (None, None)))
        for seen in inventory.gpus
    ]


def policy_table(made: Sequence[Decision]) -> Table:
    """One row for each GPU, in the order of their PCI bus ids, which is the driver's."""
    rows = [_row(decision) for decision in sorted(made, key=lambda d: by_index(d.seen.gpu))]
    return style.table("GPUs, and what decides", _COLUMNS, rows, common_once=True)


def by_index(gpu: Gpu) -> tuple[float, str, int, int]:
    """Sorts GPUs as the driver numbers them, else by PCI bus id; MIG devices follow each other."""
    index = float("inf") if gpu.driver_index is None else gpu.driver_index
    return (index, gpu.pci_bus_id or "", gpu.gpu_instance_id or 0, gpu.compute_instance_id or 0)


def policy_documents(made: Sequence[Decision]) -> list[dict[str, object]]:
    """The same for machines; what does not apply is null."""
    return [
        {
            "uuid": decision.seen.gpu.uuid,
            "model": decision.seen.gpu.model,
            "pci_bus_id": decision.seen.gpu.pci_bus_id,
            "driver_index": decision.seen.gpu.driver_index,
            "parent_uuid": decision.seen.gpu.parent_uuid,
            "memory_mib": (decision.shared or decision.seen).gpu.own_memory_mib,
            "ignored": decision.policy.ignored,
            "vgpus": decision.shared.vgpus if decision.shared else None,
            "share_mib": decision.shared.memory_mib(1) if decision.shared else None,
            "limit_mib": decision.shared.limit_mib(1) if decision.shared else None,
            "sharing": decision.shared.sharing if decision.shared else None,
            "mps_priority": decision.policy.mps_priority if _by_mps(decision) else None,
            "group": decision.group,
            "size_asked": decision.policy.asked or None,
            "decided_by": decision.policy.decided_by._asdict(),
            "problem": decision.policy.problem or None,
        }
        for decision in made
    ]


def _by_mps(decision: Decision) -> bool:
    return decision.shared is not None and decision.shared.sharing == "mps"


def _sharing(decision: Decision) -> str | None:
    sharing, priority = decision.shared and decision.shared.sharing, decision.policy.mps_priority
    return f"{sharing}, {priority}" if _by_mps(decision) and priority != "normal" else sharing


def _row(decision: Decision) -> tuple[object, ...]:
    gpu, shared = decision.seen.gpu, decision.shared
    share = shared.memory_mib(1) if shared else None
    return (
        gpu.uuid,
        gpu.model,
        gpu.pci_bus_id,
        shared.vgpus if shared else None,
        None if share is None else f"{share} MiB{_limit(shared)}",
        _sharing(decision),
        _group(decision),
        _health(decision),
        _why(decision),
    )


def _group(decision: Decision) -> str | None:
    alone = decision.group is not None and decision.group.endswith(f"/{decision.seen.gpu.uuid}")
    return "its own" if alone else decision.group


def _health(decision: Decision) -> str | None:
    if decision.shared is None:
        return None
    health = decision.shared.health
    return "healthy" if health.healthy else health.reason


def _limit(shared: SharedGpu | None) -> str:
    """What a task may use beyond its share."""
    if shared is None or not shared.overcommitted:
        return ""
    return f", up to {shared.limit_mib(1)} MiB"


def _why(decision: Decision) -> str:
    """The size and its rule, then what else is not left to the node's options."""
    policy = decision.policy
    if policy.ignored:
        return f"ignored ({policy.decided_by.ignored})"
    if policy.problem:
        return policy.problem
    parts = [f"{policy.asked} ({policy.decided_by.size})"]
    if decision.shared is not None and (kept := decision.shared.gpu.host_memory_mib):
        parts.append(f"{kept} MiB stay with the host (unified_memory_reserve)")
    parts += [
        f"{field} ({rule})"
        for field, rule in policy.decided_by._asdict().items()
        if field != "size" and rule != NODE
    ]
    return ", ".join(parts)
