# SPDX-License-Identifier: MPL-2.0
"""Ends the GPU processes of tasks on a GPU that will not work again without a reset or a reboot.

Nomad never evicts tasks from an unhealthy device; a task whose processes end is placed again,
elsewhere. Only with `health { end_tasks = true }`, and only processes that are attributed to a
task beyond doubt.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from nomad_nvidia_vgpu.gpu.model import Gpu, GpuProcess, GpuSample, Inventory, XidEvent
from nomad_nvidia_vgpu.gpu.sink import Sink
from nomad_nvidia_vgpu.state.usage import GpuUse, Task, TaskProcess
from nomad_nvidia_vgpu.tasks.ending import GRACE_S, Belongs, end


class TaskEnder:
    """A `Sink` in front of another: ends tasks when a GPU turns gravely unhealthy, once."""

    def __init__(
        self,
        behind: Sink,
        last_use: Callable[[str], GpuUse | None],
        belongs: Belongs,
        grace_s: float = GRACE_S,
    ) -> None:
        """Passes everything on to `behind`; `last_use` gives the last known use of a GPU, by UUID."""
        self._behind = behind
        self._last_use = last_use
        self._belongs = belongs
        self._grace_s = grace_s
        self._grave: frozenset[str] = frozenset()

    def take_inventory(self, inventory: Inventory, *, complete: bool) -> None:
        """Passes it on, and starts ending the tasks of each GPU that has just become grave."""
        self._behind.take_inventory(inventory, complete=complete)
        grave = {seen.gpu.uuid: seen for seen in inventory.gpus if seen.health.grave}
        new = [seen for uuid, seen in grave.items() if uuid not in self._grave]
        self._grave = frozenset(grave)
        for seen in new:
            # Neither NVML nor a task that takes its time may hold up the watch.
            threading.Thread(
                target=self._end_tasks, args=(seen.gpu, seen.health.reason), daemon=True
            ).start()

    def take_samples(self, samples: Mapping[str, GpuSample]) -> None:
        """Passes them on."""
        self._behind.take_samples(samples)

    def take_processes(self, processes: Mapping[str, Sequence[GpuProcess]]) -> None:
        """Passes them on."""
        self._behind.take_processes(processes)

    def take_event(self, event: XidEvent) -> None:
        """Passes it on."""
        self._behind.take_event(event)

    def _end_tasks(self, gpu: Gpu, reason: str) -> None:
        end(_certain(self._last_use(gpu.uuid)), self._belongs, reason, self._grace_s)


def _certain(use: GpuUse | None) -> list[tuple[TaskProcess, Task]]:
    """The processes that belong to tasks beyond doubt."""
    shares = use.shares if use is not None else ()
    return [(p, share.task) for share in shares if share.task.certain for p in share.processes]
