# SPDX-License-Identifier: MPL-2.0
"""What the servers know of nodes, device groups and allocations, as far as it is needed here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from nomad_nvidia_vgpu.cli.cluster.attributes import Value, value_of
from nomad_nvidia_vgpu.cli.cluster.connection import READ_NODES, Connection, NomadError, read_jobs
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.sharing.withheld import WITHHELD

_LIVE = 'ClientStatus == "running" or ClientStatus == "pending" or ClientStatus == "unknown"'
_ENDED = ("complete", "failed", "lost")
_Key = tuple[str, str]
"""A device's name, and the id of an instance."""
_NO_ACLS = "ACL support disabled"
"""What servers without ACLs answer who asks for the own token, before Nomad 2.0."""
_NO_ACLS_ACCESSOR = "acls-disabled"
"""The accessor of the token that they answer with in 2.0.5."""
ID_LENGTH = 8
"""How much of an id Nomad's own tools show."""


class Instance(NamedTuple):
    """One thing that can be given to a task: with this plugin a vGPU."""

    id: str
    unhealthy: str
    """Why it is not offered; empty: it is healthy."""
    pci_bus_id: str | None = None

    @property
    def withheld(self) -> bool:
        """Whether nothing is wrong with it, but tasks of an earlier division still use it."""
        return self.unhealthy == WITHHELD

    @property
    def gpu(self) -> str:
        """The UUID of its GPU."""
        vgpu = VgpuId.parse(self.id)
        return vgpu.gpu_uuid if vgpu else self.id


class Holder(NamedTuple):
    """Which task has an instance."""

    allocation: str
    job: str
    group: str
    task: str
    namespace: str = "default"

    def __str__(self) -> str:
        return f"{self.job}/{self.group} ({self.allocation[:ID_LENGTH]})"


class Group:
    """A device group of a node, with who holds what of it."""

    def __init__(
        self,
        device: str,
        instances: Sequence[Instance],
        attributes: Mapping[str, Value],
        holders: Mapping[str, Holder],
    ) -> None:
        """`device` is vendor, type and name; `holders` the tasks by the id of the instance."""
        self.device = device
        self.instances = tuple(instances)
        self.attributes = attributes
        self.holders = holders

    @property
    def name(self) -> str:
        """The last part of the device's name, which may hold slashes of its own."""
        return self.device.split("/", 2)[2]

    @property
    def ours(self) -> bool:
        """Whether this plugin offers it: each vGPU has the number that this plugin gives."""
        return "vgpus" in self.attributes and all(VgpuId.parse(i.id) for i in self.instances)

    @cached_property
    def free(self) -> tuple[Instance, ...]:
        """What can be given to a task now."""
        return tuple(i for i in self.instances if not i.unhealthy and i.id not in self.holders)

    @cached_property
    def healthy(self) -> tuple[Instance, ...]:
        """What could be given to a task if nobody had anything."""
        return tuple(i for i in self.instances if not i.unhealthy)

    def memory_mib(self) -> int | None:
        """The memory of one vGPU; None where the group does not say."""
        share = self.attributes.get("vgpu_memory")
        number = share is not None and share.is_number and share.unit == "MiB"
        return int(share.plain) if share is not None and number else None

    def without_holders(self) -> Group:
        """The same group when every task has ended."""
        return Group(self.device, self.instances, self.attributes, {})


class Resources(NamedTuple):
    """Processor time and memory; None where Nomad does not say."""

    cpu_mhz: int | None = None
    memory_mb: int | None = None

    def minus(self, other: Resources) -> Resources:
        """What is left; unknown where one of both is."""
        left = (None if a is None or b is None else a - b for a, b in zip(self, other, strict=True))
        return Resources(*left)

    def plus(self, other: Resources) -> Resources:
        """Both together, as far as they are known."""
        return Resources(*((a or 0) + (b or 0) for a, b in zip(self, other, strict=True)))


class Node(NamedTuple):
    """One client."""

    id: str
    name: str
    status: str
    eligible: bool
    draining: bool
    datacenter: str
    pool: str
    drivers: Mapping[str, bool]
    """Each task driver that Nomad found, and whether it is healthy."""
    groups: tuple[Group, ...]
    total: Resources
    free: Resources

    @property
    def placeable(self) -> bool:
        """Whether Nomad would place a task there at all."""
        return self.status == "ready" and self.eligible and not self.draining

    def empty(self) -> Node:
        """The same node when every task has ended."""
        groups = tuple(group.without_holders() for group in self.groups)
        return self._replace(groups=groups, free=self.total)


class Fleet(NamedTuple):
    """All nodes, and what may be missing from what is known of them."""

    nodes: tuple[Node, ...]
    notes: tuple[str, ...] = ()


