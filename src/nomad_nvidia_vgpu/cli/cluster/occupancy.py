# SPDX-License-Identifier: MPL-2.0
"""How full the nodes of a cluster are: vGPUs and their memory, by node and by GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from threading import local
from typing import Any, NamedTuple

from nomad_nvidia_vgpu.cli.cluster.connection import READ_NODES, Connection, NomadError
from nomad_nvidia_vgpu.cli.cluster.model import Group, Holder, Instance, Node
from nomad_nvidia_vgpu.device.stats import MEMORY

_AT_ONCE = 8
"""Nodes that are asked for their figures at one time."""

UsedMib = Mapping[str, int]
"""What the tasks of each vGPU use, by its id; those without a figure are not there."""


class Largest(NamedTuple):
    """The largest request that one device block could have now."""

    vgpus: int
    memory_mib: int | None
    device: str


class Occupancy(NamedTuple):
    """Some vGPUs: those of a node, of several, or of a GPU."""

    total: int = 0
    used: int = 0
    free: int = 0
    unhealthy: int = 0
    withheld: int = 0
    used_mib: int | None = None
    """None: no figures, or of none of those in use."""
    granted_mib: int | None = None
    """What those in use were promised; None: it is not known."""

    def plus(self, other: Occupancy) -> Occupancy:
        """Both together; memory as far as it is known."""
        counts = [a + b for a, b in zip(self[:5], other[:5], strict=True)]
        memory = [
            a if b is None else b if a is None else a + b
            for a, b in zip(self[5:], other[5:], strict=True)
        ]
        return Occupancy(*counts, *memory)


class NodeRow(NamedTuple):
    """A node, the device groups of it that are looked at, and how full they are."""

    node: Node
    groups: tuple[Group, ...]
    occupancy: Occupancy
    largest: Largest | None
    """None: nothing is free, or Nomad places nothing there."""

    @property
    def gpus(self) -> int:
        """How many GPUs its vGPUs are of."""
        return len({instance.gpu for group in self.groups for instance in group.instances})


class Wanted(NamedTuple):
    """What a person wants to see; empty: all."""

    node: str = ""
    model: str = ""
    job: str = ""

    def groups_of(self, node: Node) -> tuple[Group, ...]:
        """The device groups of a node that are looked at."""
        names = (node.name, node.id)
        if self.node and not any(_matches(name, f"{self.node}*") for name in names):
            return ()
        return tuple(
            group
            for group in node.groups
            if group.ours
            and (not self.model or _matches(_model(group), f"*{self.model}*"))
            and (not self.job or any(_matches(h.job, self.job) for h in group.holders.values()))
        )


def rows(
    nodes: Iterable[Node], wanted: Wanted, used: Mapping[str, UsedMib] | None = None
) -> list[NodeRow]:
    """A row for each node that has what is wanted. `used` is by the node's id."""
    found = []
    for node in nodes:
        groups = wanted.groups_of(node)
        if groups:
            figures = (used or {}).get(node.id, {})
            occupied = Occupancy()
            for group in groups:
                occupied = occupied.plus(occupancy(group, group.instances, figures))
            found.append(NodeRow(node, groups, occupied, _largest(node, groups)))
    return found


def occupancy(group: Group, instances: Sequence[Instance], used: UsedMib) -> Occupancy:
    """How full some vGPUs of a group are."""
    held = [vgpu for vgpu in instances if vgpu.id in group.holders]
    figures = [used[vgpu.id] for vgpu in held if vgpu.id in used]
    share = group.memory_mib()
    idle = [vgpu for vgpu in instances if vgpu.id not in group.holders]
    return Occupancy(
        total=len(instances),
        used=len(held),
        free=sum(not vgpu.unhealthy for vgpu in idle),
        unhealthy=sum(bool(vgpu.unhealthy) and not vgpu.withheld for vgpu in idle),
        withheld=sum(vgpu.withheld for vgpu in idle),
        used_mib=sum(figures) if figures else None,
        granted_mib=None if share is None or not held else share * len(held),
    )


def totals(found: Iterable[NodeRow]) -> Occupancy:
    """All of them together."""
    total = Occupancy()
    for row in found:
        total = total.plus(row.occupancy)
    return total


def by_gpu(group: Group) -> dict[str, list[Instance]]:
    """The vGPUs of each GPU of a group, by its UUID."""
    found: dict[str, list[Instance]] = {}
    for instance in group.instances:
        found.setdefault(instance.gpu, []).append(instance)
    return found


def by_holder(group: Group, instances: Iterable[Instance]) -> dict[Holder, list[Instance]]:
    """The vGPUs of each task."""
    found: dict[Holder, list[Instance]] = {}
    for instance in instances:
        if instance.id in group.holders:
            found.setdefault(group.holders[instance.id], []).append(instance)
    return found


def used_memory(
    connection: Connection, nodes: Sequence[Node]
) -> tuple[dict[str, UsedMib], list[str]]:
    """What the vGPUs of these nodes use, by the node's id, and why some do not say.

    One request for each node, some at one time, each forwarded by the servers to its client.
    """
    own = local()
    made: list[Connection] = []

    def ask(node: Node) -> tuple[str, UsedMib, str]:
        if not hasattr(own, "connection"):
            own.connection = connection.another()
            made.append(own.connection)
        try:
            stats = own.connection.get("/v1/client/stats", READ_NODES, node_id=node.id)
        except NomadError as error:
            return node.id, {}, str(error)
        return node.id, _memory_of(stats), ""

    asked = [node for node in nodes if node.status == "ready"]
    with ThreadPoolExecutor(_AT_ONCE) as workers:
        answers = list(workers.map(ask, asked))
    for opened in made:
        opened.close()
    silent = Counter(problem for _, _, problem in answers if problem)
    problems = [f"{number} nodes give no figures: {text}" for text, number in silent.items()]
    return {node: used for node, used, _ in answers}, problems


def _memory_of(stats: Mapping[str, Any]) -> UsedMib:
    found = {}
    for group in stats.get("DeviceStats") or ():
        for id_, entry in (group.get("InstanceStats") or {}).items():
            attributes = ((entry or {}).get("Stats") or {}).get("Attributes") or {}
            used = (attributes.get(MEMORY) or {}).get("IntNumeratorVal")
            if used is not None:
                found[str(id_)] = int(used)
    return found


def _largest(node: Node, groups: Iterable[Group]) -> Largest | None:
    if not node.placeable:
        return None
    return max(
        (
            Largest(len(group.free), share and share * len(group.free), group.device)
            for group in groups
            if group.free
            for share in [group.memory_mib()]
        ),
        key=lambda entry: (entry.vgpus, entry.memory_mib or 0),
        default=None,
    )


def _model(group: Group) -> str:
    model = group.attributes.get("model")
    return str(model.plain) if model else group.name


def _matches(text: str, pattern: str) -> bool:
    return fnmatchcase(text.lower(), pattern.lower())
