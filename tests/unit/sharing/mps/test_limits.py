# SPDX-License-Identifier: MPL-2.0
"""How much a process may take of a GPU that is shared by MPS."""

from __future__ import annotations

from nomad_nvidia_vgpu.config.blocks import MpsConfig
from nomad_nvidia_vgpu.sharing.grant import Grant
from nomad_nvidia_vgpu.sharing.mps.limits import Limits, limits_of, server_limits
from unit.example_gpus import gpu


def test_the_servers_defaults_are_the_largest_grant() -> None:
    """A client can only lower them, so a task that drops its limits has these."""
    card = gpu(memory_mib=1000)
    assert server_limits(MpsConfig(), card, 4) == Limits(1000, 100)
    assert server_limits(MpsConfig(max_vgpus_per_task=1), card, 4) == Limits(250, 25)
    assert server_limits(MpsConfig(max_vgpus_per_task=9), card, 4) == Limits(1000, 100)


def test_limits_are_rounded_down() -> None:
    """All shares together are never more than the GPU."""
    assert limits_of(MpsConfig(), Grant(gpu(memory_mib=1000), 3, 1)) == Limits(333, 33)


def test_overcommitted_memory_is_a_part_more_and_never_more_than_there_is() -> None:
    """The SMs are not: they are shared by turns."""
    card = gpu(memory_mib=1000)
    assert limits_of(MpsConfig(), Grant(card, 4, 1, 150)) == Limits(375, 25)
    assert limits_of(MpsConfig(), Grant(card, 4, 3, 150)) == Limits(1000, 75)
    limited = MpsConfig(max_vgpus_per_task=1)
    assert server_limits(limited, card, 4, 150) == Limits(375, 25)
