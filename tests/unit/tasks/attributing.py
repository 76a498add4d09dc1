# SPDX-License-Identifier: MPL-2.0
"""A node with tasks on made GPUs, and passes over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.model import Gpu, GpuProcess
from nomad_nvidia_vgpu.sharing.plan import make_plan
from nomad_nvidia_vgpu.state.catalog import Listing
from nomad_nvidia_vgpu.state.usage import GpuUse, Usage
from nomad_nvidia_vgpu.tasks.attribution import Attributor
from unit.example_gpus import NOON, gpu, inventory
from unit.host.made_proc import HOST_PIDS, MadeProc

A, B = gpu("GPU-a", memory_mib=4000), gpu("GPU-b", memory_mib=4000)
VGPUS = 4
"""Each of 1000 MiB."""


def claims(*ids: str, **more: str) -> dict[str, str]:
    """Gives the environment of a task that claims these vGPUs."""
    return {"NVIDIA_VGPU_IDS": ",".join(ids), **more}


class Node:
    """Processes, what the driver says of them, and who finds out whose they are."""

    def __init__(
        self,
        root: Path,
        *gpus: Gpu,
        vgpus: int = VGPUS,
        pid_namespace: str = HOST_PIDS,
        own: str = "0::/\n",
    ) -> None:
        """Nobody uses these GPUs yet."""
        self.made = MadeProc(root, pid_namespace=pid_namespace, own=own)
        self.now = 1000.0
        self.attributor = Attributor(self.made.proc, str(root / "mps"))
        self.mps_root = root / "mps"
        self._plan = make_plan(PluginConfig(vgpus=vgpus), inventory(*(gpus or (A, B))))
        self._listings: dict[str, Listing] = {}

    def use(self, gpu_uuid: str, uses: Mapping[int, int | None], kind: str = "compute") -> None:
        """Lets the driver list these pids with their MiB."""
        listed: Sequence[GpuProcess] = [GpuProcess(pid, mib, kind) for pid, mib in uses.items()]
        self._listings[gpu_uuid] = Listing(self.now, listed)

    def add_daemon(self, pid: int, *, user: int = 0, name: str = "nvidia-cuda-mps-control") -> None:
        """Starts the MPS daemon of GPU-a, as its lock says."""
        self.made.add(pid, name=name, user=user)
        pipe = self.mps_root / "GPU-a/pipe"
        pipe.mkdir(parents=True)
        (pipe / "control_lock").write_text(f"{pid}\n")

    def look(self) -> Usage:
        """Makes a pass."""
        return self.attributor.attribute(self._plan, self._listings, self.now, NOON)

    def on(self, gpu_uuid: str = "GPU-a") -> GpuUse:
        """Makes a pass, and gives what it found on one GPU."""
        return self.look().gpus[gpu_uuid]


def strays(use: GpuUse) -> dict[int, str]:
    """Gives why each process is nobody's."""
    return {stray.pid: stray.reason for stray in use.strays}


def used(use: GpuUse) -> dict[str, tuple[int | None, int | None, int]]:
    """Gives what each vGPU shows."""
    return {vgpu_id: own.figures for vgpu_id, own in use.vgpus.items()}
