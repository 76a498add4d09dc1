# SPDX-License-Identifier: MPL-2.0
"""Why a task group is where it is, as sentences and as a document."""

from __future__ import annotations

from nomad_nvidia_vgpu.cli.cluster.explanation import (
    Explanation,
    document,
    explain,
    nomads_words,
    noted,
    sentences,
)
from unit.cli.cluster.made_cluster import block, device_group, fleet, job, node

TOO_LARGE = block("gpu", 1, "${device.attr.vgpu_memory} >= 40 GiB")


def explained(
    asked: dict[str, object], *nodes: dict[str, object], **metrics: object
) -> Explanation:
    """The one group of a job with this block, on these nodes."""
    made = job(asked)
    return explain(made, made.groups[0], fleet(list(nodes)), metrics or None)


def test_nodes_that_are_alike_are_told_in_one_line() -> None:
    """With what would help below it; four are named, the others counted."""
    found = explained(TOO_LARGE, *(node(f"n{n}", device_group()) for n in range(6)))
    names = ", ".join(f"n{n} (n{n}-0000-)" for n in range(4))
    assert list(sentences(found)) == [
        "  asks for 1 of gpu with ${device.attr.vgpu_memory} >= 40 GiB for task main",
        f"  {names} and 2 more: ${{device.attr.vgpu_memory}} >= 40 GiB: the largest here is 5 GiB (NVIDIA L4)",
        "    ask for at most 5 GiB",
    ]
    assert (found.now, found.empty) == (0, 0)


def test_where_it_fits_is_counted() -> None:
    """Now and on an empty cluster; a node that is down counts for neither."""
    found = explained(block(), node("a", device_group()), node("b", device_group(), Status="down"))
    assert (found.now, found.empty) == (4, 4)
    assert "  a (a-0000-0): fits 4 times now, 4 times when empty" in list(sentences(found))


def test_the_nearest_obstacle_comes_first() -> None:
    """A group with too few before one of another name."""
    found = explained(
        block("letmutx/gpu/NVIDIA L4", 5),
        node("a", device_group("Tesla T4")),
        node("b", device_group()),
    )
    assert [hindered.obstacles[0].kind for hindered in found.hindered] == [
        "too-many",
        "no-such-device",
    ]


def test_many_different_nodes_are_cut_for_people_and_not_for_machines() -> None:
    """Twenty lines are enough."""
    nodes = [node(f"n{n}", device_group(memory_mib=1000 + n)) for n in range(25)]
    found = explained(TOO_LARGE, *nodes)
    assert "  and 5 more: --json shows all" in list(sentences(found))
    hindered = document(found)["hindered"]
    assert isinstance(hindered, list)
    assert len(hindered) == 25


def test_nomads_own_words_are_those_of_its_command() -> None:
    """For what is not devices; what is devices is told better here."""
    metrics = {
        "NodesEvaluated": 3,
        "NodesAvailable": {"dc1": 3, "dc2": 0},
        "ConstraintFiltered": {"missing devices": 1, "${attr.kernel.name} = windows": 2},
        "DimensionExhausted": {"memory": 1, "devices: no devices match request": 1},
        "ClassFiltered": {"large": 1},
        "QuotaExhausted": ["cpu"],
    }
    assert list(nomads_words(metrics)) == [
        'No nodes are available in datacenter "dc2"',
        'Class "large": 1 nodes excluded by filter',
        'Constraint "${attr.kernel.name} = windows": 2 nodes excluded by filter',
        'Dimension "memory" exhausted on 1 nodes',
        'Quota limit hit "cpu"',
    ]
    assert list(nomads_words({"NodesEvaluated": 0})) == ["No nodes were eligible for evaluation"]


def test_another_reason_than_devices_is_said_to_be_one() -> None:
    """Where the devices would do on some node, and on none all."""
    down = explained(block(), node("a", device_group(), Status="down"), NodesEvaluated=0)
    told = list(sentences(down))
    assert told[-2:] == [
        "  Nomad says: No nodes were eligible for evaluation",
        "  The reason is not devices.",
    ]
    assert document(down)["not_devices"] is True
    assert document(explained(TOO_LARGE, node("a", device_group())))["not_devices"] is False
    assert document(explained(block(), node("a", device_group())))["not_devices"] is False


def test_a_group_without_devices_says_so() -> None:
    """What is in its way is not ours to tell."""
    made = job()
    found = explain(made, made.groups[0], fleet([]), {"NodesEvaluated": 1})
    assert "  asks for no devices, so devices are not the reason" in list(sentences(found))


def test_notes_name_the_program() -> None:
    """They stand beside what was asked for."""
    assert noted(["x"]) == ["nvidia-vgpu: x"]
