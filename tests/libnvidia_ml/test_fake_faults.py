# SPDX-License-Identifier: MPL-2.0
"""What the fake driver promises when things break or stall while a process runs."""

import pytest

from .driver import Call
from .queries import GETTERS, GPU_IS_LOST, NO_PERMISSION, UNKNOWN, Start, wait_for_call


def test_one_lost_gpu_leaves_the_rest_alone(start: Start) -> None:
    """The lost GPU still counts, its lookup says GpuIsLost, and the seven others answer."""
    driver, probe = start("lost")
    assert probe.ask("n.nvmlDeviceGetCount()") == 8
    codes = probe.ask("[fails(gpu, i) for i in range(8)]")
    assert codes == [0, 0, 0, GPU_IS_LOST, 0, 0, 0, 0]
    lost, other = driver.get("gpu 3", "uuid"), driver.get("gpu 7", "uuid")
    assert probe.ask(f"fails(n.nvmlDeviceGetHandleByUUID, {lost!r})") == GPU_IS_LOST
    assert probe.ask(f"fails(n.nvmlDeviceGetHandleByUUID, {other!r})") == 0


def test_every_getter_of_a_lost_gpu_fails_on_an_old_handle(start: Start) -> None:
    """A handle from before the loss answers GpuIsLost to everything, and works again after."""
    driver, probe = start("h100x8")
    probe.ask("h = gpu(0)")
    driver.set("gpu 0", "lost", 1)
    codes = {key: probe.ask(f"fails(lambda: {call})") for key, call in GETTERS.items()}
    assert codes == dict.fromkeys(GETTERS, GPU_IS_LOST)
    driver.clear("gpu 0", "lost")
    assert probe.ask("fails(n.nvmlDeviceGetUUID, h)") == 0


@pytest.mark.parametrize("way", ["removed", "section"])
def test_a_removed_gpu_is_not_counted(start: Start, way: str) -> None:
    """Indices close up over a removed GPU, and a handle to it reads as lost."""
    driver, probe = start("h100x8")
    probe.ask("h = gpu(2)")
    if way == "removed":
        driver.set("gpu 2", "removed", 1)
    else:
        driver.remove_section("gpu 2")
    assert probe.ask("n.nvmlDeviceGetCount()") == 7
    assert probe.ask("n.nvmlDeviceGetUUID(gpu(2))") == driver.get("gpu 3", "uuid")
    assert probe.ask("n.nvmlDeviceGetIndex(gpu(2))") == 2
    assert probe.ask("fails(n.nvmlDeviceGetUUID, h)") == GPU_IS_LOST


def test_a_fault_hits_one_function_of_one_gpu_until_cleared(start: Start) -> None:
    """A fault can be switched on and off while a process runs, and touches nothing else."""
    driver, probe = start("h100x8")
    driver.set("gpu 1", "fault.nvmlDeviceGetTemperature", 16)
    assert probe.ask("[fails(n.nvmlDeviceGetTemperature, gpu(i), 0) for i in (0, 1)]") == [0, 16]
    assert probe.ask("fails(n.nvmlDeviceGetPowerUsage, gpu(1))") == 0
    driver.clear("gpu 1", "fault.nvmlDeviceGetTemperature")
    assert probe.ask("fails(n.nvmlDeviceGetTemperature, gpu(1), 0)") == 0


def test_a_fault_of_the_driver_hits_every_gpu(start: Start) -> None:
    """A fault in the driver's section applies to calls with and without a device."""
    driver, probe = start("h100x8")
    driver.set("driver", "fault.nvmlDeviceGetName", UNKNOWN)
    driver.set("driver", "fault.nvmlDeviceGetCount_v2", NO_PERMISSION)
    assert probe.ask("[fails(n.nvmlDeviceGetName, gpu(i)) for i in (0, 7)]") == [UNKNOWN] * 2
    assert probe.ask("fails(n.nvmlDeviceGetCount)") == NO_PERMISSION


def test_a_hung_call_blocks_alone_until_cleared(start: Start) -> None:
    """A hung call does not return, other threads keep working, and clearing lets it finish."""
    driver, probe = start("h100x8")
    driver.set("gpu 0", "hang.nvmlDeviceGetName", 1)
    probe.ask("h, names = gpu(0), []")
    probe.ask("t = threading.Thread(target=lambda: names.append(n.nvmlDeviceGetName(h)))")
    probe.ask("t.daemon = True")
    probe.ask("t.start()")
    wait_for_call(driver, Call(probe.pid, "nvmlDeviceGetName", "0"))
    assert probe.ask("fails(n.nvmlDeviceGetName, gpu(1))") == 0
    probe.ask("t.join(0.2)")
    assert probe.ask("names") == []
    driver.clear("gpu 0", "hang.nvmlDeviceGetName")
    probe.ask("t.join(120)")
    assert probe.ask("names") == ["NVIDIA H100 80GB HBM3"]


def test_a_gpu_lost_during_a_hang_is_lost_after_it(start: Start) -> None:
    """When a hang ends, the call answers for the machine as it is then."""
    driver, probe = start("h100x8")
    driver.set("gpu 0", "hang.nvmlDeviceGetName", 1)
    probe.ask("h, codes = gpu(0), []")
    probe.ask("t = threading.Thread(target=lambda: codes.append(fails(n.nvmlDeviceGetName, h)))")
    probe.ask("t.daemon = True")
    probe.ask("t.start()")
    wait_for_call(driver, Call(probe.pid, "nvmlDeviceGetName", "0"))
    driver.set("gpu 0", "lost", 1)
    driver.clear("gpu 0", "hang.nvmlDeviceGetName")
    probe.ask("t.join(120)")
    assert probe.ask("codes") == [GPU_IS_LOST]


def test_a_slow_call_takes_its_time(start: Start) -> None:
    """A delay applies to its function and holds up no other thread's lock."""
    driver, probe = start("h100x8")
    driver.set("gpu 0", "slow.nvmlDeviceGetName", 300)
    probe.ask("begun = time.monotonic()")
    probe.ask("n.nvmlDeviceGetName(gpu(0))")
    assert probe.ask("time.monotonic() - begun") >= 0.3


def test_threads_survive_a_profile_that_keeps_changing(start: Start) -> None:
    """Calls from four threads give only the answers of one or the other profile version."""
    driver, probe = start("h100x8")
    probe.ask("seen, stop = set(), threading.Event()")
    probe.ask(
        "def work():\n"
        "    h = gpu(0)\n"
        "    while not stop.is_set():\n"
        "        seen.add((fails(n.nvmlDeviceGetTemperature, h, 0), fails(n.nvmlDeviceGetUUID, h)))"
    )
    probe.ask("team = [threading.Thread(target=work, daemon=True) for _ in range(4)]")
    probe.ask("[t.start() for t in team] and None")
    for _ in range(100):
        driver.set("gpu 0", "fault.nvmlDeviceGetTemperature", 11)
        driver.clear("gpu 0", "fault.nvmlDeviceGetTemperature")
    probe.ask("stop.set()")
    probe.ask("[t.join(120) for t in team] and None")
    assert probe.ask("any(t.is_alive() for t in team)") is False
    assert probe.ask("seen") <= {(0, 0), (11, 0)}
    assert probe.ask("len(seen)") > 0
