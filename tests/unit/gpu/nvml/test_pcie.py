# SPDX-License-Identifier: MPL-2.0
"""PCI arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_nvidia_vgpu.gpu.nvml.pcie import bandwidth_mb_s, sysfs_bus_id


@pytest.mark.parametrize(
    ("generation", "width", "mb_s"),
    [
        (1, 16, 4000),
        (2, 16, 8000),
        (3, 1, 984),
        (3, 16, 15753),
        (4, 8, 15753),
        (4, 16, 31507),
        (5, 16, 63015),
        (6, 16, 118000),
    ],
)
def test_bandwidth_is_the_payload_of_a_link(generation: int, width: int, mb_s: int) -> None:
    """Each generation and width has its payload in one direction, in decimal MB/s."""
    assert bandwidth_mb_s(generation, width) == mb_s


@pytest.mark.parametrize(("generation", "width"), [(0, 16), (7, 16), (-1, 16), (4, 0), (4, -8)])
def test_a_link_that_cannot_be_has_no_bandwidth(generation: int, width: int) -> None:
    """An unknown generation or no lanes give no figure rather than a wrong one."""
    assert bandwidth_mb_s(generation, width) is None


@pytest.mark.parametrize(
    ("domain", "bus", "device", "bus_id"),
    [
        (0, 0xC1, 0, "0000:c1:00.0"),
        (0, 0x07, 0x1F, "0000:07:1f.0"),
        (0xABCD, 1, 0, "abcd:01:00.0"),
        (0x10000, 1, 0, "10000:01:00.0"),
    ],
)
def test_a_bus_id_is_spelled_as_in_sysfs(
    tmp_path: Path, domain: int, bus: int, device: int, bus_id: str
) -> None:
    """A bus id is lower case, with a domain of at least four digits."""
    assert sysfs_bus_id(domain, bus, device, tmp_path) == bus_id


def test_a_domain_too_wide_for_sysfs_is_cut(tmp_path: Path) -> None:
    """Of a domain of 32 bits the lower 16 count where sysfs has those only."""
    (tmp_path / "5678:01:00.0").mkdir()
    assert sysfs_bus_id(0x12345678, 1, 0, tmp_path) == "5678:01:00.0"


def test_a_wide_domain_that_sysfs_has_is_kept(tmp_path: Path) -> None:
    """A domain of more than 16 bits stays whole where sysfs has it."""
    (tmp_path / "10001:01:00.0").mkdir()
    (tmp_path / "0001:01:00.0").mkdir()
    assert sysfs_bus_id(0x10001, 1, 0, tmp_path) == "10001:01:00.0"
