# SPDX-License-Identifier: MPL-2.0
"""What running tasks hold of the GPUs, and which vGPUs are therefore not to be given away.

Nomad counts a vGPU as in use by the name of its group and its id. A task that was started when
its GPU was divided or grouped otherwise is not counted, or for less than it has; so as much of
the GPU as it was promised is withheld until it ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId

WITHHELD = Problem(
    "held for tasks that were started when this GPU was divided or grouped otherwise",
    "it is free when they have ended",
)
"""What a withheld vGPU says of its health; the same for every holder, because it must be stable."""


class Holding(NamedTuple):
    """What one running task says that it was given."""

    task: str
    """What tells it from other tasks."""
    group: str | None
    """Vendor, type and name of the device group; None: an older version of this plugin did not say."""
    vgpus: frozenset[VgpuId]
    budgets: tuple[tuple[str, int], ...] = ()
    """What it was promised of the memory of each GPU, by UUID, in MiB."""

    def on(self, uuid: str) -> tuple[frozenset[int], int | None]:
        """The numbers of its vGPUs on one GPU, and its budget there if it is known."""
        numbers = frozenset(vgpu.number for vgpu in self.vgpus if vgpu.gpu_uuid == uuid)
        return numbers, dict(self.budgets).get(uuid)


class Division(NamedTuple):
    """How a GPU is divided and grouped now."""

    uuid: str
    group: str
    vgpus: int
    memory_mib: int | None


def withheld(
    now: Division, holdings: Iterable[Holding], before: frozenset[int] = frozenset()
) -> frozenset[int]:
    """The numbers of the vGPUs that Nomad must not give away; `before`: those of the last time."""
    counted: set[int] = set()
    own: set[int] = set()
    needed_mib = needed = 0
    for holding in holdings:
        numbers, budget_mib = holding.on(now.uuid)
        if not numbers:
            continue
        if _is_counted(now, holding.group, numbers, budget_mib):
            counted |= numbers
            continue
        own |= {number for number in numbers if number < now.vgpus}
        if budget_mib is None or not now.memory_mib:
            needed += len(numbers)
        else:
            needed_mib += budget_mib * now.vgpus
    if now.memory_mib:
        needed += -(-needed_mib // now.memory_mib)
    # Those of the last time first, lest a vGPU be taken back that Nomad has just been offered.
    rest = sorted(set(range(now.vgpus)) - own, key=lambda n: (n in counted, n not in before, -n))
    return frozenset(own) | frozenset(rest[: max(0, needed - len(own))])


def _is_counted(
    now: Division, group: str | None, numbers: frozenset[int], budget_mib: int | None
) -> bool:
    """Whether Nomad counts a task for just what it was promised."""
    if group not in (None, now.group) or max(numbers) >= now.vgpus:
        return False
    if budget_mib is None or now.memory_mib is None:
        return True
    return budget_mib == now.memory_mib * len(numbers) // now.vgpus
