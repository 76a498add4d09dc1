# SPDX-License-Identifier: MPL-2.0
"""Ends the GPU processes of tasks on a GPU that will not work again without a reset or a reboot.

Nomad never evicts tasks from an unhealthy device; a task whose processes end is placed again,
elsewhere. Only with `health { end_tasks = true }`, and only processes that are attributed to a
Nomad task beyond doubt: who they are is for `Attribution` to say.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from nomad_nvidia_vgpu.gpu.model import Gpu, GpuProcess, GpuSample, Inventory
from nomad_nvidia_vgpu.gpu.watch import Sink

GRACE_S = 10.0
"""Between SIGTERM and SIGKILL."""

_log = logging.getLogger(__name__)


class TaskProcess(NamedTuple):
    """A process of a Nomad task that uses a GPU."""

    pid: int
    pidfd: int
    """Opened before the attribution was checked, so that it cannot mean another process."""
    task: str
    """Allocation and task, for the log."""


class Attribution(Protocol):
    """Knows which process belongs to which task."""

    def processes_on(self, gpu: Gpu) -> Sequence[TaskProcess]:
        """The processes on `gpu` that belong to Nomad tasks beyond doubt; ours to close."""


class NobodyAttributed:
    """Attributes nothing: what is not known beyond doubt is never ended."""

    def processes_on(self, gpu: Gpu) -> Sequence[TaskProcess]:  # noqa: ARG002
        """None."""
        return ()


class TaskEnder:
    """A `Sink` in front of another: ends tasks when a GPU turns gravely unhealthy, once."""

    def __init__(self, behind: Sink, attribution: Attribution, grace_s: float = GRACE_S) -> None:
        """Passes everything on to `behind`."""
        self._behind = behind
        self._attribution = attribution
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

    def _end_tasks(self, gpu: Gpu, reason: str) -> None:
        processes = self._attribution.processes_on(gpu)
        try:
            for process in processes:
                _log.warning("ending pid %d of %s: %s", process.pid, process.task, reason)
                _signal(process, signal.SIGTERM)
            for process in _still_running(processes, self._grace_s):
                _log.warning("killing pid %d of %s", process.pid, process.task)
                _signal(process, signal.SIGKILL)
        finally:
            for process in processes:
                os.close(process.pidfd)


def _signal(process: TaskProcess, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        try:
            signal.pidfd_send_signal(process.pidfd, number)
        except PermissionError as error:
            _log.warning("pid %d of %s cannot be ended: %s", process.pid, process.task, error)


def _still_running(processes: Sequence[TaskProcess], grace_s: float) -> list[TaskProcess]:
    """Those that have not ended after the grace."""
    ended = threading.Event()
    poller = select.poll()
    running = {process.pidfd: process for process in processes}
    for pidfd in running:
        poller.register(pidfd, select.POLLIN)
    timer = threading.Timer(grace_s, ended.set)
    timer.start()
    while running and not ended.is_set():
        for pidfd, _event in poller.poll(200):
            poller.unregister(pidfd)
            del running[pidfd]
    timer.cancel()
    return list(running.values())
