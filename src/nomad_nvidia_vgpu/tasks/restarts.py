# SPDX-License-Identifier: MPL-2.0
"""Finds a task again after Nomad has started it again, whether or not the driver lists it.

A lost GPU lists no processes, and Nomad starts tasks again in place, in the same cgroup.
"""

from __future__ import annotations

from collections.abc import Iterable

from nomad_nvidia_vgpu.host.cgroups import Members, TaskCgroup
from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.state.usage import Task, TaskProcess
from nomad_nvidia_vgpu.tasks.claims import VARIABLES, TooLargeError, claim_of

_MOST_REMEMBERED = 1024


class Restarts:
    """Remembers in which cgroups tasks were seen, the newest of them."""

    def __init__(self, proc: Proc, members: Members) -> None:
        """Has seen nobody."""
        self._proc = proc
        self._members = members
        self._cgroups: dict[str, TaskCgroup] = {}

    def saw(self, cgroups: Iterable[TaskCgroup]) -> None:
        """Processes of tasks in these cgroups use GPUs."""
        for cgroup in cgroups:
            self._cgroups.pop(cgroup.key, None)
            self._cgroups[cgroup.key] = cgroup
        for key in list(self._cgroups)[:-_MOST_REMEMBERED]:
            del self._cgroups[key]

    def first_process(self, task: Task, gpu_uuid: str) -> TaskProcess | None:
        """The oldest process of this task, if its environment claims a vGPU of this GPU."""
        cgroup = self._cgroups.get(task.key)
        oldest = None if cgroup is None else self._members.oldest(cgroup)
        if oldest is None:
            return None
        environment = self._proc.environment(oldest.pid, VARIABLES) or {}
        try:
            claim = claim_of(environment, cgroup, certain=True)
        except TooLargeError:
            return None
        if claim is None or not claim.on(gpu_uuid) or not self._proc.lives(oldest):
            return None
        return TaskProcess(oldest.pid, oldest.started, None, "compute")
