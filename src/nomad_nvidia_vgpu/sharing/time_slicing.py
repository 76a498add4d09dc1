# SPDX-License-Identifier: MPL-2.0
"""Time-slicing: the driver lets the tasks of a GPU take turns.

Nothing keeps a task to its share of the memory, except where it has a GPU, or a MIG device
that owns its memory, to itself.
"""

from __future__ import annotations

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import NOTHING, Problem
from nomad_nvidia_vgpu.gpu.model import EXCLUSIVE_PROCESS, ComputeModes, Gpu
from nomad_nvidia_vgpu.sharing.enforcement import IN_FORCE, Enforcement
from nomad_nvidia_vgpu.sharing.grant import Delivery, Grant


class TimeSlicing:
    """Cooperative sharing; a `Strategy`."""

    enforced = False
    one_gpu_per_group = False

    def problem(self, gpu: Gpu, vgpus: int) -> Problem:  # noqa: ARG002
        """Every GPU can be shared so."""
        return NOTHING

    def weakness(self, gpu: Gpu, vgpus: int) -> Problem:
        """A compute mode that lets only one process in."""
        if vgpus == 1 or gpu.compute_mode != EXCLUSIVE_PROCESS:
            return NOTHING
        return Problem(
            (
                f"{gpu.uuid} is in compute mode {EXCLUSIVE_PROCESS}, so only one of its {vgpus}"
                " vGPUs can be used at a time"
            ),
            f'nvidia-smi -i {gpu.uuid} -c DEFAULT, or set sharing to "mps"',
        )

    def expected(self, config: PluginConfig, gpu: Gpu) -> Enforcement:  # noqa: ARG002
        """There is nothing that could fail."""
        return IN_FORCE

    def memory_isolation(self, gpu: Gpu, vgpus: int, enforcement: Enforcement) -> str:  # noqa: ARG002
        """`whole` or `mig` for a GPU that is not divided, else `none`."""
        return undivided_isolation(gpu, vgpus)

    def deliver(self, config: PluginConfig, grant: Grant) -> Delivery:  # noqa: ARG002
        """Nothing more than the names."""
        return Delivery()

    def enforcer(self, config: PluginConfig, modes: ComputeModes) -> None:
        """None: the driver does it."""


def undivided_isolation(gpu: Gpu, vgpus: int) -> str:
    """What the hardware alone holds: `whole`, `mig` or `none`."""
    if vgpus > 1:
        return "none"
    if gpu.parent_uuid is None:
        return "whole"
    return "mig" if gpu.owns_gpu_instance else "none"
