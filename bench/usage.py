# SPDX-License-Identifier: MPL-2.0
"""What it costs to find out who uses what: one pass over the processes of a busy node."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

from bench.figures import Effort, Figure
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device.stats import group_stats
from nomad_nvidia_vgpu.gpu.model import GpuProcess, GpuSample
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus
from nomad_nvidia_vgpu.gpu.simulated import SimulatedSource
from nomad_nvidia_vgpu.gpu.survey import survey
from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.rpc import device_messages as messages
from nomad_nvidia_vgpu.sharing.plan import Plan, make_plan
from nomad_nvidia_vgpu.state.catalog import Listing
from nomad_nvidia_vgpu.state.usage import Usage
from nomad_nvidia_vgpu.tasks.attribution import Attributor

GPUS = 8
VGPUS = 16
PROCESSES = 500
PASS_BUDGET_MS = 40.0  # of the two seconds between two passes
MESSAGE_BUDGET_MS = 5.0


class _Tasks(Proc):
    """Real processes, said to be in cgroups as Nomad makes them: one task per vGPU."""

    def __init__(self, ids: list[str], root: Path) -> None:
        super().__init__()
        self._ids = ids
        self._root = root
        self._paths: dict[int, str] = {}

    @contextmanager
    def running(self) -> Iterator[Mapping[str, Listing]]:
        """What the driver would list, of as many processes as there are to be."""
        started: list[subprocess.Popen[bytes]] = []
        listed: dict[str, list[GpuProcess]] = {}
        try:
            for number in range(PROCESSES):
                vgpu = self._ids[number % len(self._ids)]
                process = subprocess.Popen(["sleep", "3600"], env={"NVIDIA_VGPU_IDS": vgpu})
                started.append(process)
                self._enter(process.pid, vgpu)
                gpu = vgpu.rpartition("-")[0]
                # Each uses another amount, so that no two vGPUs show the same.
                listed.setdefault(gpu, []).append(GpuProcess(process.pid, number, "compute"))
            yield {gpu: Listing(0.0, processes) for gpu, processes in listed.items()}
        finally:
            for process in started:
                process.kill()
            for process in started:
                process.wait()

    def cgroups(self, pid: int | str) -> str | None:
        """The same work as ever, and what is made of it."""
        real = super().cgroups(pid)
        path = self._paths.get(pid) if isinstance(pid, int) else None
        return real if path is None else f"0::{path}\n"

    def mounts(self) -> str:
        """Where the made cgroups are."""
        return f"1 2 0:3 / {self._root} rw - cgroup2 cgroup2 rw\n"

    def _enter(self, pid: int, vgpu: str) -> None:
        allocation = f"00000000-0000-0000-0000-{self._ids.index(vgpu):012d}"
        path = self._paths[pid] = f"/nomad.slice/share.slice/{allocation}.train.scope"
        members = Path(f"{self._root}{path}/cgroup.procs")
        members.parent.mkdir(parents=True, exist_ok=True)
        with members.open("a") as listed:
            listed.write(f"{pid}\n")


def attribution(effort: Effort) -> list[Figure]:
    """Processor time of the first pass, of those after it, and of a message with their result."""
    plan, samples = _plan()
    ids = [str(vgpu) for shared in plan.by_uuid().values() for vgpu in shared.ids()]
    with tempfile.TemporaryDirectory() as root:
        tasks = _Tasks(ids, Path(root))
        with tasks.running() as listings:
            attributor = Attributor(tasks, f"{root}/mps")
            times, usage = [], Usage()
            now = datetime.now(tz=timezone.utc)
            for _ in range(effort.passes):
                began = time.process_time()
                usage = attributor.attribute(plan, listings, 0.0, now)
                times.append((time.process_time() - began) * 1e3)
    attributed = sum(len(share.processes) for share in usage.shares)
    assert attributed == PROCESSES, f"{attributed} of {PROCESSES} processes were attributed"
    built = []
    for _ in range(effort.messages):
        began = time.thread_time()
        messages.stats(group_stats(plan, "v", samples, now, usage))
        built.append((time.thread_time() - began) * 1e3)
    first, *rest = times
    size = f"who uses what, {GPUS} GPUs, {GPUS * VGPUS} vGPUs, {PROCESSES} processes"
    return [
        Figure(f"{size}: a pass", median(rest), "ms CPU", PASS_BUDGET_MS, samples=(*rest,)),
        Figure(f"{size}: the first pass", first, "ms CPU"),
        Figure(
            f"stats message of {GPUS * VGPUS} used vGPUs, built alone",
            median(built),
            "ms CPU",
            MESSAGE_BUDGET_MS,
            samples=(*built,),
        ),
    ]


def _plan() -> tuple[Plan, dict[str, GpuSample]]:
    found = survey(SimulatedSource([SimulatedGpus("a100-sxm4-80gb", GPUS)]))
    return make_plan(PluginConfig(vgpus=VGPUS), found.inventory), dict(found.samples)
