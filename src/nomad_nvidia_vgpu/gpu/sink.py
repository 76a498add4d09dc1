# SPDX-License-Identifier: MPL-2.0
"""Who is told what the watch finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from nomad_nvidia_vgpu.gpu.model import GpuProcess, GpuSample, Inventory, XidEvent


class Sink(Protocol):
    """Called from the threads of the watch; must not block."""

    def take_inventory(self, inventory: Inventory, *, complete: bool) -> None:
        """The inventory has changed, or has become `complete`: every GPU has answered once."""

    def take_samples(self, samples: Mapping[str, GpuSample]) -> None:
        """New samples by UUID; those of other GPUs stay as they are."""

    def take_processes(self, processes: Mapping[str, Sequence[GpuProcess]]) -> None:
        """New lists of processes by UUID; those of other GPUs stay as they are."""

    def take_event(self, event: XidEvent) -> None:
        """The driver reported an XID, be it a fault or not."""
