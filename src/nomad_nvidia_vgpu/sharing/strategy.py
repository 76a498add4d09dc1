# SPDX-License-Identifier: MPL-2.0
"""The ways to share a GPU. A new one is one file and one line in `STRATEGIES`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from nomad_nvidia_vgpu.gpu.model import Gpu
from nomad_nvidia_vgpu.sharing import time_slicing

ISOLATION = ("none", "mig", "whole")
"""What may hold a task to its share of the memory, weakest first."""


class Strategy(Protocol):
    """How the tasks on one GPU are kept to their shares."""

    def memory_isolation(self, gpu: Gpu, vgpus: int) -> str:
        """One of `ISOLATION`: what holds when `gpu` is divided into `vgpus`."""


STRATEGIES: Mapping[str, Strategy] = {
    "time-slicing": time_slicing.TimeSlicing(),
}
