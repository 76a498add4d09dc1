# SPDX-License-Identifier: MPL-2.0
"""What the fake driver promises to NVIDIA's container toolkit: MIG profiles, and limits of memory."""

import ctypes
from pathlib import Path

from .queries import INVALID_ARGUMENT, MIB, NOT_FOUND, NOT_SUPPORTED, Start

OPERATING_SYSTEM = 17
_LIMITS = """
import ctypes
class Limits(ctypes.Structure):
    _fields_ = [("path", ctypes.c_char_p), ("soft", ctypes.c_ulonglong), ("hard", ctypes.c_ulonglong)]
library = ctypes.CDLL("libnvidia-ml.so.1")
def limit(device, path, soft, hard):
    return library.nvmlDeviceSetMemoryLimits_v1(device, ctypes.byref(Limits(path.encode(), soft, hard)))
"""


def test_an_instance_tells_the_profile_it_was_made_from(start: Start) -> None:
    """The profiles with the ids of an instance are those of its slices, of both kinds."""
    _, probe = start("a100_mig_subsliced")
    probe.ask("gi = n.nvmlDeviceGetGpuInstanceById(gpu(0), 1)")
    probe.ask("made_from = n.nvmlGpuInstanceGetInfo(gi).profileId")
    profile = "n.nvmlDeviceGetGpuInstanceProfileInfo(gpu(0), made_from, version=1).sliceCount"
    assert probe.ask(profile) == 3
    for ci, slices in ((0, 1), (1, 2)):
        probe.ask(f"ci = n.nvmlGpuInstanceGetComputeInstanceById(gi, {ci})")
        probe.ask("made_from = n.nvmlComputeInstanceGetInfo(ci).profileId")
        profile = (
            "n.nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, made_from, 0, version=1).sliceCount"
        )
        assert probe.ask(profile) == slices


def test_instances_that_are_not_there_are_not_found(start: Start) -> None:
    """By its id an instance is found where it is, and where MIG is on."""
    _, probe = start("a100_mig")
    assert probe.ask("fails(n.nvmlDeviceGetGpuInstanceById, gpu(0), 3)") == NOT_FOUND
    assert probe.ask("fails(n.nvmlDeviceGetGpuInstanceById, gpu(1), 1)") == NOT_SUPPORTED
    probe.ask("gi = n.nvmlDeviceGetGpuInstanceById(gpu(0), 1)")
    assert probe.ask("fails(n.nvmlGpuInstanceGetComputeInstanceById, gi, 1)") == NOT_FOUND


def test_limits_of_memory_are_written_down(start: Start, tmp_path: Path) -> None:
    """What is set for a cgroup can be read afterwards; what no driver would take is refused."""
    noted = tmp_path / "limits"
    driver, probe = start("t4_old", FAKE_NVML_LIMITS=str(noted))
    probe.ask(_LIMITS)
    assert probe.ask(f"limit(gpu(0), {str(tmp_path)!r}, {MIB}, {2 * MIB})") == 0
    uuid = driver.get("gpu 0", "uuid")
    assert noted.read_text() == f"{uuid} {tmp_path} {MIB} {2 * MIB}\n"
    assert probe.ask(f"limit(gpu(0), '/nowhere', 0, {MIB})") == OPERATING_SYSTEM
    assert probe.ask(f"limit(gpu(0), {str(tmp_path)!r}, 2, 1)") == INVALID_ARGUMENT
    too_much = 1 << (8 * ctypes.sizeof(ctypes.c_ulonglong) - 2)
    assert probe.ask(f"limit(gpu(0), {str(tmp_path)!r}, 0, {too_much})") == INVALID_ARGUMENT
