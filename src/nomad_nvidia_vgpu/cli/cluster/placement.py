# SPDX-License-Identifier: MPL-2.0
"""Whether a task group fits on a node, how often, and if not, what is in its way.

As Nomad's scheduler judges: each device block takes all its instances from one device group, and
all blocks of a task group must find theirs on one node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from nomad_nvidia_vgpu.cli.cluster.attributes import Value, compared, parsed
from nomad_nvidia_vgpu.cli.cluster.jobs import Constraint, Job, Request, TaskGroup
from nomad_nvidia_vgpu.cli.cluster.model import Group, Instance, Node

_SHOWN = 4
_MIB_PER_GIB = 1024
_EQUAL = ("=", "==", "is")
_MORE, _LESS = (">", ">="), ("<", "<=")
_FOR_WORDS = ("regexp", "version", "semver", "set_contains", "set_contains_all", "set_contains_any")


KINDS = (
    *("resources", "held", "together", "split", "withheld", "unhealthy", "too-many"),
    *("node", "unit", "type", "attribute", "constraint", "no-such-device", "no-devices"),
)
"""Of what kind an obstacle can be; what is nearest to a fit comes first."""


class Obstacle(NamedTuple):
    """One thing that keeps a task group from a node."""

    kind: str
    """One of `KINDS`."""
    text: str
    remedy: str = ""
    of_devices: bool = True
    """Whether devices are in the way there, be it beside this."""


def obstacles(job: Job, group: TaskGroup, node: Node) -> list[Obstacle]:
    """What is in the way; empty: it fits there now."""
    of_node = list(_of_node(job, group, node))
    found = _of_devices(group, node)
    if of_node:
        return [obstacle._replace(of_devices=bool(found)) for obstacle in of_node]
    return [*found, *_of_resources(group, node)]


def _of_devices(group: TaskGroup, node: Node) -> list[Obstacle]:
    of_requests = [_of_request(request, node) for request in group.requests]
    # Two blocks that ask for the same have one and the same obstacle.
    found = list(dict.fromkeys(obstacle for obstacle in of_requests if obstacle is not None))
    if not found and _placed(group.requests, _counts(group.requests, node)) is None:
        found = [_together(group, node)]
    return found


def room(group: TaskGroup, node: Node) -> int:
    """How many of such task groups fit on the node beside what is there, if it may be used."""
    counts = _counts(group.requests, node)
    limit = 1 if group.alone else None
    for needed, free in zip(group.needs, node.free, strict=True):
        if needed and free is not None:
            limit = max(0, free // needed) if limit is None else min(limit, max(0, free // needed))
    if not any(request.wanted for request in group.requests):
        return limit or 0
    fitted = 0
    while limit is None or fitted < limit:
        left = _placed(group.requests, counts)
        if left is None:
            break
        counts = left
        fitted += 1
    return fitted


_Counts = dict[int, int]
"""How many instances of each group can be given away, by the group's number."""


def _counts(requests: Sequence[Request], node: Node) -> tuple[list[list[int]], _Counts]:
    """Which groups each request may use, and how much each group has."""
    usable = [
        [
            number
            for number, group in enumerate(node.groups)
            if request.names(group)
            and not request.failing(group)
            and sum(request.admits(i.id) for i in group.free) >= request.wanted
        ]
        for request in requests
    ]
    return usable, {number: len(group.free) for number, group in enumerate(node.groups)}


def _placed(
    requests: Sequence[Request], known: tuple[list[list[int]], _Counts]
) -> tuple[list[list[int]], _Counts] | None:
    """What is left when each request has its instances; None if they do not fit together."""
    usable, counts = known
    order = sorted(range(len(requests)), key=lambda n: (len(usable[n]), -requests[n].wanted))

    def place(position: int, left: _Counts) -> _Counts | None:
        if position == len(order):
            return left
        request = order[position]
        wanted = requests[request].wanted
        for number in sorted(usable[request], key=lambda n: left[n]):
            if left[number] >= wanted:
                done = place(position + 1, {**left, number: left[number] - wanted})
                if done is not None:
                    return done
        return None

    left = place(0, counts)
    return None if left is None else (usable, left)


def _of_node(job: Job, group: TaskGroup, node: Node) -> Iterator[Obstacle]:
    def obstacle(text: str, remedy: str) -> Obstacle:
        return Obstacle("node", text, remedy, of_devices=False)

    if node.status != "ready":
        yield obstacle(f"it is {node.status}", "start its agent, or see the agent's log")
    elif node.draining:
        yield obstacle("it is draining", f"end that: nomad node drain -disable {node.id[:8]}")
    elif not node.eligible:
        command = f"nomad node eligibility -enable {node.id[:8]}"
        yield obstacle("it is not eligible for placements", f"make it so: {command}")
    elif not job.wants(node):
        asked = ", ".join(job.datacenters)
        yield obstacle(
            f"it is in datacenter {node.datacenter}, and the job asks for {asked}",
            f'add "{node.datacenter}" to the job\'s datacenters',
        )
    elif not job.wants_pool_of(node):
        yield obstacle(
            f"it is in node pool {node.pool}, and the job asks for {job.pool}",
            f'set node_pool = "{node.pool}" in the job',
        )
    elif missing := [driver for driver in group.drivers if not node.drivers.get(driver)]:
        yield obstacle(
            f"its task driver {', '.join(missing)} is missing or unhealthy",
            "see `nomad node status -verbose`, or use another driver",
        )


