# SPDX-License-Identifier: MPL-2.0
"""Which task uses how much of which GPU, as one pass found it. Pure data of `tasks.attribution`.

Read by the stats, the memory guard, Prometheus and `nvidia-vgpu top` alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple


class Task(NamedTuple):
    """A holder of vGPUs: all processes of one cgroup, or of one environment where there is none."""

    key: str
    """What tells it from others: the path of its cgroup, or the words of its environment."""
    certain: bool
    """Whether its processes are known beyond doubt, by a cgroup that Nomad or a container engine
    made; else it is good for display alone, and nothing is ever done to them."""
    allocation: str | None = None
    """Nomad's id of the allocation. From the cgroup for raw_exec and exec; of a container, what
    the environment of its oldest process says."""
    name: str | None = None
    """Nomad's name of the task; known as `allocation` is."""
    group: str | None = None
    """Task group, as the environment says: for display."""
    job: str | None = None
    """Job, as the environment says: for display."""
    container: str | None = None
    """The id of the container, for docker and podman."""
    vgpu_ids: tuple[str, ...] = ()
    """What its environment claims, on all GPUs; in the order of their numbers."""

    @property
    def label(self) -> str:
        """Allocation and task, or what else names it, for logs."""
        if self.allocation:
            return f"{self.allocation}/{self.name or '?'}"
        return f"container {self.container[:12]}" if self.container else self.key


class TaskProcess(NamedTuple):
    """A GPU process that belongs to a task."""

    pid: int
    started: int
    """When it started, in the kernel's ticks since boot: with `pid` its identity."""
    memory_mib: int | None
    """On this GPU; None: the driver does not tell."""
    kind: str
    """As `GpuProcess.kind`."""


class StrayProcess(NamedTuple):
    """A GPU process that belongs to nobody we know."""

    pid: int
    memory_mib: int | None
    kind: str
    reason: str
    """Why, in a few words that stay the same from pass to pass."""


class MpsServer(NamedTuple):
    """The server of one of our MPS daemons, which runs the kernels of all tasks of its GPU."""

    pid: int
    memory_mib: int | None
    """What it needs itself; that of its clients is listed as theirs."""


class Share(NamedTuple):
    """What one task holds and uses of one GPU; a task on two GPUs has two."""

    task: Task
    gpu_uuid: str
    vgpu_ids: tuple[str, ...]
    """Its vGPUs of this GPU, by number; never empty."""
    processes: tuple[TaskProcess, ...]
    """By pid."""
    used_mib: int | None
    """All its processes on this GPU together; None: of one of them it is not known."""
    budget_mib: int | None
    """What its vGPUs of this GPU entitle it to together; None: the GPU's memory is not known."""
    doubt: str = ""
    """Why the budget may not be what the task was promised; empty: it is."""
    limit_mib: int | None = None
    """What it may use while the GPU has room, where that is more than the budget."""

    @property
    def certain(self) -> bool:
        """Whether both the task and its budget are beyond doubt."""
        return self.task.certain and not self.doubt


class VgpuUse(NamedTuple):
    """One vGPU's part of its task's use.

    Memory and processes of a task with several vGPUs of a GPU are divided evenly among them, the
    first ones getting what is left over: so the parts add up to what the task uses.
    """

    used_mib: int | None
    budget_mib: int | None
    processes: int
    share: Share | None = None
    """Its holder; None: no task whose processes use the GPU claims it."""

    @property
    def figures(self) -> tuple[int | None, int | None, int]:
        """What it shows, without its holder."""
        return self[:3]


class GpuUse(NamedTuple):
    """The use of one GPU or MIG device."""

    uuid: str
    taken_at: float
    """When the driver listed the processes, by the clock of the pass (monotonic seconds)."""
    vgpus: Mapping[str, VgpuUse]
    """By id, every published vGPU whose use is known; one in dispute is left out."""
    shares: tuple[Share, ...]
    """By the task's key."""
    strays: tuple[StrayProcess, ...]
    """By pid; unattributed."""
    disputed: tuple[str, ...] = ()
    """Ids that more than one live task claims: they belong to nobody."""
    servers: tuple[MpsServer, ...] = ()
    """By pid; no task's, and no strays."""
    memory_mib: int | None = None
    """The GPU's own; None: not known."""

    @property
    def free_mib(self) -> int | None:
        """What no process uses; None: of one of them, or of the GPU, it is not known."""
        used = [share.used_mib for share in self.shares]
        used += [stray.memory_mib for stray in self.strays]
        used += [server.memory_mib for server in self.servers]
        if self.memory_mib is None or None in used:
            return None
        return self.memory_mib - sum(mib for mib in used if mib is not None)

    @property
    def processes(self) -> int:
        """How many processes use the GPU, of tasks and others."""
        own = sum(len(share.processes) for share in self.shares)
        return own + len(self.strays) + len(self.servers)


class Usage(NamedTuple):
    """What one pass found on all GPUs whose processes are known."""

    taken_at: datetime | None = None
    """In UTC; None: no pass has been made yet."""
    gpus: Mapping[str, GpuUse] = {}
    """By UUID. A GPU whose processes the driver does not tell is left out."""

    @property
    def shares(self) -> tuple[Share, ...]:
        """The shares of all GPUs."""
        return tuple(share for use in self.gpus.values() for share in use.shares)

    @property
    def strays(self) -> int:
        """How many GPU processes belong to nobody we know; one on two GPUs counts twice."""
        return sum(len(use.strays) for use in self.gpus.values())


UNKNOWN = Usage()
"""Before the first pass."""


def divided(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that differ by at most one, the larger ones first."""
    each, left_over = divmod(total, parts)
    return [each + 1] * left_over + [each] * (parts - left_over)


def parts_of(share: Share, budget_mib: int | None) -> Sequence[tuple[str, VgpuUse]]:
    """The share as each of its vGPUs shows it; `budget_mib` is that of one vGPU."""
    count = len(share.vgpu_ids)
    processes = divided(len(share.processes), count)
    used: Sequence[int | None] = [None] * count
    if share.used_mib is not None:
        used = divided(share.used_mib, count)
    return [
        (vgpu_id, VgpuUse(mib, budget_mib, number, share))
        for vgpu_id, mib, number in zip(share.vgpu_ids, used, processes, strict=True)
    ]
