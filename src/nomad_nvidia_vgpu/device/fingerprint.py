# SPDX-License-Identifier: MPL-2.0
"""What Nomad is told of the node's GPUs, and when.

The stream never ends while the host listens: its end, or an error on it, switches the plugin
off until the agent restarts. Before Nomad 1.11.2 each message costs a Raft write, so one is sent
only when something changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from nomad_nvidia_vgpu.sharing.plan import DEVICE_TYPE, Group, Plan, SharedGpu
from nomad_nvidia_vgpu.sharing.strategy import ISOLATION
from nomad_nvidia_vgpu.state.catalog import Catalog

FIRST_ANSWER_S = 10.0
"""The first message comes at the latest then, with the GPUs that have answered: the agent waits
for it before it registers the node."""

REPEAT_AFTER_S = 60.0
"""The first set with GPUs is sent once more then: Nomad 1.3.6, 1.4.0 and their neighbours lose
what they receive while they start (issue 14888)."""

_IDLE_S = 3600.0

_T = TypeVar("_T", int, float)


class Attribute(NamedTuple):
    """One fact about a group, as the scheduler compares it."""

    value: str | int | float | bool
    unit: str = ""
    """One of Nomad's own units; empty for words, truths and plain numbers."""


class Instance(NamedTuple):
    """One vGPU as Nomad sees it."""

    id: str
    healthy: bool
    health_description: str
    pci_bus_id: str | None


class DeviceGroup(NamedTuple):
    """vGPUs that are interchangeable to Nomad's scheduler."""

    vendor: str
    type: str
    name: str
    instances: tuple[Instance, ...]
    attributes: dict[str, Attribute]


def device_groups(plan: Plan, vendor: str) -> tuple[DeviceGroup, ...]:
    """The whole fingerprint."""
    return tuple(_device_group(group, vendor) for group in plan.groups)


def stream(
    catalog: Catalog,
    vendor: str,
    listening: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[DeviceGroup, ...]]:
    """Yields the fingerprint at once when all GPUs have answered, then on each change, for ever.

    Ends only when `listening` says that the host has hung up; the code that makes it say so calls
    `catalog.wake()`.
    """
    edition = catalog.wait(lambda e: e.complete or not listening(), FIRST_ANSWER_S)
    sent: tuple[DeviceGroup, ...] | None = None
    repeat_at: float | None = None
    while listening():
        groups = device_groups(edition.plan, vendor)
        due = repeat_at is not None and clock() >= repeat_at
        if groups != sent or due:
            yield groups
            if due:
                repeat_at = _NEVER
            elif repeat_at is None and groups:
                repeat_at = clock() + REPEAT_AFTER_S
            sent = groups
        wait_s = _IDLE_S if repeat_at in (None, _NEVER) else max(0.0, repeat_at - clock())
        number = edition.number
        edition = catalog.wait(
            lambda e: e.number != number or not listening(),  # noqa: B023  used in this turn only
            min(wait_s, _IDLE_S),
        )


_NEVER = float("inf")


def _device_group(group: Group, vendor: str) -> DeviceGroup:
    instances = tuple(
        Instance(str(vgpu), health.healthy, health.reason, shared.gpu.pci_bus_id)
        for shared in group.gpus
        for vgpu in shared.ids()
        for health in [shared.health_of(vgpu.number)]
    )
    return DeviceGroup(vendor, DEVICE_TYPE, group.name, instances, _attributes(group))


def _attributes(group: Group) -> dict[str, Attribute]:
    """What is true for each GPU of the group: the smallest number, the common word, or nothing."""
    gpus = [shared.gpu for shared in group.gpus]
    published = sum(shared.published for shared in group.gpus)
    healthy = sum(shared.offered for shared in group.gpus)
    found: dict[str, Attribute | None] = {
        "memory": _least((g.memory_mib for g in gpus), "MiB"),
        "power": _least((g.power_limit_w for g in gpus), "W"),
        "bar1": _least((g.bar1_mib for g in gpus), "MiB"),
        "driver_version": _common(g.driver_version for g in gpus),
        "cores_clock": _least((g.cores_clock_mhz for g in gpus), "MHz"),
        "memory_clock": _least((g.memory_clock_mhz for g in gpus), "MHz"),
        "pci_bandwidth": _least((g.pci_bandwidth_mb_s for g in gpus), "MB/s"),
        "display_state": _common(g.display_state for g in gpus),
        "persistence_mode": _common(g.persistence_mode for g in gpus),
        "model": _common(g.model for g in gpus),
        "vgpus": _least(shared.vgpus for shared in group.gpus),
        "vgpu_memory": _least((shared.memory_mib(1) for shared in group.gpus), "MiB"),
        "vgpu_memory_limit": _limit(group.gpus),
        "sharing": _common(shared.sharing for shared in group.gpus),
        "memory_isolation": _weakest(group.gpus),
        # These two change the node's computed class, which wakes jobs that wait for a GPU.
        "instances": Attribute(published),
        "healthy_instances": Attribute(healthy),
        "cuda_compute_capability": _least(g.cuda_compute_capability for g in gpus),
        "compute_capability": _least(g.cuda_compute_capability for g in gpus),
        "cuda_driver_version": _least(g.cuda_driver_version for g in gpus),
        "architecture": _common(g.architecture for g in gpus),
        "mig": _common(g.mig_profile for g in gpus),
        "unified_memory": _if_true(g.unified_memory for g in gpus),
        "simulated": _if_true(g.simulated for g in gpus),
    }
    if len(gpus) == 1:
        found["gpu_uuid"] = Attribute(gpus[0].uuid)
        found["pci_bus_id"] = _common([gpus[0].pci_bus_id])
        found.update(_load(group.gpus[0]))
    return {name: attribute for name, attribute in found.items() if attribute is not None}


def _limit(gpus: Sequence[SharedGpu]) -> Attribute | None:
    """What one vGPU may use, where that is more than it is promised."""
    if not any(shared.overcommitted for shared in gpus):
        return None
    return _least((shared.limit_mib(1) for shared in gpus), "MiB")


def _load(shared: SharedGpu) -> dict[str, Attribute | None]:
    """What moves with the tasks. Nomad leaves names with `unique.` out of a node's computed class."""
    free = shared.free
    if free is None:
        return {}
    memory_mib = shared.memory_mib(free)
    return {
        "unique.free_vgpus": Attribute(free),
        "unique.free_memory": None if memory_mib is None else Attribute(memory_mib, "MiB"),
    }


def _least(values: Iterable[_T | None], unit: str = "") -> Attribute | None:
    """The smallest value, or None if any GPU lacks it: no promise can then be made for all."""
    known = list(values)
    numbers = [v for v in known if v is not None]
    return Attribute(min(numbers), unit) if numbers and len(numbers) == len(known) else None


def _common(values: Iterable[str | None]) -> Attribute | None:
    distinct = set(values)
    value = distinct.pop() if len(distinct) == 1 else None
    return Attribute(value) if value else None


def _if_true(values: Iterable[bool]) -> Attribute | None:
    return Attribute(True) if all(values) else None


def _weakest(gpus: Iterable[SharedGpu]) -> Attribute:
    return Attribute(min((shared.memory_isolation for shared in gpus), key=ISOLATION.index))