def _of_resources(group: TaskGroup, node: Node) -> Iterator[Obstacle]:
    for what, unit, needed, free in zip(
        ("processor time", "memory"), ("MHz", "MB"), group.needs, node.free, strict=True
    ):
        if needed and free is not None and needed > free:
            yield Obstacle(
                "resources",
                f"{needed} {unit} of {what} are asked for and {max(0, free)} are free",
                f"ask for less {what}, or stop tasks there",
                of_devices=False,
            )


def _of_request(request: Request, node: Node) -> Obstacle | None:
    named = [group for group in node.groups if request.names(group)]
    if not named:
        return _no_such_device(request, node)
    meeting = [group for group in named if not request.failing(group)]
    if not meeting:
        return _unmet(request, named)
    return _too_few(request, meeting)


def _no_such_device(request: Request, node: Node) -> Obstacle:
    offered = sorted({group.device for group in node.groups})
    if not offered:
        remedy = "run `nvidia-vgpu doctor` there if it should"
        return Obstacle("no-devices", "it offers no devices at all", remedy)
    return Obstacle(
        "no-such-device",
        f"no device is called {request.device}: it offers {_listed(offered)}",
        f'write device "{"/".join(offered[0].split("/")[:2])}", or one of these names in full',
    )


def _unmet(request: Request, named: Sequence[Group]) -> Obstacle:
    """The first constraint that no group meets, or how each group fails another."""
    for constraint in request.constraints:
        if not any(constraint.holds_for(group) for group in named):
            return _unmet_by_all(constraint, named)
    each = [f"{group.name} fails {request.failing(group)[0]}" for group in named]
    return Obstacle(
        "constraint",
        f"no group meets all constraints: {_listed(each)}",
        "take one of these constraints out",
    )


def _unmet_by_all(constraint: Constraint, named: Sequence[Group]) -> Obstacle:
    there = [(value, g) for g in named if (value := constraint.value_in(g)) is not None]
    if not there:
        return _no_such_attribute(constraint, named)
    asked = parsed(constraint.right)
    incomparable = [value for value, _ in there if compared(value, asked) is None]
    if len(incomparable) == len(there) and constraint.operand not in _FOR_WORDS:
        return _incomparable(constraint, asked, incomparable[0])
    numbers = [(value, group) for value, group in there if value.is_number]
    if numbers and constraint.operand in (*_MORE, *_LESS):
        largest = constraint.operand in _MORE
        pick = max if largest else min
        value, group = pick(numbers, key=lambda pair: pair[0].in_base_units)
        text = f"the {'largest' if largest else 'smallest'} here is {human(value)} ({group.name})"
        strict = "less than" if largest else "more than"
        bound = ("at most" if largest else "at least") if "=" in constraint.operand else strict
        return Obstacle("constraint", f"{constraint}: {text}", f"ask for {bound} {human(value)}")
    values = sorted({human(value) for value, _ in there})
    remedy = "ask for what is there"
    if constraint.left == "${device.model}" and any(
        group.attributes.get("model") == asked for group in named
    ):
        remedy = "write ${device.attr.model}: the name of these groups has more than the model"
    return Obstacle("constraint", f"{constraint}: here it is {_listed(values)}", remedy)


def _no_such_attribute(constraint: Constraint, named: Sequence[Group]) -> Obstacle:
    known = sorted({name for group in named for name in group.attributes})
    asked = constraint.attribute
    if asked is None:
        return Obstacle(
            "constraint",
            f"{constraint}: a device has no {constraint.left}",
            "write ${device.attr.NAME}, ${device.model}, ${device.vendor} or ${device.type}",
        )
    near = get_close_matches(asked, known, 1)
    return Obstacle(
        "attribute",
        f"{constraint}: no device here has the attribute {asked}",
        f"write {near[0]} if that is meant" if near else "take the constraint out",
    )


