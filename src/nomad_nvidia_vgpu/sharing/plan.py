# SPDX-License-Identifier: MPL-2.0
"""From the inventory and the config to what is published: groups of GPUs, each divided by N."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.model import Gpu, Health, Inventory, SeenGpu
from nomad_nvidia_vgpu.sharing import container_limit
from nomad_nvidia_vgpu.sharing.enforcement import IN_FORCE, STARTING, Enforcement
from nomad_nvidia_vgpu.sharing.grant import limit_of, share_of
from nomad_nvidia_vgpu.sharing.policy import Policy, decide, unmatched, without_host_memory
from nomad_nvidia_vgpu.sharing.strategy import STRATEGIES, Strategy
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.sharing.withheld import WITHHELD, Division, Holding, withheld

DEVICE_TYPE = "gpu"
"""The second part of a device's name in jobs."""

MANY_VGPUS = 1024
"""Above this, a node's registration is large enough to be worth a warning."""
MAX_VGPUS_PER_NODE = 4096
"""Above this, a node's registration would exceed what Nomad's Raft log takes in one entry."""

_SHARE_PERCENT = 100
_MAX_SHOWN = 8
_UUIDS = ("gpu-", "mig-")


_HELD = Health(False, WITHHELD)


class SharedGpu(NamedTuple):
    """A GPU as it is divided."""

    gpu: Gpu
    health: Health
    vgpus: int
    """N: how many vGPUs it is divided into."""
    sharing: str
    """The name of the strategy."""
    published: int
    """How many of its vGPUs Nomad is told of: all, except for a GPU beyond the node's limit."""
    enforcement: Enforcement = IN_FORCE
    guarded: bool = False
    """Whether the memory guard ends processes of a task that takes more than its share."""
    contained: bool = False
    """Whether the driver holds each container on it to its share."""
    withheld: frozenset[int] = frozenset()
    """The numbers of the vGPUs that must not be given away now."""
    fit: bool = True
    """Whether it can be shared as the config asks, so far as the GPU itself is concerned."""
    memory_percent: int = 100
    """What a task may use of the memory, of its share: more than 100 where it is overcommitted."""
    held: frozenset[int] | None = None
    """The numbers of the vGPUs that tasks have; None: it is not asked for."""

    @property
    def strategy(self) -> Strategy:
        """How its tasks are kept to their shares."""
        return STRATEGIES[self.sharing]

    @property
    def memory_isolation(self) -> str:
        """What holds a task to its share of the memory; one of `strategy.ISOLATION`."""
        held = self.strategy.memory_isolation(self.gpu, self.vgpus, self.enforcement)
        if held == "none" and self.contained:
            held = container_limit.CGROUP
        if self.overcommitted and held in ("mps", container_limit.CGROUP):
            held = "none"  # a neighbour may take what this task was promised
        return "guard" if held == "none" and self.guarded else held

    @property
    def overcommitted(self) -> bool:
        """Whether tasks may use more than they are promised."""
        return self.memory_percent > _SHARE_PERCENT and self.vgpus > 1

    def health_of(self, number: int) -> Health:
        """The health of one of its vGPUs."""
        return _HELD if self.health.healthy and number in self.withheld else self.health

    @property
    def offered(self) -> int:
        """How many of its vGPUs can be used or given away now."""
        return self.published - len(self.withheld) if self.health.healthy else 0

    @property
    def free(self) -> int | None:
        """How many of its vGPUs can be given away now and are nobody's; None: not asked for."""
        if self.held is None:
            return None
        return sum(
            number not in self.held and self.health_of(number).healthy
            for number in range(self.published)
        )

    def ids(self) -> list[VgpuId]:
        """Its published vGPUs, by number."""
        return [VgpuId(self.gpu.uuid, number) for number in range(self.published)]

    def memory_mib(self, granted: int) -> int | None:
        """The memory that `granted` of its vGPUs entitle a task to, rounded down."""
        total = self.gpu.own_memory_mib
        return None if total is None else share_of(total, granted, self.vgpus)

    def limit_mib(self, granted: int) -> int | None:
        """The memory that a task with so many of its vGPUs may use while there is room."""
        total = self.gpu.own_memory_mib
        if total is None:
            return None
        return limit_of(total, granted, self.vgpus, self.memory_percent)


