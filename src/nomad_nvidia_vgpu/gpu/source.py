# SPDX-License-Identifier: MPL-2.0
"""Where GPUs come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nomad_nvidia_vgpu.gpu.model import GpuSource

if TYPE_CHECKING:
    from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus


def source_of(simulate: Sequence[SimulatedGpus]) -> GpuSource:
    """The simulated GPUs if any are asked for, else those of this node."""
    # One of the two is never needed, and both cost milliseconds.
    if simulate:
        from nomad_nvidia_vgpu.gpu.simulated import SimulatedSource  # noqa: PLC0415

        return SimulatedSource(simulate)
    from nomad_nvidia_vgpu.gpu.nvml.source import NvmlSource  # noqa: PLC0415

    return NvmlSource()
