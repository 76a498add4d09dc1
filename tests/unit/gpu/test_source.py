# SPDX-License-Identifier: MPL-2.0
"""Where GPUs come from."""

from __future__ import annotations

from nomad_nvidia_vgpu.gpu.nvml.source import NvmlSource
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus
from nomad_nvidia_vgpu.gpu.simulated import SimulatedSource
from nomad_nvidia_vgpu.gpu.source import source_of


def test_gpus_are_the_nodes() -> None:
    """Without simulation the GPUs come from the driver."""
    assert isinstance(source_of(()), NvmlSource)


def test_gpus_may_be_simulated() -> None:
    """With simulation the GPUs are those listed, and the driver is not asked."""
    source = source_of((SimulatedGpus("l4", 2), SimulatedGpus("t4", 1)))
    assert isinstance(source, SimulatedSource)
    assert source.count() == 3
