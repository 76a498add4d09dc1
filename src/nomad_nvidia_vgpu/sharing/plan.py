# SPDX-License-Identifier: MPL-2.0
"""From the inventory and the config to what is published: groups of GPUs, each divided by N."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.model import Gpu, Health, Inventory, SeenGpu
from nomad_nvidia_vgpu.sharing.enforcement import IN_FORCE, STARTING, Enforcement
from nomad_nvidia_vgpu.sharing.grant import share_of
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
    enforcement: Enforcement = IN_FORCE
    guarded: bool = False
    """Whether the memory guard ends processes of a task that takes more than its share."""

    @property
    def strategy(self) -> Strategy:
        """How its tasks are kept to their shares."""
        return STRATEGIES[self.sharing]

    @property
    def memory_isolation(self) -> str:
        """What holds a task to its share of the memory; one of `strategy.ISOLATION`."""
        held = self.strategy.memory_isolation(self.gpu, self.vgpus, self.enforcement)
        return "guard" if held == "none" and self.guarded else held

    def ids(self) -> list[VgpuId]:
        """Its published vGPUs, by number."""
        return [VgpuId(self.gpu.uuid, number) for number in range(self.published)]

    def memory_mib(self, granted: int) -> int | None:
        """The memory that `granted` of its vGPUs entitle a task to, rounded down."""
        total = self.gpu.memory_mib
        return None if total is None else share_of(total, granted, self.vgpus)


class Group(NamedTuple):
    """What becomes one device group: GPUs that are interchangeable to Nomad's scheduler."""

    name: str
    gpus: tuple[SharedGpu, ...]


class Plan(NamedTuple):
    """What the node publishes."""

    groups: tuple[Group, ...] = ()
    warnings: tuple[str, ...] = ()
    """Sentences for the log: what is odd, yet works."""

    @property
    def starting(self) -> bool:
        """Whether it is not known yet what holds the shares of some GPU."""
        return any(one.enforcement is STARTING for group in self.groups for one in group.gpus)

    def by_uuid(self) -> Mapping[str, SharedGpu]:
        """Each GPU by its UUID."""
        return {shared.gpu.uuid: shared for group in self.groups for shared in group.gpus}


def make_plan(
    config: PluginConfig,
    inventory: Inventory,
    enforced: Mapping[str, Enforcement] | None = None,
) -> Plan:
    """The groups that `config` makes of `inventory`, ordered by name.

    `enforced` says by UUID what is in force on GPUs whose sharing needs more than the driver;
    None: assume that all is as the config asks.
    """
    vgpus = config.vgpus
    if not config.enabled or vgpus is None:
        return Plan()
    shared = _within_limit(
        [_divide(config, seen, vgpus, enforced) for seen in _wanted(config, inventory)]
    )
    groups: dict[str, list[SharedGpu]] = {}
    for one in shared:
        groups.setdefault(_group_name(config, one), []).append(one)
    return Plan(
        groups=tuple(Group(name, tuple(gpus)) for name, gpus in sorted(groups.items())),
        warnings=tuple(_warnings(config, inventory, shared)),
    )


def _wanted(config: PluginConfig, inventory: Inventory) -> Iterable[SeenGpu]:
    ignored = {uuid.lower() for uuid in config.ignored_gpu_ids}
    for seen in inventory.gpus:
        own = {seen.gpu.uuid.lower(), (seen.gpu.parent_uuid or "").lower()}
        if not own & ignored:
            yield seen


def _divide(
    config: PluginConfig,
    seen: SeenGpu,
    vgpus: int,
    enforced: Mapping[str, Enforcement] | None,
) -> SharedGpu:
    gpu, health = seen
    strategy = STRATEGIES[config.sharing]
    if enforced is None or gpu.simulated:
        enforcement = IN_FORCE
    else:
        enforcement = enforced.get(gpu.uuid, STARTING if strategy.enforced else IN_FORCE)
    unfit = strategy.problem(gpu, vgpus)
    if unfit and enforcement is STARTING:
        enforcement = Enforcement()  # nothing is started for it
    problem = unfit or enforcement.problem
    if health.healthy and problem:
        health = Health(False, problem)
    guarded = config.memory_guard.action == "kill"
    return SharedGpu(gpu, health, vgpus, config.sharing, vgpus, enforcement, guarded)


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


def _group_name(config: PluginConfig, one: SharedGpu) -> str:
    alone = config.group_by == "gpu" or one.strategy.one_gpu_per_group
    return f"{one.gpu.model}/{one.gpu.uuid}" if alone else one.gpu.model


def _warnings(
    config: PluginConfig, inventory: Inventory, shared: Sequence[SharedGpu]
) -> Iterable[str]:
    here = {uuid for seen in inventory.gpus for uuid in (seen.gpu.uuid, seen.gpu.parent_uuid)}
    known = {uuid.lower() for uuid in here if uuid}
    for uuid in config.ignored_gpu_ids:
        if known and uuid.lower() not in known:
            yield f"ignored_gpu_ids names {uuid}, but no GPU of this node has that UUID: mend it"
    vgpus = sum(one.vgpus for one in shared)
    if vgpus > MANY_VGPUS:
        yield (
            f"{vgpus} vGPUs on one node make its registration with Nomad large: "
            "set a lower vgpus unless you need as many"
        )
    for one in shared:
        yield from filter(
            None, (one.strategy.weakness(one.gpu, one.vgpus), one.enforcement.weakness)
        )
    if any(seen.gpu.simulated for seen in inventory.gpus):
        yield "these GPUs are simulated: remove simulate from the config to offer real ones"
