# SPDX-License-Identifier: MPL-2.0
"""What the fake driver promises about lists of processes."""

from contextlib import closing
from pathlib import Path

import pytest

from .driver import FakeDriver
from .probe import Probe
from .queries import INSUFFICIENT_SIZE, MIB, NO_PERMISSION, NOT_SUPPORTED, Start

COMPUTE = "nvmlDeviceGetComputeRunningProcesses"
RAW = """
def raw(name, handle, room, words):
    "The code, the count, and the first words of the buffer, as the C function leaves them."
    count = ctypes.c_uint(room)
    buffer = (ctypes.c_uint * words)()
    code = getattr(n.nvmlLib, name)(handle, ctypes.byref(count), buffer if room else None)
    return code, count.value, list(buffer)
"""


def listed(name: str, handle: str = "gpu(0)") -> str:
    """Gives the expression for a list as pynvml hands it out."""
    return f"[(p.pid, p.usedGpuMemory, p.gpuInstanceId) for p in n.{name}({handle})]"


@pytest.mark.parametrize("kind", ["Compute", "Graphics", "MPSCompute"])
@pytest.mark.parametrize("version", ["_v2", "_v3"])
def test_each_kind_has_its_list(start: Start, kind: str, version: str) -> None:
    """Compute, graphics and MPS processes are three lists, under the newer names too."""
    driver, probe = start("h100x8")
    key = {"Compute": "compute", "Graphics": "graphics", "MPSCompute": "mps"}[kind]
    driver.set("gpu 0", f"{key}_processes", "17:512 18:-")
    name = f"nvmlDeviceGet{kind}RunningProcesses{version}"
    assert probe.ask(listed(name)) == [(17, 512 * MIB, 0xFFFFFFFF), (18, None, 0xFFFFFFFF)]


def test_a_list_that_is_left_out_is_not_supported(start: Start) -> None:
    """Without its key a list is not supported; an empty one is a success with none."""
    driver, probe = start("t4_old")
    driver.clear("gpu 0", "compute_processes")
    assert probe.ask(f"fails(n.{COMPUTE}_v2, gpu(0))") == NOT_SUPPORTED
    driver.set("gpu 0", "compute_processes", "")
    assert probe.ask(f"n.{COMPUTE}_v2(gpu(0))") == []


def test_the_size_is_asked_for_first(start: Start) -> None:
    """A buffer that is too small is refused with the number of processes, and none is not."""
    driver, probe = start("h100x8")
    driver.set("gpu 0", "compute_processes", "17:1 18:2 19:3")
    probe.ask(RAW)
    assert probe.ask(f"raw('{COMPUTE}_v3', gpu(0), 0, 1)[:2]") == (INSUFFICIENT_SIZE, 3)
    assert probe.ask(f"raw('{COMPUTE}_v3', gpu(0), 2, 99)[:2]") == (INSUFFICIENT_SIZE, 3)
    assert probe.ask(f"raw('{COMPUTE}_v3', gpu(0), 3, 99)[:2]") == (0, 3)
    driver.set("gpu 0", "compute_processes", "")
    assert probe.ask(f"raw('{COMPUTE}_v3', gpu(0), 0, 1)[:2]") == (0, 0)


def test_the_layouts_differ(start: Start) -> None:
    """The oldest name writes 16 bytes per process, the others 24 with the instances."""
    driver, probe = start("h100x8")
    driver.set("gpu 0", "compute_processes", "17:1 18:2")
    probe.ask(RAW)
    _, _, words = probe.ask(f"raw('{COMPUTE}', gpu(0), 2, 16)")
    assert (words[0], words[2], words[4], words[6]) == (17, MIB, 18, 2 * MIB)
    for name in (f"{COMPUTE}_v2", f"{COMPUTE}_v3"):
        _, _, words = probe.ask(f"raw('{name}', gpu(0), 2, 16)")
        assert (words[0], words[2], words[6], words[8]) == (17, MIB, 18, 2 * MIB)
        assert (words[4], words[5]) == (0xFFFFFFFF, 0xFFFFFFFF)


def test_a_list_may_grow_while_it_is_asked_for(start: Start) -> None:
    """The size that was told may be too small a moment later, as often as the key says."""
    driver, probe = start("h100x8")
    driver.set("gpu 0", "compute_processes", "17:1")
    driver.set("gpu 0", "processes_grow", 2)
    probe.ask(RAW)
    assert probe.ask(f"raw('{COMPUTE}_v3', gpu(0), 1, 99)[:2]") == (INSUFFICIENT_SIZE, 2)
    assert probe.ask(f"raw('{COMPUTE}_v3', gpu(0), 2, 99)[:2]") == (INSUFFICIENT_SIZE, 3)
    assert probe.ask(f"raw('{COMPUTE}_v3', gpu(0), 3, 99)[:2]") == (0, 1)


def test_mig_instances_have_their_own_processes(start: Start) -> None:
    """An instance lists its own with its ids; the whole GPU those of all its instances."""
    driver, probe = start("a100_mig")
    driver.set("mig 0.0", "compute_processes", "17:1")
    driver.set("mig 0.2", "compute_processes", "18:2")
    assert probe.ask(listed(f"{COMPUTE}_v3", "mig(0, 0)")) == [(17, MIB, 1)]
    assert probe.ask(listed(f"{COMPUTE}_v3", "mig(0, 2)")) == [(18, 2 * MIB, 2)]
    assert probe.ask(listed(f"{COMPUTE}_v3", "gpu(0)")) == [(17, MIB, 1), (18, 2 * MIB, 2)]


def test_a_list_may_be_forbidden(start: Start) -> None:
    """An injected code stands for a caller without the privilege to see other processes."""
    driver, probe = start("h100x8")
    driver.set("gpu 0", "compute_processes", "17:1")
    driver.set("gpu 0", f"fault.{COMPUTE}_v3", NO_PERMISSION)
    assert probe.ask(f"fails(n.{COMPUTE}_v3, gpu(0))") == NO_PERMISSION


def test_driver_470_lacks_the_newest_lists(old_library: Path, tmp_path: Path) -> None:
    """On driver 470 the second form is the newest."""
    driver = FakeDriver(old_library, tmp_path, "t4_old")
    driver.set("gpu 0", "compute_processes", "17:1")
    with closing(Probe(driver)) as probe:
        probe.ask("n.nvmlInit()")
        assert not probe.ask(f"hasattr(n.nvmlLib, '{COMPUTE}_v3')")
        assert probe.ask(listed(f"{COMPUTE}_v2")) == [(17, MIB, 0xFFFFFFFF)]