def _incomparable(constraint: Constraint, asked: Value, there: Value) -> Obstacle:
    kind, text = "unit", f"{constraint}: Nomad cannot compare it with {human(there)}"
    if there.unit and asked.is_number and not asked.unit:
        larger = {"MiB": "GiB", "MHz": "GHz", "MB/s": "GB/s", "W": "kW"}.get(there.unit)
        units = " or ".join(f'"{asked} {unit}"' for unit in (larger, there.unit) if unit)
        return Obstacle(kind, f"{text}, because its value has no unit", f"write {units}")
    if asked.unit and there.is_number and not there.unit:
        return Obstacle(
            kind,
            f"{text}, because the attribute has no unit",
            f'write "{asked.plain}" without a unit',
        )
    if asked.unit and there.unit:
        return Obstacle(
            kind, f"{text}, because it measures something else", f"write a value in {there.unit}"
        )
    what = (
        "a number" if asked.is_number else "a truth" if isinstance(asked.plain, bool) else "a word"
    )
    return Obstacle(
        "type", f"{text}, because the value is {what}", f"write a value such as {there}"
    )


def _too_few(request: Request, meeting: Sequence[Group]) -> Obstacle | None:
    """Why no group that meets the constraints has as many as are asked for, if so."""
    wanted = request.wanted

    def most(of: str) -> tuple[int, Group]:
        counted = [
            ((sum(request.admits(vgpu.id) for vgpu in getattr(group, of)), -n), group)
            for n, group in enumerate(meeting)
        ]
        (number, _), group = max(counted, key=lambda entry: entry[0])
        return number, group

    instances, largest = most("instances")
    if instances < wanted:
        count = f"the largest device group here has {instances} ({largest.name})"
        if sum(len(group.instances) for group in meeting) >= wanted:
            count += ": a count lands in one group"
        return Obstacle(
            "too-many",
            f"{_asked(wanted)} in one device block, and {count}",
            f"ask for at most {instances} in one block",
        )
    healthy, group = most("healthy")
    if healthy < wanted:
        return _unwell(request, group, healthy)
    free, group = most("free")
    if free >= wanted:
        return None
    frees = [(len(group.free), group.name) for group in meeting if group.free]
    if sum(number for number, _ in frees) >= wanted:
        each = _listed([f"{number} in {name}" for number, name in frees])
        return Obstacle(
            "split",
            f"{_asked(wanted)} and {sum(n for n, _ in frees)} are free, but in {len(frees)}"
            f" device groups ({each}): a count lands in one group",
            f'ask for at most {free} in one block, or set group_by = "model" on the node',
        )
    return _taken(request, meeting)


def _asked(number: int) -> str:
    return f"{number} {'is' if number == 1 else 'are'} asked for"


def _unwell(request: Request, group: Group, healthy: int) -> Obstacle:
    bad = [vgpu for vgpu in group.instances if vgpu.unhealthy]
    withheld = all(vgpu.withheld for vgpu in bad)
    return Obstacle(
        "withheld" if withheld else "unhealthy",
        f"{_asked(request.wanted)}, and of {len(group.instances)} in {group.name} {healthy} can be"
        f" given: {unwell_text(bad)}",
        "wait until the tasks of the earlier division have ended, or stop them"
        if withheld
        else "do as the reason says; `nvidia-vgpu doctor` on the node tells more",
    )


def _taken(request: Request, meeting: Sequence[Group]) -> Obstacle:
    holders = Counter(holder for group in meeting for holder in group.holders.values())
    named = [f"{holder} has {number}" for holder, number in holders.most_common()]
    bad = [vgpu for group in meeting for vgpu in group.instances if vgpu.unhealthy]
    free, total = (
        sum(len(g.free) for g in meeting),
        sum(len(g.instances) for g in meeting),
    )
    also = f"; {unwell_text(bad)}" if bad else ""
    return Obstacle(
        "held",
        f"{_asked(request.wanted)} and {free} of {total} are free: {_listed(named)}{also}",
        "wait until one of these ends, or stop it",
    )


def _together(group: TaskGroup, node: Node) -> Obstacle:
    frees = [f"{len(group.free)} in {group.name}" for group in node.groups if group.free]
    return Obstacle(
        "together",
        f"its {len(group.requests)} device blocks fit one by one and not together: free are"
        f" {_listed(frees)}",
        "ask for fewer, put the tasks into groups of their own, or stop tasks there",
    )


def unwell_text(bad: Sequence[Instance]) -> str:
    """How many are unhealthy or withheld, and why: `2 unhealthy (XID 79 …)`."""
    reasons = Counter((vgpu.withheld, vgpu.unhealthy) for vgpu in bad)
    return "; ".join(
        f"{number} {'withheld' if withheld else 'unhealthy'} ({reason})"
        for (withheld, reason), number in sorted(reasons.items())
    )


def human(value: Value) -> str:
    """Memory in GiB where it is a whole number of them."""
    plain = value.plain
    if value.unit == "MiB" and type(plain) is int and plain >= _MIB_PER_GIB:
        if plain % _MIB_PER_GIB == 0:
            return f"{plain // _MIB_PER_GIB} GiB"
        return f"{plain} MiB"
    return str(value)


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{', '.join(items[:_SHOWN])}{more}"