class Group(NamedTuple):
    """What becomes one device group: GPUs that are interchangeable to Nomad's scheduler."""

    name: str
    gpus: tuple[SharedGpu, ...]

    def device(self, vendor: str) -> str:
        """Its full name, by which Nomad counts and a job can ask for it."""
        return f"{vendor}/{DEVICE_TYPE}/{self.name}"


class Plan(NamedTuple):
    """What the node publishes."""

    groups: tuple[Group, ...] = ()
    warnings: tuple[Problem, ...] = ()
    """Sentences for the log: what is odd, yet works."""

    @property
    def starting(self) -> bool:
        """Whether it is not known yet what holds the shares of some GPU."""
        return any(shared.enforcement.starting for group in self.groups for shared in group.gpus)

    def by_uuid(self) -> Mapping[str, SharedGpu]:
        """Each GPU by its UUID."""
        return {shared.gpu.uuid: shared for group in self.groups for shared in group.gpus}


def make_plan(  # noqa: PLR0913  each is found out by somebody else
    config: PluginConfig,
    inventory: Inventory,
    enforced: Mapping[str, Enforcement] | None = None,
    holdings: Collection[Holding] = (),
    before: Plan | None = None,
    *,
    load: Collection[VgpuId] = (),
) -> Plan:
    """The groups that `config` makes of `inventory`, ordered by name.

    `enforced` says by UUID what is in force on GPUs whose sharing needs more than the driver;
    None: assume that all is as the config asks. `holdings` is what running tasks say that they
    hold; `before` the plan that this one follows. `load` is what tasks have, as far as it is published.
    """
    if not config.configured:
        return Plan()
    offered = [s._replace(gpu=without_host_memory(config, s.gpu)) for s in inventory.gpus]
    decided = [(seen, decide(config, seen.gpu)) for seen in offered]
    wanted = [(seen, policy) for seen, policy in decided if not policy.ignored]
    shared = _within_limit([_divide(config, seen, policy, enforced) for seen, policy in wanted])
    stems = [_Stem.of(gpu, policy) for gpu, (_, policy) in zip(shared, wanted, strict=True)]
    groups = (Group(name, tuple(gpus)) for name, gpus in sorted(_grouped(stems).items()))
    if holdings:
        earlier = before.by_uuid() if before else {}
        groups = (_without_held(config, group, holdings, earlier) for group in groups)
    made = tuple(groups)
    warnings = list(_warnings(config, inventory, shared))
    if config.publish_load:
        made = tuple(_with_load(group, load) for group in made)
        warnings += _without_load(made)
    return Plan(made, tuple(warnings))


def _divide(
    config: PluginConfig,
    seen: SeenGpu,
    policy: Policy,
    enforced: Mapping[str, Enforcement] | None,
) -> SharedGpu:
    gpu, health = seen
    strategy = STRATEGIES[policy.sharing]
    enforcement = strategy.expected(config, gpu)
    if enforced is not None and not gpu.simulated:
        enforcement = enforced.get(gpu.uuid, STARTING if strategy.enforced else enforcement)
    unfit = policy.problem or strategy.problem(gpu, policy.vgpus)
    if unfit and enforcement.starting:
        enforcement = Enforcement()  # nothing is started for it
    problem = unfit or enforcement.problem
    if health.healthy and problem:
        health = Health(False, problem)
    # Where the GPU's memory is not known, nothing can be said to exceed a share of it.
    guarded = config.memory_guard.action == "kill" and gpu.own_memory_mib is not None
    return SharedGpu(
        gpu,
        health,
        policy.vgpus,
        policy.sharing,
        policy.vgpus,
        enforcement,
        guarded,
        container_limit.holds(config, gpu, policy.sharing),
        fit=not unfit,
        memory_percent=policy.memory_percent,
    )


