# SPDX-License-Identifier: MPL-2.0
"""Real processes that sleep until they are ended, and uses of GPUs that are made of them."""

from __future__ import annotations

import subprocess
import sys

from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.state.usage import GpuUse, Share, Task, TaskProcess

POLITE = "signal.signal(signal.SIGTERM, signal.SIG_DFL)"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
TASK = Task("freezer:/nomad/a.b", certain=True, allocation="alloc", name="task")
PROC = Proc()


class Sleepers:
    """Processes that run until they are ended."""

    def __init__(self) -> None:
        """Runs none yet."""
        self.started: list[subprocess.Popen[str]] = []

    def start(self, manner: str = POLITE) -> subprocess.Popen[str]:
        """Starts one, and waits until it has its manner."""
        code = f"import signal, threading; {manner}; print(flush=True); threading.Event().wait()"
        process = subprocess.Popen([sys.executable, "-Sc", code], stdout=subprocess.PIPE, text=True)
        self.started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def end(self) -> None:
        """Ends those that are left."""
        for process in self.started:
            process.kill()
            process.communicate()


def as_seen(process: subprocess.Popen[str], memory_mib: int | None = 100) -> TaskProcess:
    """Gives a process as a pass finds it."""
    standing = PROC.standing(process.pid)
    assert standing is not None
    return TaskProcess(process.pid, standing.identity.started, memory_mib, "compute")


def share(
    *processes: TaskProcess,
    task: Task = TASK,
    gpu: str = "GPU-a",
    budget_mib: int | None = 1000,
    doubt: str = "",
) -> Share:
    """Gives the share of a task that has these processes."""
    memory = [process.memory_mib for process in processes]
    used = None if None in memory else sum(mib for mib in memory if mib is not None)
    return Share(task, gpu, (f"{gpu}-0",), processes, used, budget_mib, doubt)


def use_of(*shares: Share, gpu: str = "GPU-a", taken_at: float = 0.0) -> GpuUse:
    """Gives the use of one GPU."""
    return GpuUse(gpu, taken_at, {}, shares, ())


def same_process(process: TaskProcess, task: Task) -> bool:
    """Whether it is still the process that was seen, whatever its cgroup."""
    standing = PROC.standing(process.pid)
    return standing is not None and standing.identity.started == process.started
