# SPDX-License-Identifier: MPL-2.0
"""What a job asks for: its task groups, and the devices, drivers and resources of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from nomad_nvidia_vgpu.cli.cluster.attributes import Value, holds, parsed
from nomad_nvidia_vgpu.cli.cluster.model import Group, Node, Resources

_ATTRIBUTE = "${device.attr."
_IDS = "${device.ids}"
_SET_OPERATORS = ("set_contains", "set_contains_all")
_PARTS = 3
_ALL_POOLS = "all"


class Constraint(NamedTuple):
    """A constraint of a device block."""

    left: str
    operand: str
    right: str

    def __str__(self) -> str:
        return " ".join(filter(None, (self.left, self.operand, self.right)))

    @property
    def attribute(self) -> str | None:
        """The attribute that it looks at; None if it looks at none."""
        ours = self.left.startswith(_ATTRIBUTE) and self.left.endswith("}")
        return self.left[len(_ATTRIBUTE) : -1] if ours else None

    def value_in(self, group: Group) -> Value | None:
        """Its left side, for a device group."""
        return _resolved(self.left, group)

    def holds_for(self, group: Group) -> bool:
        """Whether Nomad would take the group."""
        return holds(self.operand, self.value_in(group), _resolved(self.right, group))


class Request(NamedTuple):
    """One device block of a task."""

    task: str
    device: str
    wanted: int
    constraints: tuple[Constraint, ...] = ()

    def __str__(self) -> str:
        conditions = f" with {' and '.join(map(str, self.constraints))}" if self.constraints else ""
        return f"{self.wanted} of {self.device}{conditions} for task {self.task}"

    def names(self, group: Group) -> bool:
        """Whether the block's name is one of the group's: `type`, `vendor/type`, or in full."""
        asked = self.device.split("/", _PARTS - 1)
        vendor, kind, name = group.device.split("/", _PARTS - 1)
        if len(asked) == 1:
            asked = ["", *asked]
        there = (vendor, kind, name)
        return all(part in ("", have) for part, have in zip(asked, there, strict=False))

    def failing(self, group: Group) -> list[Constraint]:
        """The constraints that the group does not meet."""
        return [constraint for constraint in self.constraints if not constraint.holds_for(group)]

    def admits(self, instance_id: str) -> bool:
        """Whether a constraint on ids lets it have this instance."""
        return all(
            instance_id in {part.strip() for part in constraint.right.split(",")}
            for constraint in self.constraints
            if constraint.left == _IDS and constraint.operand in _SET_OPERATORS
        )


class TaskGroup(NamedTuple):
    """One group of tasks, which are placed on one node together."""

    name: str
    wanted: int
    requests: tuple[Request, ...]
    drivers: tuple[str, ...]
    needs: Resources
    alone: bool
    """Whether each of them wants a node of its own (distinct_hosts)."""


class Job(NamedTuple):
    """A job, as far as devices are concerned."""

    id: str
    namespace: str
    kind: str
    datacenters: tuple[str, ...]
    pool: str
    groups: tuple[TaskGroup, ...]

    def wants(self, node: Node) -> bool:
        """Whether it may run in the node's datacenter."""
        return any(fnmatchcase(node.datacenter, pattern) for pattern in self.datacenters)

    def wants_pool_of(self, node: Node) -> bool:
        """Whether it may run in the node's pool."""
        return self.pool in (_ALL_POOLS, node.pool)


def job_of(raw: Mapping[str, Any], namespace: str) -> Job:
    """A job as the API shows it, or as its parser makes it of a file."""
    constraints = raw.get("Constraints") or ()
    return Job(
        str(raw.get("ID") or raw.get("Name")),
        str(raw.get("Namespace") or namespace),
        str(raw.get("Type") or "service"),
        tuple(raw.get("Datacenters") or ["*"]),
        str(raw.get("NodePool") or "default"),
        tuple(_task_group(group, constraints) for group in raw.get("TaskGroups") or ()),
    )


def _task_group(raw: Mapping[str, Any], of_job: Sequence[Mapping[str, Any]]) -> TaskGroup:
    tasks = raw.get("Tasks") or ()
    constraints = (*of_job, *(raw.get("Constraints") or ()))
    count = raw.get("Count")
    return TaskGroup(
        str(raw["Name"]),
        1 if count is None else int(count),
        tuple(request for task in tasks for request in _requests(task)),
        tuple(sorted({str(task.get("Driver")) for task in tasks})),
        _needs(tasks),
        any(
            c.get("Operand") == "distinct_hosts" and str(c.get("RTarget")).lower() != "false"
            for c in constraints
        ),
    )


def _requests(task: Mapping[str, Any]) -> list[Request]:
    resources = task.get("Resources") or {}
    return [
        Request(
            str(task["Name"]),
            str(device["Name"]),
            1 if device.get("Count") is None else int(device["Count"]),
            tuple(
                Constraint(
                    str(entry.get("LTarget") or ""),
                    str(entry.get("Operand") or "="),
                    str(entry.get("RTarget") or ""),
                )
                for entry in device.get("Constraints") or ()
            ),
        )
        for device in resources.get("Devices") or ()
    ]


def _needs(tasks: Sequence[Mapping[str, Any]]) -> Resources:
    """What runs at one time at most: tasks before and after the main ones take turns with them."""
    turns: dict[str, Resources] = {}
    for task in tasks:
        lifecycle = task.get("Lifecycle") or {}
        turn = "always" if lifecycle.get("Sidecar") else lifecycle.get("Hook") or "main"
        turn = "main" if turn == "poststart" else turn
        asked = task.get("Resources") or {}
        cpu = 0 if asked.get("Cores") else asked.get("CPU") or 0
        needs = Resources(cpu, asked.get("MemoryMB") or 0)
        turns[turn] = turns.get(turn, Resources(0, 0)).plus(needs)
    always = turns.pop("always", Resources(0, 0))
    most = (max((r[i] or 0 for r in turns.values()), default=0) for i in range(len(always)))
    return Resources(*most).plus(always)


def _resolved(target: str, group: Group) -> Value | None:
    """A side of a constraint; None where there is nothing of the name."""
    if not target.startswith("${"):
        return parsed(target)
    if target == _IDS:
        return Value(",".join(instance.id for instance in group.instances))
    vendor, kind, name = group.device.split("/", _PARTS - 1)
    own = {"${device.vendor}": vendor, "${device.type}": kind, "${device.model}": name}
    if target in own:
        return Value(own[target])
    if target.startswith(_ATTRIBUTE):
        return group.attributes.get(target[len(_ATTRIBUTE) :].removesuffix("}"))
    return None
