# SPDX-License-Identifier: MPL-2.0
"""From the inventory and the config to what is published: groups of GPUs, each divided by N."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.model import Gpu, Health, Inventory, SeenGpu
from nomad_nvidia_vgpu.sharing.strategy import STRATEGIES, Strategy
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId

MANY_VGPUS = 1024
"""Above this, a node's registration is large enough to be worth a warning."""
MAX_VGPUS_PER_NODE = 4096
"""Above this, a node's registration would exceed what Nomad's Raft log takes in one entry."""


class SharedGpu(NamedTuple):
    """A GPU as it is divided."""

    gpu: Gpu
    health: Health
    vgpus: int
    """N: how many vGPUs it is divided into."""
    sharing: str
    """The name of the strategy."""
    published: int
    """How many of its vGPUs Nomad is told of: all, but for a GPU beyond the node's limit."""

    @property
    def strategy(self) -> Strategy:
        """How its tasks are kept to their shares."""
        return STRATEGIES[self.sharing]

    @property
    def memory_isolation(self) -> str:
        """What holds a task to its share of the memory; one of `strategy.ISOLATION`."""
        return self.strategy.memory_isolation(self.gpu, self.vgpus)

    def ids(self) -> list[VgpuId]:
        """Its published vGPUs, by number."""
        return [VgpuId(self.gpu.uuid, number) for number in range(self.published)]

    def memory_mib(self, granted: int) -> int | None:
        """The memory that `granted` of its vGPUs entitle a task to, rounded down."""
        total = self.gpu.memory_mib
        return None if total is None else total * granted // self.vgpus


class Group(NamedTuple):
    """What becomes one device group: GPUs that are interchangeable to Nomad's scheduler."""

    name: str
    gpus: tuple[SharedGpu, ...]


class Plan(NamedTuple):
    """What the node publishes."""

    groups: tuple[Group, ...] = ()
    warnings: tuple[str, ...] = ()
    """Sentences for the log: what is odd, yet works."""

    def by_uuid(self) -> Mapping[str, SharedGpu]:
        """Each GPU by its UUID."""
        return {shared.gpu.uuid: shared for group in self.groups for shared in group.gpus}


def make_plan(config: PluginConfig, inventory: Inventory) -> Plan:
    """The groups that `config` makes of `inventory`, ordered by name."""
    vgpus = config.vgpus
    if not config.enabled or vgpus is None:
        return Plan()
    shared = _within_limit([_divide(seen, vgpus) for seen in _wanted(config, inventory)])
    groups: dict[str, list[SharedGpu]] = {}
    for one in shared:
        groups.setdefault(_group_name(config, one.gpu), []).append(one)
    return Plan(
        groups=tuple(Group(name, tuple(gpus)) for name, gpus in sorted(groups.items())),
        warnings=tuple(_warnings(config, inventory, len(shared) * vgpus)),
    )


def _wanted(config: PluginConfig, inventory: Inventory) -> Iterable[SeenGpu]:
    ignored = {uuid.lower() for uuid in config.ignored_gpu_ids}
    for seen in inventory.gpus:
        own = {seen.gpu.uuid.lower(), (seen.gpu.parent_uuid or "").lower()}
        if not own & ignored:
            yield seen


def _divide(seen: SeenGpu, vgpus: int) -> SharedGpu:
    return SharedGpu(seen.gpu, seen.health, vgpus, "time-slicing", published=vgpus)


def _within_limit(shared: list[SharedGpu]) -> list[SharedGpu]:
    """The same, with the GPUs beyond the node's limit reduced to one vGPU that says why."""
    surplus = Health(False, f"beyond {MAX_VGPUS_PER_NODE} vGPUs on this node: set a lower vgpus")
    total = 0
    result = []
    for one in shared:
        total += one.vgpus
        fits = total <= MAX_VGPUS_PER_NODE
        result.append(one if fits else one._replace(health=surplus, published=1))
    return result


def _group_name(config: PluginConfig, gpu: Gpu) -> str:
    return f"{gpu.model}/{gpu.uuid}" if config.group_by == "gpu" else gpu.model


def _warnings(config: PluginConfig, inventory: Inventory, vgpus: int) -> Iterable[str]:
    here = {uuid for seen in inventory.gpus for uuid in (seen.gpu.uuid, seen.gpu.parent_uuid)}
    known = {uuid.lower() for uuid in here if uuid}
    for uuid in config.ignored_gpu_ids:
        if known and uuid.lower() not in known:
            yield f"ignored_gpu_ids names {uuid}, but no GPU of this node has that UUID: mend it"
    if vgpus > MANY_VGPUS:
        yield (
            f"{vgpus} vGPUs on one node make its registration with Nomad large: "
            "set a lower vgpus unless you need as many"
        )
    if any(seen.gpu.simulated for seen in inventory.gpus):
        yield "these GPUs are simulated: remove simulate from the config to offer real ones"
