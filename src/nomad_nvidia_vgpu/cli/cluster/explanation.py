# SPDX-License-Identifier: MPL-2.0
"""Why a task group is where it is, node by node, as sentences and as a document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nomad_nvidia_vgpu.cli.cluster.jobs import Job, TaskGroup
from nomad_nvidia_vgpu.cli.cluster.model import ID_LENGTH, Fleet, Node
from nomad_nvidia_vgpu.cli.cluster.placement import KINDS, Obstacle, obstacles, room

_SHOWN_NODES = 4
_SHOWN_LINES = 20
_OF_DEVICES = ("missing devices", "devices:")
"""How Nomad names the reasons that are told here in full."""


class Room(NamedTuple):
    """A node on which a task group fits."""

    node: Node
    now: int
    """How many of such groups fit beside what is there."""
    empty: int
    """How many fit when every task there has ended."""


class Hindered(NamedTuple):
    """Nodes on which it does not fit, all for the same reasons."""

    nodes: tuple[Node, ...]
    obstacles: tuple[Obstacle, ...]


class Explanation(NamedTuple):
    """A task group and a cluster."""

    group: TaskGroup
    rooms: tuple[Room, ...]
    hindered: tuple[Hindered, ...]
    words: tuple[str, ...]
    """What Nomad itself says, of reasons that are not devices."""
    empty: int
    """How many of such groups an empty cluster would hold."""

    @property
    def now(self) -> int:
        """How many of such groups fit now."""
        return sum(room.now for room in self.rooms)


def explain(
    job: Job, group: TaskGroup, fleet: Fleet, metrics: Mapping[str, Any] | None
) -> Explanation:
    """`metrics` is what Nomad's scheduler says of the group; None: it says nothing."""
    rooms: list[Room] = []
    alike: dict[tuple[Obstacle, ...], list[Node]] = {}
    empty = 0
    for node in fleet.nodes:
        found = tuple(obstacles(job, group, node))
        possible = (
            0 if any(obstacle.kind == "node" for obstacle in found) else room(group, node.empty())
        )
        empty += possible
        if found:
            alike.setdefault(found, []).append(node)
        else:
            rooms.append(Room(node, room(group, node), possible))
    hindered = [Hindered(tuple(nodes), found) for found, nodes in alike.items()]
    hindered.sort(key=lambda entry: min(KINDS.index(obstacle.kind) for obstacle in entry.obstacles))
    words = () if metrics is None else tuple(nomads_words(metrics))
    return Explanation(group, tuple(rooms), tuple(hindered), words, empty)


def nomads_words(metrics: Mapping[str, Any]) -> Iterator[str]:
    """The reasons of a placement metric that are not devices, as `nomad job status` says them."""
    available = metrics.get("NodesAvailable") or {}
    if not metrics.get("NodesEvaluated") and not any(available.values()):
        yield "No nodes were eligible for evaluation"
    for datacenter, number in available.items():
        if not number:
            yield f'No nodes are available in datacenter "{datacenter}"'
    for name, number in (metrics.get("ClassFiltered") or {}).items():
        yield f'Class "{name}": {number} nodes excluded by filter'
    for constraint, number in (metrics.get("ConstraintFiltered") or {}).items():
        if not constraint.startswith(_OF_DEVICES):
            yield f'Constraint "{constraint}": {number} nodes excluded by filter'
    for dimension, number in (metrics.get("DimensionExhausted") or {}).items():
        if not dimension.startswith(_OF_DEVICES):
            yield f'Dimension "{dimension}" exhausted on {number} nodes'
    for quota in metrics.get("QuotaExhausted") or ():
        yield f'Quota limit hit "{quota}"'


def sentences(explanation: Explanation) -> Iterator[str]:
    """For people: what is asked for, what is in the way on which nodes, and what would help."""
    group = explanation.group
    for request in group.requests:
        yield f"  asks for {request}"
    if not group.requests:
        yield "  asks for no devices, so devices are not the reason"
    for place in explanation.rooms[:_SHOWN_LINES]:
        times = f"fits {place.now} times now, {place.empty} times when empty"
        yield f"  {node_name(place.node)}: {times}"
    yield from _left_out(len(explanation.rooms))
    for hindered in explanation.hindered[:_SHOWN_LINES]:
        yield from _hindered(hindered)
    yield from _left_out(len(explanation.hindered))
    if explanation.words:
        yield f"  Nomad says: {'; '.join(explanation.words)}"
    if not_devices(explanation):
        yield "  The reason is not devices."


def not_devices(explanation: Explanation) -> bool:
    """Whether the devices would do somewhere, and something else is in the way."""
    if not explanation.hindered or explanation.rooms:
        return False
    return any(
        not any(obstacle.of_devices for obstacle in hindered.obstacles)
        for hindered in explanation.hindered
    )


def _hindered(hindered: Hindered) -> Iterator[str]:
    names = ", ".join(node_name(node) for node in hindered.nodes[:_SHOWN_NODES])
    more = (
        f" and {len(hindered.nodes) - _SHOWN_NODES} more"
        if len(hindered.nodes) > _SHOWN_NODES
        else ""
    )
    for obstacle in hindered.obstacles:
        yield f"  {names}{more}: {obstacle.text}"
        if obstacle.remedy:
            yield f"    {obstacle.remedy}"


def _left_out(number: int) -> Iterator[str]:
    if number > _SHOWN_LINES:
        yield f"  and {number - _SHOWN_LINES} more: --json shows all"


def node_name(node: Node) -> str:
    """By which a person and Nomad's own tools know it."""
    return f"{node.name} ({node.id[:ID_LENGTH]})"


def document(explanation: Explanation) -> dict[str, object]:
    """The same for machines."""
    return {
        "group": explanation.group.name,
        "wanted": explanation.group.wanted,
        "requests": [
            {
                "task": request.task,
                "device": request.device,
                "wanted": request.wanted,
                "constraints": [str(constraint) for constraint in request.constraints],
            }
            for request in explanation.group.requests
        ],
        "fits_now": explanation.now,
        "fits_empty": explanation.empty,
        "nodes": [
            {"id": r.node.id, "name": r.node.name, "fits_now": r.now, "fits_empty": r.empty}
            for r in explanation.rooms
        ],
        "hindered": [
            {
                "nodes": [{"id": node.id, "name": node.name} for node in hindered.nodes],
                "obstacles": [obstacle._asdict() for obstacle in hindered.obstacles],
            }
            for hindered in explanation.hindered
        ],
        "nomad_says": list(explanation.words),
        "not_devices": not_devices(explanation),
    }


def noted(notes: Sequence[str]) -> list[str]:
    """What may be missing from what is known, as it is said to a person."""
    return [f"nvidia-vgpu: {note}" for note in notes]
