# SPDX-License-Identifier: MPL-2.0
"""Which device files are a GPU's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from cdi_node.node import GPUS, CdiNode

from nomad_nvidia_vgpu.cdi.device_files import is_own, own_files
from unit.example_gpus import gpu, mig


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """What the kernel module tells of two GPUs, the second of which is number 0."""
    node = CdiNode(tmp_path)
    node.load_driver()
    return node.driver


def test_a_gpu_has_the_file_of_its_number(driver: Path) -> None:
    """The number in the name is the kernel module's, found by the place of the GPU."""
    assert own_files(gpu(GPUS[0], pci_bus_id="0000:07:00.0"), driver) == frozenset({"/dev/nvidia1"})
    assert own_files(gpu(GPUS[1], pci_bus_id="0000:08:00.0"), driver) == frozenset({"/dev/nvidia0"})


def test_a_mig_device_has_the_files_of_its_instances(driver: Path) -> None:
    """A MIG device has its GPU's file and one for each of its two instances."""
    device = mig("MIG-x", GPUS[0], gpu_instance_id=2, compute_instance_id=0)
    caps = "/dev/nvidia-caps/nvidia-cap"
    assert own_files(device, driver) == frozenset({"/dev/nvidia1", f"{caps}21", f"{caps}22"})


def test_a_gpu_that_nobody_has_opened_yet_is_known_by_its_place(driver: Path) -> None:
    """The kernel module may not know the UUID yet, and the place says enough."""
    place = driver / "nvidia/gpus/0000:07:00.0/information"
    place.write_text("GPU UUID: \t GPU-????????-????-????-????-????????????\nDevice Minor: \t 4\n")
    assert own_files(gpu(GPUS[0], pci_bus_id="0000:07:00.0"), driver) == frozenset({"/dev/nvidia4"})


@pytest.mark.parametrize(
    "unknown",
    [
        gpu(GPUS[0], pci_bus_id="0000:99:00.0"),
        gpu(GPUS[0], pci_bus_id=None),
        gpu("GPU-of-a-test", pci_bus_id="0000:07:00.0"),
        mig("MIG-x", GPUS[0], gpu_instance_id=9, compute_instance_id=0),
        mig("MIG-x", GPUS[0]),
    ],
)
def test_what_the_kernel_module_does_not_know_is_none(driver: Path, unknown: object) -> None:
    """A place without a GPU or with another one, or an instance that is not there, tells nothing."""
    assert own_files(unknown, driver) is None  # type: ignore[arg-type]


def test_without_a_kernel_module_nothing_is_known(tmp_path: Path) -> None:
    """A machine without the driver tells nothing."""
    assert own_files(gpu(GPUS[0], pci_bus_id="0000:07:00.0"), tmp_path) is None


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("/dev/nvidia0", True),
        ("/dev/nvidia12", True),
        ("/dev/nvidia-caps/nvidia-cap3", True),
        ("/dev/nvidiactl", False),
        ("/dev/nvidia-uvm", False),
        ("/dev/dri/card0", False),
    ],
)
def test_a_file_is_one_gpus_or_the_drivers(path: str, own: object) -> None:
    """Control files belong to no GPU."""
    assert is_own(path) is own