def _within_limit(shared: list[SharedGpu]) -> list[SharedGpu]:
    """The same, with the GPUs beyond the node's limit reduced to one vGPU that says why."""
    surplus = Health(
        False, Problem(f"beyond {MAX_VGPUS_PER_NODE} vGPUs on this node", "set a lower vgpus")
    )
    total = 0
    result = []
    for gpu in shared:
        total += gpu.vgpus
        fits = total <= MAX_VGPUS_PER_NODE
        result.append(gpu if fits else gpu._replace(health=surplus, published=1))
    return result


def _without_held(
    config: PluginConfig,
    group: Group,
    holdings: Collection[Holding],
    earlier: Mapping[str, SharedGpu],
) -> Group:
    """The group, with what tasks hold of it that Nomad does not count withheld."""
    gpus = []
    for shared in group.gpus:
        uuid = shared.gpu.uuid
        now = Division(uuid, group.device(config.vendor), shared.vgpus, shared.gpu.own_memory_mib)
        before = earlier[uuid].withheld if uuid in earlier else frozenset()
        gpus.append(shared._replace(withheld=withheld(now, holdings, before)))
    return Group(group.name, tuple(gpus))


def _with_load(group: Group, load: Collection[VgpuId]) -> Group:
    """The group; with what tasks have of it, if it is of one GPU: else a mean would mislead."""
    if len(group.gpus) != 1:
        return group
    (shared,) = group.gpus
    held = frozenset(vgpu.number for vgpu in load if vgpu.gpu_uuid == shared.gpu.uuid)
    return group._replace(gpus=(shared._replace(held=held),))


def _without_load(groups: Iterable[Group]) -> Iterable[Problem]:
    for group in groups:
        if len(group.gpus) > 1:
            count = len(group.gpus)
            yield Problem(
                f"publish_load says nothing of {group.name}, a device group of {count} GPUs",
                'set group_by = "gpu" for them',
            )


class _Stem(NamedTuple):
    """A GPU, and how far its group's name tells its share."""

    shared: SharedGpu
    text: str
    detail: int = 0
    """How many times more exactly than the last time: an index into `_DETAILS`."""

    @classmethod
    def of(cls, shared: SharedGpu, policy: Policy) -> _Stem:
        """The stem by config and GPU alone: it must not change with the GPUs beside it.

        For Nomad counts a vGPU that is in use by the name of its group too.
        """
        text = policy.name or shared.gpu.model
        if policy.problem or policy.group_by == "gpu" or shared.strategy.one_gpu_per_group:
            return cls(shared, f"{text}/{shared.gpu.uuid}")
        return cls(shared, text, detail=int(policy.own_size and policy.name is None))

    @property
    def name(self) -> str:
        """The name of its group."""
        return " ".join(filter(None, (self.text, _DETAILS[self.detail](self.shared))))


def _grouped(stems: Sequence[_Stem]) -> dict[str, list[SharedGpu]]:
    """GPUs by the names of their groups, none of which hides unequal shares."""
    groups: dict[str, list[_Stem]] = {}
    for stem in stems:
        groups.setdefault(stem.name, []).append(stem)
    mixed = {
        name
        for name, inside in groups.items()
        if not _alike([s.shared for s in inside]) and min(s.detail for s in inside) < _MOST_DETAIL
    }
    if not mixed:
        return {name: [stem.shared for stem in inside] for name, inside in groups.items()}
    return _grouped(
        [
            s._replace(detail=min(s.detail + 1, _MOST_DETAIL)) if s.name in mixed else s
            for s in stems
        ]
    )


def _alike(gpus: Sequence[SharedGpu]) -> bool:
    """Whether Nomad may take a vGPU of one for a vGPU of the other."""
    shares = [mib for gpu in gpus if (mib := gpu.memory_mib(1)) is not None]
    # Cards of one model differ by up to a sixteenth: error correction takes its part of some.
    same = not shares or max(shares) * 8 <= min(shares) * 9
    return same and len({gpu.vgpus for gpu in gpus}) == 1


