# SPDX-License-Identifier: MPL-2.0
"""What is known of a GPU."""

from __future__ import annotations

import pytest

from unit.example_gpus import L4, gpu, mig


@pytest.mark.parametrize(
    ("profile", "owns"),
    [
        ("1g.5gb", True),
        ("3g.20gb", True),
        ("1g.10gb+me", True),
        ("1c.3g.20gb", False),
        ("2c.4g.20gb", False),
    ],
)
def test_a_whole_gpu_instance_owns_its_memory(profile: str, owns: object) -> None:
    """A MIG device owns its memory unless it is one compute instance of several."""
    assert mig("MIG-a", profile=profile).owns_gpu_instance is owns


def test_a_physical_gpu_is_no_gpu_instance() -> None:
    """A GPU that is not in MIG mode owns no GPU instance."""
    assert not L4.owns_gpu_instance


def test_equal_facts_make_equal_gpus() -> None:
    """Two looks that find the same facts find equal GPUs, so that nothing seems to change."""
    assert mig("MIG-a") == mig("MIG-a")
    assert mig("MIG-a") != mig("MIG-a", memory_mib=1)


@pytest.mark.parametrize(
    ("profile", "own_mib"),
    [
        (None, 19968),
        ("3g.20gb", 19968),
        ("1c.3g.20gb", 6656),
        ("2c.3g.20gb", 13312),
        ("1c.7g.40gb+me", 2852),
    ],
)
def test_compute_instances_count_on_their_part_of_the_memory(
    profile: str | None, own_mib: int
) -> None:
    """Those of one GPU instance share its memory: together they have no more than there is."""
    assert gpu(memory_mib=19968, mig_profile=profile).own_memory_mib == own_mib
    assert gpu(memory_mib=None, mig_profile=profile).own_memory_mib is None
