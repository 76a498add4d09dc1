# SPDX-License-Identifier: MPL-2.0
"""The thread that attributes GPU processes to tasks, once per interval for all readers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from nomad_nvidia_vgpu.periodic import PeriodicThread
from nomad_nvidia_vgpu.state.catalog import Catalog
from nomad_nvidia_vgpu.state.usage import GpuUse, Task, TaskProcess

if TYPE_CHECKING:
    from nomad_nvidia_vgpu.tasks.attribution import Attributor
    from nomad_nvidia_vgpu.tasks.guard import Guard


class Tools(NamedTuple):
    """What the passes are made with."""

    attributor: Attributor
    guard: Guard


class Accountant:
    """Makes passes over the lists of processes in a catalog, and puts there what they find."""

    def __init__(self, catalog: Catalog, tools: Callable[[], Tools], interval_s: float) -> None:
        """`interval_s` is the time before the first pass, and between two.

        `tools` is called at the first pass; should it fail, at the next.
        """
        self._catalog = catalog
        self._make_tools = tools
        self._tools: Tools | None = None
        self._last: dict[str, GpuUse] = {}
        self.after_pass: Callable[[], None] = lambda: None
        """Called when a pass has been made."""
        self._thread = PeriodicThread(
            "usage",
            self.look,
            interval_s,
            failing="cannot attribute GPU processes to tasks",
            at_once=False,
        )

    def start(self, within: AbstractContextManager[None]) -> None:
        """Starts the thread, a daemon, which makes its passes within this context."""
        self._thread.start(within)

    def stop(self) -> None:
        """Tells the thread to end."""
        self._thread.stop()

    def last_use(self, gpu_uuid: str) -> GpuUse | None:
        """The newest use of a GPU that is known, however old: a lost GPU lists no processes."""
        return self._last.get(gpu_uuid)

    def still_belongs(self, process: TaskProcess, task: Task) -> bool:
        """Whether this very process, which a pass found, still runs as part of this task."""
        return self._tools is not None and self._tools.attributor.still_belongs(process, task)

    def first_process(self, task: Task, gpu_uuid: str) -> TaskProcess | None:
        """The first process of a task that still claims this GPU, whether or not it is listed."""
        return self._tools and self._tools.attributor.first_process(task, gpu_uuid)

    def look(self) -> None:
        """Makes one pass."""
        if self._tools is None:
            self._tools = self._make_tools()
        usage = self._tools.attributor.attribute(
            self._catalog.edition.plan,
            self._catalog.listings,
            self._catalog.now(),
            datetime.now(tz=timezone.utc),
        )
        self._last.update(usage.gpus)
        self._catalog.take_usage(usage)
        self._tools.guard.look(usage)
        self._catalog.take_guard_counts(self._tools.guard.counts)
        self.after_pass()
