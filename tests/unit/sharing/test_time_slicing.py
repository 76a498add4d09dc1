# SPDX-License-Identifier: MPL-2.0
"""Time-slicing."""

from __future__ import annotations

import pytest

from nomad_nvidia_vgpu.gpu.model import Gpu
from nomad_nvidia_vgpu.sharing.enforcement import IN_FORCE
from nomad_nvidia_vgpu.sharing.time_slicing import TimeSlicing
from unit.example_gpus import gpu, mig


@pytest.mark.parametrize(
    ("card", "vgpus", "isolation"),
    [
        (gpu(), 1, "whole"),
        (gpu(), 2, "none"),
        (gpu(), 256, "none"),
        (mig("MIG-a", profile="3g.20gb"), 1, "mig"),
        (mig("MIG-a", profile="3g.20gb"), 2, "none"),
        (mig("MIG-a", profile="1c.3g.20gb"), 1, "none"),
    ],
)
def test_only_what_is_not_divided_is_isolated(card: Gpu, vgpus: int, isolation: str) -> None:
    """A task has memory to itself only on a GPU or a GPU instance that is not divided."""
    assert TimeSlicing().memory_isolation(card, vgpus, IN_FORCE) == isolation