def _gib(gpu: SharedGpu) -> str:
    """A share as a name tells it: rounded down, because it is a promise."""
    mib = gpu.memory_mib(1)
    if mib is None:
        return f"{gpu.vgpus} vGPUs"
    tenths = mib * 10 // 1024
    return f"{tenths / 10:g}GiB" if tenths else f"{mib}MiB"


def _exactly(gpu: SharedGpu) -> str:
    mib = gpu.memory_mib(1)
    return f"{gpu.vgpus} vGPUs" if mib is None else f"{gpu.vgpus} x {mib}MiB"


_DETAILS = (lambda _: "", _gib, _exactly)
_MOST_DETAIL = len(_DETAILS) - 1


def _warnings(
    config: PluginConfig, inventory: Inventory, shared: Sequence[SharedGpu]
) -> Iterable[Problem]:
    here = {uuid for seen in inventory.gpus for uuid in (seen.gpu.uuid, seen.gpu.parent_uuid)}
    known = {uuid.lower() for uuid in here if uuid}
    for block in unmatched(config, (seen.gpu for seen in inventory.gpus)) if known else ():
        yield Problem(
            f"{block} is for none of the GPUs of this node, which are {_shown(inventory)}",
            "fix it",
        )
    for uuid in config.ignored_gpu_ids:
        if not uuid.lower().startswith(_UUIDS):
            yield Problem(
                f"ignored_gpu_ids has {uuid}, which is no UUID, so no GPU is ignored by it",
                "write the UUID as nvidia-vgpu gpus shows it",
            )
        elif known and uuid.lower() not in known:
            yield Problem(
                f"ignored_gpu_ids names {uuid}, but no GPU of this node has that UUID", "fix it"
            )
    vgpus = sum(gpu.vgpus for gpu in shared)
    if vgpus > MANY_VGPUS:
        yield (
            Problem(
                f"{vgpus} vGPUs on one node make its registration with Nomad large",
                "set a lower vgpus unless you need as many",
            )
        )
    yield from _too_much_headroom(config, shared)
    yield from container_limit.too_old(config, ((o.gpu, o.sharing) for o in shared if o.vgpus > 1))
    for gpu in shared:
        # What is still in force of an earlier config is no weakness of this one, and passes.
        if not gpu.enforcement.problem and (odd := gpu.strategy.weakness(gpu.gpu, gpu.vgpus)):
            yield odd
        if gpu.enforcement.weakness:
            yield gpu.enforcement.weakness
    if any(seen.gpu.simulated for seen in inventory.gpus):
        yield Problem(
            "these GPUs are simulated", "leave out simulate (--simulate) to offer real ones"
        )


def _too_much_headroom(config: PluginConfig, shared: Sequence[SharedGpu]) -> Iterable[Problem]:
    """A sentence on the smallest share, if frameworks cannot leave so much of it."""
    shares = [(mib, o.gpu.uuid) for o in shared if o.vgpus > 1 and (mib := o.memory_mib(1))]
    mib, uuid = min(shares, default=(0, ""))
    if config.framework_hints and config.framework_headroom_mib * 2 > mib > 0:
        yield (
            Problem(
                (
                    f"framework_headroom is {config.framework_headroom_mib} MiB, more than half of a share of {uuid} ({mib} MiB), so frameworks there leave half of the share"
                ),
                "set a lower one, or divide the GPU into fewer vGPUs",
            )
        )


def _shown(inventory: Inventory) -> str:
    """The GPUs in all the ways in which a block can select them."""
    gpus = [seen.gpu for seen in inventory.gpus]
    named = [f"{gpu.uuid} ({', '.join(_kinds(gpu))})" for gpu in gpus[:_MAX_SHOWN]]
    more = [f"{len(gpus) - _MAX_SHOWN} more"] if len(gpus) > _MAX_SHOWN else []
    return ", ".join(named + more)


def _kinds(gpu: Gpu) -> Iterable[str]:
    return filter(None, (gpu.model, gpu.pci_bus_id, gpu.parent_uuid and f"of {gpu.parent_uuid}"))
