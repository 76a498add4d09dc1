# SPDX-License-Identifier: MPL-2.0
"""MPS: NVIDIA's server runs the tasks of a GPU together and holds each process to its limits.

The limits follow the grant: a process of a task with k of N vGPUs gets k/N of the memory and
k/N of the SMs. A client can only lower what its server's defaults give it, so the defaults are
the largest grant there may be, and the task's environment lowers them to its own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from nomad_nvidia_vgpu.config.options import MpsConfig, PluginConfig
from nomad_nvidia_vgpu.errors import RequestError
from nomad_nvidia_vgpu.gpu.model import ComputeModes, Gpu
from nomad_nvidia_vgpu.sharing.enforcement import Enforcement
from nomad_nvidia_vgpu.sharing.grant import Delivery, Grant, Mount, share_of
from nomad_nvidia_vgpu.sharing.time_slicing import undivided_isolation

if TYPE_CHECKING:
    from nomad_nvidia_vgpu.sharing.mps_enforcer import MpsEnforcer

PIPE_ENV = "CUDA_MPS_PIPE_DIRECTORY"
MEMORY_ENV = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
PERCENTAGE_ENV = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"

ORDINAL = "0"
"""The GPU as its MPS server and the server's clients number it: they see no other."""

_VOLTA = 7.0
"""The first compute capability whose MPS has limits and keeps the address spaces apart."""
_CLIENTS_VOLTA, _CLIENTS_R590 = 48, 60
_CUDA_OF_R590 = 13.1


class Limits(NamedTuple):
    """What one process may take of a GPU; None: nothing is limited."""

    memory_mib: int | None
    thread_percentage: int | None
    """Of the SMs; from 1 to 100."""


class Mps:
    """Sharing that NVIDIA's MPS server enforces for each process; a `Strategy`."""

    enforced = True
    one_gpu_per_group = True  # a process has one MPS server

    def problem(self, gpu: Gpu, vgpus: int) -> str:
        """A GPU without limits, or with fewer clients than vGPUs."""
        capability = gpu.cuda_compute_capability
        if capability is not None and capability < _VOLTA:
            return (
                f"{gpu.uuid} has compute capability {capability:.1f}, and MPS has limits from"
                f' {_VOLTA:.1f} (Volta) on: set sharing to "time-slicing"'
            )
        clients = max_clients(gpu)
        if vgpus > clients:
            return (
                f"{gpu.uuid} is divided into {vgpus} vGPUs, and its MPS server takes {clients}"
                f" clients: set vgpus to at most {clients}"
            )
        return ""

    def weakness(self, gpu: Gpu, vgpus: int) -> str:  # noqa: ARG002
        """Nothing that is not read back from the server."""
        return ""

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
                f"cannot reserve {grant.granted} vGPUs of {grant.gpu.uuid}: this node gives a task"
                f" at most {most} (mps.max_vgpus_per_task): lower count in the job's device block,"
                " or raise the option"
            )
        pipe = f"{directory_of(config.mps, grant.gpu.uuid)}/pipe"
        limits = limits_of(config.mps, grant)
        envs = {PIPE_ENV: pipe}
        if limits.memory_mib is not None:
            # One key that names a GPU the task does not see would switch all limits off.
            envs[MEMORY_ENV] = f"{ORDINAL}={limits.memory_mib}M"
        if limits.thread_percentage is not None:
            envs[PERCENTAGE_ENV] = str(limits.thread_percentage)
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
        from nomad_nvidia_vgpu.sharing.mps_enforcer import MpsEnforcer  # noqa: PLC0415

        return MpsEnforcer(config.mps, modes)


def max_clients(gpu: Gpu) -> int:
    """How many processes one MPS server takes."""
    cuda = gpu.cuda_driver_version
    return _CLIENTS_R590 if cuda is not None and cuda >= _CUDA_OF_R590 else _CLIENTS_VOLTA


def largest_grant(config: MpsConfig, vgpus: int) -> int:
    """How many of a GPU's vGPUs one task may have."""
    return min(config.max_vgpus_per_task or vgpus, vgpus)


def limits_of(config: MpsConfig, grant: Grant) -> Limits:
    """The limits of each process of a task with this grant, rounded down."""
    memory_mib = grant.gpu.own_memory_mib
    if not config.memory_limit or memory_mib is None or grant.gpu.unified_memory:
        memory_mib = None
    else:
        memory_mib = share_of(memory_mib, grant.granted, grant.vgpus)
    percentage = share_of(100, grant.granted, grant.vgpus) if config.compute_limit else None
    return Limits(memory_mib, percentage)


def server_limits(config: MpsConfig, gpu: Gpu, vgpus: int) -> Limits:
    """The defaults of the server: the limits of the largest grant."""
    return limits_of(config, Grant(gpu, vgpus, largest_grant(config, vgpus)))


def directory_of(config: MpsConfig, uuid: str) -> str:
    """Where all that belongs to one GPU's daemon is; the same for ever, for tasks hold to it."""
    name = uuid.replace("/", "_")  # old MIG UUIDs have slashes
    return f"{config.root}/{name}"
