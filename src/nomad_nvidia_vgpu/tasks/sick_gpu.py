# SPDX-License-Identifier: MPL-2.0
"""Ends the GPU processes of tasks on a GPU that will not work again without a reset or a reboot.

Nomad never evicts tasks from an unhealthy device; a task whose processes end is placed again,
elsewhere. Only with `health { end_tasks = true }`, and only processes that are attributed to a
task beyond doubt.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from nomad_nvidia_vgpu.gpu.model import (
    GpuProcess,
    GpuSample,
    Inventory,
    SeenGpu,
    XidEvent,
)
from nomad_nvidia_vgpu.gpu.sink import Sink
from nomad_nvidia_vgpu.state.usage import GpuUse, Task, TaskProcess
from nomad_nvidia_vgpu.tasks.ending import GRACE_S, Belongs, end


class TaskEnder:
    """A `Sink` in front of another: ends tasks for as long as their GPU is gravely unhealthy.

    Not once: the fault may be older than we are, so that nobody is known when it is seen; and
    Nomad starts a task again in place, on the dead GPU, as often as its `restart` block says.
    """

    def __init__(
        self,
        behind: Sink,
        last_use: Callable[[str], GpuUse | None],
        belongs: Belongs,
        grace_s: float = GRACE_S,
        *,
        returned: Callable[[Task, str], TaskProcess | None] = lambda _task, _gpu: None,
    ) -> None:
        """Passes everything on to `behind`; `last_use` knows who used a GPU, by UUID.

        `returned` finds the first process of a task that still claims this GPU: a lost GPU lists
        no processes.
        """
        self._behind = behind
        self._last_use = last_use
        self._belongs = belongs
        self._grace_s = grace_s
        self._returned = returned
        self._lock = threading.Lock()  # guards what follows
        self._grave: dict[str, SeenGpu] = {}
        self._ended: dict[str, dict[str, Task]] = {}
        """The tasks that were ended for the fault of each GPU, by their keys."""
        self._tried: dict[str, set[tuple[int, int]]] = {}
        """The processes that were: by pid and start, each once."""
        self._busy: set[str] = set()

    def take_inventory(self, inventory: Inventory, *, complete: bool) -> None:
        """Passes it on, and starts ending the tasks of each GPU that is grave."""
        self._behind.take_inventory(inventory, complete=complete)
        with self._lock:
            self._grave = {seen.gpu.uuid: seen for seen in inventory.gpus if seen.health.grave}
            for uuid in self._ended.keys() - self._grave.keys():
                del self._ended[uuid], self._tried[uuid]
        self.again()

    def again(self) -> None:
        """Ends who uses a grave GPU now; called after each pass over the processes."""
        with self._lock:
            due = [seen for uuid, seen in self._grave.items() if uuid not in self._busy]
        for seen in due:
            doomed = self._doomed(seen.gpu.uuid)
            if not doomed:
                continue
            with self._lock:
                self._busy.add(seen.gpu.uuid)
            # Neither NVML nor a task that takes its time may hold up the watch.
            threading.Thread(
                target=self._end, args=(seen, doomed), name="sick-gpu", daemon=True
            ).start()

    def _doomed(self, uuid: str) -> list[tuple[TaskProcess, Task]]:
        """The processes that belong to tasks beyond doubt, and were not ended yet."""
        use = self._last_use(uuid)
        tasks = {s.task.key: s.task for s in (use.shares if use else ()) if s.task.certain}
        found = [
            (process, share.task)
            for share in (use.shares if use else ())
            if share.task.certain
            for process in share.processes
        ]
        with self._lock:
            tried = self._tried.setdefault(uuid, set())
            ended = self._ended.setdefault(uuid, {})
            before = list(ended.values())
            ended.update(tasks)
        again = ((self._returned(task, uuid), task) for task in before)
        found += [(process, task) for process, task in again if process is not None]
        return [
            (process, task)
            for process, task in found
            if (process.pid, process.started) not in tried and self._belongs(process, task)
        ]

    def _end(self, seen: SeenGpu, doomed: list[tuple[TaskProcess, Task]]) -> None:
        uuid = seen.gpu.uuid
        try:
            with self._lock:
                if uuid not in self._grave:
                    return
                tried = self._tried.setdefault(uuid, set())
                tried.update((process.pid, process.started) for process, _ in doomed)
            end(doomed, self._belongs, seen.health.reason, self._grace_s)
        finally:
            with self._lock:
                self._busy.discard(uuid)

    def take_samples(self, samples: Mapping[str, GpuSample]) -> None:
        """Passes them on."""
        self._behind.take_samples(samples)

    def take_processes(self, processes: Mapping[str, Sequence[GpuProcess]]) -> None:
        """Passes them on."""
        self._behind.take_processes(processes)

    def take_event(self, event: XidEvent) -> None:
        """Passes it on."""
        self._behind.take_event(event)
