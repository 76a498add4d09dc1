# SPDX-License-Identifier: MPL-2.0
"""Where the files of MPS are."""

from __future__ import annotations

from nomad_nvidia_vgpu.config.blocks import MpsConfig
from nomad_nvidia_vgpu.sharing.mps.layout import gpu_directory


def test_an_old_mig_uuid_is_one_directory() -> None:
    """UUIDs of drivers before 470 have slashes."""
    assert gpu_directory(MpsConfig(), "MIG-GPU-x/1/0").endswith("/mps/MIG-GPU-x_1_0")
