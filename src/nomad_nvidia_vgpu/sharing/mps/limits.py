# SPDX-License-Identifier: MPL-2.0
"""How much memory and how many SMs a process may take of a GPU that is shared by MPS."""

from __future__ import annotations

from typing import NamedTuple

from nomad_nvidia_vgpu.config.options import MpsConfig
from nomad_nvidia_vgpu.gpu.model import Gpu
from nomad_nvidia_vgpu.sharing.grant import Grant, limit_of, share_of

ORDINAL = "0"
"""The GPU as its MPS server and the server's clients number it: they see no other."""


PRIORITIES = {"normal": 0, "below-normal": 1}
"""As MPS numbers them."""


class Limits(NamedTuple):
    """What one process may take of a GPU; None: nothing is limited."""

    memory_mib: int | None
    thread_percentage: int | None
    """Of the SMs; from 1 to 100."""
    priority: int = 0
    """Of clients that ask for none: 0 normal, 1 below normal."""


def largest_grant(config: MpsConfig, vgpus: int) -> int:
    """How many of a GPU's vGPUs one task may have."""
    return min(config.max_vgpus_per_task or vgpus, vgpus)


def limits_of(config: MpsConfig, grant: Grant) -> Limits:
    """The limits of each process of a task with this grant, rounded down."""
    memory_mib = grant.gpu.own_memory_mib
    if not config.memory_limit or memory_mib is None or grant.gpu.unified_memory:
        memory_mib = None
    else:
        memory_mib = limit_of(memory_mib, grant.granted, grant.vgpus, grant.memory_percent)
    percentage = share_of(100, grant.granted, grant.vgpus) if config.compute_limit else None
    return Limits(memory_mib, percentage)


def server_limits(config: MpsConfig, gpu: Gpu, vgpus: int, memory_percent: int = 100) -> Limits:
    """The defaults of the server: the limits of the largest grant."""
    return limits_of(config, Grant(gpu, vgpus, largest_grant(config, vgpus), memory_percent))
