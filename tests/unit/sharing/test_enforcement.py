# SPDX-License-Identifier: MPL-2.0
"""What is in force on a GPU."""

from __future__ import annotations

from nomad_nvidia_vgpu.sharing.enforcement import IN_FORCE, STARTING


def test_a_gpu_that_is_being_started_cannot_be_used() -> None:
    """Until something is known, the GPU is kept apart with a reason, and nothing is promised."""
    assert STARTING.problem
    assert not STARTING.holds_memory


def test_all_in_force_has_nothing_to_say() -> None:
    """The enforcement that a plan assumes holds all and has no complaint."""
    assert IN_FORCE.holds_memory
    assert not IN_FORCE.problem
    assert not IN_FORCE.weakness
    assert not IN_FORCE.starting
