# SPDX-License-Identifier: MPL-2.0
"""Time-slicing: the driver lets the tasks of a GPU take turns.

Nothing keeps a task to its share of the memory, except where it has a GPU, or a MIG device
that owns its memory, to itself.
"""

from __future__ import annotations

from nomad_nvidia_vgpu.gpu.model import Gpu


class TimeSlicing:
    """Cooperative sharing; a `Strategy`."""

    def memory_isolation(self, gpu: Gpu, vgpus: int) -> str:
        """`whole` or `mig` for a GPU that is not divided, else `none`."""
        if vgpus > 1:
            return "none"
        if gpu.parent_uuid is None:
            return "whole"
        return "mig" if gpu.owns_gpu_instance else "none"
