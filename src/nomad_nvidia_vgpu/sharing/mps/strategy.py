# SPDX-License-Identifier: MPL-2.0
"""MPS: NVIDIA's server runs the tasks of a GPU together and holds each process to its limits.

The limits follow the grant: a process of a task with k of N vGPUs gets k/N of the memory and
k/N of the SMs. A client can only lower what its server's defaults give it, so the defaults are
the largest grant there may be, and the task's environment lowers them to its own
(docs/internals/mps.md#limits).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import NOTHING, Problem, RequestError
from nomad_nvidia_vgpu.gpu.model import ComputeModes, Gpu
from nomad_nvidia_vgpu.sharing.enforcement import Enforcement
from nomad_nvidia_vgpu.sharing.grant import Delivery, Grant, Mount
from nomad_nvidia_vgpu.sharing.mps.layout import (
    MEMORY_ENV,
    PERCENTAGE_ENV,
    PIPE_ENV,
    PRIORITY_ENV,
    pipe_directory,
)
from nomad_nvidia_vgpu.sharing.mps.limits import ORDINAL, PRIORITIES, largest_grant, limits_of
from nomad_nvidia_vgpu.sharing.policy import decide
from nomad_nvidia_vgpu.sharing.time_slicing import undivided_isolation

if TYPE_CHECKING:
    from nomad_nvidia_vgpu.sharing.mps.enforcer import MpsEnforcer


_VOLTA = 7.0
"""The first compute capability whose MPS has limits and keeps the address spaces apart."""
_CLIENTS_VOLTA, _CLIENTS_R590 = 48, 60
_CUDA_OF_R590 = 13.1


class Mps:
    """Sharing that NVIDIA's MPS server enforces for each process; a `Strategy`."""

    enforced = True
    one_gpu_per_group = True  # a process has one MPS server

    def problem(self, gpu: Gpu, vgpus: int) -> Problem:
        """A GPU without limits, or with fewer clients than vGPUs."""
        capability = gpu.cuda_compute_capability
        if capability is not None and capability < _VOLTA:
            return Problem(
                (
                    f"{gpu.uuid} has compute capability {capability:.1f}, and MPS has limits from {_VOLTA:.1f}"
                    " (Volta) on"
                ),
                'set sharing to "time-slicing"',
            )
        clients = max_clients(gpu)
        if vgpus > clients:
            return Problem(
                (
                    f"{gpu.uuid} is divided into {vgpus} vGPUs, and its MPS server takes {clients}"
                    " clients"
                ),
                f"set vgpus to at most {clients}",
            )
        return NOTHING

    def weakness(self, gpu: Gpu, vgpus: int) -> Problem:  # noqa: ARG002
        """Nothing that is not read back from the server."""
        return NOTHING

    def expected(self, config: PluginConfig, gpu: Gpu) -> Enforcement:
        """Limits hold memory where there are any, and where no process can run beside the server."""
        limited = limits_of(config.mps, Grant(gpu, 1, 1)).memory_mib is not None
        # A MIG device has no compute mode, so nothing keeps a process from running beside.
        exclusive = config.mps.exclusive_process and gpu.parent_uuid is None
        return Enforcement(holds_memory=limited and exclusive)

    def memory_isolation(self, gpu: Gpu, vgpus: int, enforcement: Enforcement) -> str:
        """`mps` while the limits hold, unless the hardware alone holds more."""
        alone = undivided_isolation(gpu, vgpus)
        return "mps" if alone == "none" and enforcement.holds_memory else alone

    def deliver(self, config: PluginConfig, grant: Grant) -> Delivery:
        """The way to the GPU's MPS server, and the limits of this grant."""
        most = largest_grant(config.mps, grant.vgpus)
        if grant.granted > most:
            raise RequestError(
                (
                    f"cannot reserve {grant.granted} vGPUs of {grant.gpu.uuid}: this node gives a task"
                    f" at most {most} (mps.max_vgpus_per_task)"
                ),
                "lower count in the job's device block, or raise the option",
            )
        pipe = pipe_directory(config.mps, grant.gpu.uuid)
        limits = limits_of(config.mps, grant)
        envs = {PIPE_ENV: pipe}
        if limits.memory_mib is not None:
            # One key that names a GPU the task does not see would switch all limits off.
            envs[MEMORY_ENV] = f"{ORDINAL}={limits.memory_mib}M"
        if limits.thread_percentage is not None:
            envs[PERCENTAGE_ENV] = str(limits.thread_percentage)
        priority = decide(config, grant.gpu).mps_priority
        if priority != "normal":
            envs[PRIORITY_ENV] = str(PRIORITIES[priority])
        # With device files there are mounts anyway, and so all that mounts cost in Nomad.
        mounted = config.mps.mount or config.device_nodes == "cdi"
        # A simulated GPU has no daemon, and a driver fails on a mount of what is not there.
        there = mounted and not grant.gpu.simulated
        mounts = (Mount(pipe, pipe, read_only=False),) if there else ()
        return Delivery(envs, mounts)

    def enforcer(self, config: PluginConfig, modes: ComputeModes) -> MpsEnforcer | None:
        """One MPS control daemon for each GPU; None where MPS is not used and never was."""
        if config.simulate:
            return None
        # Not pathlib, which every start would pay for.
        if not config.shares_by("mps") and not os.path.isdir(config.mps.root):  # noqa: PTH112
            return None
        # Imported late: of no use on a node that shares by time-slicing.
        from nomad_nvidia_vgpu.sharing.mps.enforcer import MpsEnforcer  # noqa: PLC0415

        def priority_of(gpu: Gpu) -> int:
            return PRIORITIES[decide(config, gpu).mps_priority]

        return MpsEnforcer(config.mps, modes, priority_of)


def max_clients(gpu: Gpu) -> int:
    """How many processes one MPS server takes."""
    cuda = gpu.cuda_driver_version
    return _CLIENTS_R590 if cuda is not None and cuda >= _CUDA_OF_R590 else _CLIENTS_VOLTA