def read_fleet(connection: Connection) -> Fleet:
    """Every node with its devices and who holds them: one request for each 200 of both lists."""
    holders: dict[str, dict[_Key, Holder]] = defaultdict(dict)
    used: dict[str, Resources] = {}
    everywhere = {"namespace": "*", "resources": "true", "task_states": "false", "filter": _LIVE}
    for stub in connection.pages("/v1/allocations", read_jobs("*"), **everywhere):
        if stub.get("ClientStatus") in _ENDED:
            continue  # of a Nomad that does not filter
        allocation = stub
        if "AllocatedResources" not in stub:  # before Nomad 1.0
            path = f"/v1/allocation/{stub['ID']}"
            allocation = connection.get(path, read_jobs(stub.get("Namespace") or "default"))
        node = str(stub["NodeID"])
        resources = allocation.get("AllocatedResources") or {}
        holders[node].update(_holders(allocation, resources))
        used[node] = used.get(node, Resources()).plus(_used(resources))
    nodes = []
    for listed in connection.pages("/v1/nodes", READ_NODES, resources="true"):
        full = listed
        if "NodeResources" not in listed:  # before Nomad 1.0
            full = connection.get(f"/v1/node/{listed['ID']}", READ_NODES)
        node = str(listed["ID"])
        nodes.append(_node({**full, **listed}, holders[node], used.get(node, Resources(0, 0))))
    return Fleet(tuple(sorted(nodes, key=lambda n: (n.name, n.id))), _notes(connection))


def _notes(connection: Connection) -> tuple[str, ...]:
    """Whether tasks may be hidden from this token, and so be counted as free."""
    try:
        token = connection.get("/v1/acl/token/self", "")
        if token.get("Type") == "management" or token.get("AccessorID") == _NO_ACLS_ACCESSOR:
            return ()
    except NomadError as error:
        if _NO_ACLS in str(error):
            return ()
    hidden = "allocations in namespaces that this token may not read are not counted"
    return (f"{hidden}, so what they hold shows as free: give its policy {read_jobs('*')}",)


def _node(raw: Mapping[str, Any], holders: Mapping[_Key, Holder], used: Resources) -> Node:
    resources = raw.get("NodeResources") or {}
    total = _of_node(resources).minus(_of_node(raw.get("ReservedResources") or {}, unknown=0))
    return Node(
        id=str(raw["ID"]),
        name=str(raw.get("Name") or raw["ID"]),
        status=str(raw.get("Status") or ""),
        eligible=raw.get("SchedulingEligibility", "eligible") == "eligible",
        draining=bool(raw.get("Drain")),
        datacenter=str(raw.get("Datacenter") or ""),
        pool=str(raw.get("NodePool") or "default"),
        drivers={
            name: bool(driver.get("Detected") and driver.get("Healthy"))
            for name, driver in (raw.get("Drivers") or {}).items()
        },
        groups=tuple(_group(device, holders) for device in resources.get("Devices") or ()),
        total=total,
        free=total.minus(used),
    )


def _group(raw: Mapping[str, Any], holders: Mapping[_Key, Holder]) -> Group:
    device = "/".join(str(raw.get(part) or "") for part in ("Vendor", "Type", "Name"))
    instances = [
        Instance(
            str(vgpu.get("ID")),
            "" if vgpu.get("Healthy") else str(vgpu.get("HealthDescription") or "without a word"),
            (vgpu.get("Locality") or {}).get("PciBusID") or None,
        )
        for vgpu in raw.get("Instances") or ()
    ]
    known = ((name, value_of(value)) for name, value in (raw.get("Attributes") or {}).items())
    attributes = {name: value for name, value in known if value is not None}
    # Nomad counts by the group's name too: an id under another name holds nothing of this one.
    mine = {i.id: holders[device, i.id] for i in instances if (device, i.id) in holders}
    return Group(device, sorted(instances, key=_in_order), attributes, mine)


def _in_order(instance: Instance) -> tuple[str, int]:
    vgpu = VgpuId.parse(instance.id)
    return (vgpu.gpu_uuid, vgpu.number) if vgpu else (instance.id, 0)


def _of_node(raw: Mapping[str, Any], unknown: int | None = None) -> Resources:
    cpu, memory = raw.get("Cpu") or {}, raw.get("Memory") or {}
    return Resources(cpu.get("CpuShares", unknown), memory.get("MemoryMB", unknown))


def _tasks(resources: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    return ((name, task or {}) for name, task in (resources.get("Tasks") or {}).items())


def _used(resources: Mapping[str, Any]) -> Resources:
    cpu = memory = 0
    for _, task in _tasks(resources):
        cpu += (task.get("Cpu") or {}).get("CpuShares", 0)
        memory += (task.get("Memory") or {}).get("MemoryMB", 0)
    return Resources(cpu, memory)


def _holders(allocation: Mapping[str, Any], resources: Mapping[str, Any]) -> dict[_Key, Holder]:
    """Who holds what."""
    found: dict[_Key, Holder] = {}
    for task, given in _tasks(resources):
        holder = Holder(
            str(allocation["ID"]),
            str(allocation.get("JobID")),
            str(allocation.get("TaskGroup")),
            task,
            str(allocation.get("Namespace") or "default"),
        )
        for device in given.get("Devices") or ():
            name = "/".join(str(device.get(part) or "") for part in ("Vendor", "Type", "Name"))
            found.update({(name, str(id_)): holder for id_ in device.get("DeviceIDs") or ()})
    return found
