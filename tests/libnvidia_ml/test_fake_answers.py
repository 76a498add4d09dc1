# SPDX-License-Identifier: MPL-2.0
"""What the fake driver promises about answers that no driver should give, and some do."""

from typing import Any

import pytest

from .queries import GETTERS, INVALID_ARGUMENT, UNKNOWN, XID, Start

COMPUTE = "nvmlDeviceGetComputeRunningProcesses"
WORDS = """
def words(name, room):
    "What the C function writes into a buffer that is filled with ones, in words of 8 bytes."
    count = ctypes.c_uint(room)
    buffer = (ctypes.c_ulonglong * (8 * room))(*[1] * (8 * room))
    code = getattr(n.nvmlLib, name)(gpu(0), ctypes.byref(count), buffer)
    written = [i for i, word in enumerate(buffer) if word != 1]
    return code, count.value, (written[-1] + 1) * 8, list(buffer)[:5]
"""


@pytest.mark.parametrize(("record", "second_pid_at"), [(16, 2), (24, 3), (32, 4)])
def test_records_of_the_newest_list_have_the_size_of_the_driver(
    start: Start, record: int, second_pid_at: int
) -> None:
    """The third form writes records of 16, 24 or 32 bytes; the second stays at 24."""
    driver, probe = start("h100x8")
    driver.set("driver", "process_record_bytes", record)
    driver.set("gpu 0", "compute_processes", "17:2 18:3")
    probe.ask(WORDS)
    code, count, written, words = probe.ask(f"words('{COMPUTE}_v3', 4)")
    assert (code, count, written) == (0, 2, 2 * record)
    assert words[second_pid_at] & 0xFFFFFFFF == 18
    assert probe.ask(f"words('{COMPUTE}_v2', 4)")[2] == 48


def test_a_call_fails_once(start: Start) -> None:
    """A fault that happens once hits the next call, on its GPU, and none after it."""
    driver, probe = start("h100x8")
    ask = "[fails(n.nvmlDeviceGetName, gpu(i)) for i in (0, 1, 1)]"
    driver.fail_once("gpu 1", "nvmlDeviceGetName", UNKNOWN)
    assert probe.ask(ask) == [0, UNKNOWN, 0]
    driver.fail_once("gpu 1", "nvmlDeviceGetName", UNKNOWN)
    assert probe.ask(ask) == [0, UNKNOWN, 0]
    driver.fail_once("driver", "nvmlDeviceGetCount_v2", UNKNOWN)
    assert probe.ask("[fails(n.nvmlDeviceGetCount) for _ in range(2)]") == [UNKNOWN, 0]


@pytest.mark.parametrize("key", GETTERS)
def test_every_getter_can_call_its_argument_invalid(start: Start, key: str) -> None:
    """A getter that answers InvalidArgument to a good handle is one fault like another."""
    driver, probe = start("h100x8")
    driver.set("gpu 0", key, driver.get("gpu 0", key) or 1)
    probe.ask("h = gpu(0)")
    driver.forget_calls()
    assert probe.ask(f"fails(lambda: {GETTERS[key]})") == 0
    (function,) = {call.function for call in driver.call_log()}
    driver.set("gpu 0", f"fault.{function}", INVALID_ARGUMENT)
    assert probe.ask(f"fails(lambda: {GETTERS[key]})") == INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("key", "value", "call", "answer"),
    [
        ("memory_total_mib", 0, GETTERS["memory_total_mib"], 0),
        ("memory_total_mib", 2**43, GETTERS["memory_total_mib"], 2**63),
        ("max_sm_clock_mhz", 2**32 - 1, GETTERS["max_sm_clock_mhz"], 2**32 - 1),
        ("temperature_c", 2**32 - 1, GETTERS["temperature_c"], 2**32 - 1),
        ("power_usage_mw", 2**32 - 1, GETTERS["power_usage_mw"], 2**32 - 1),
        ("energy_mj", 2**63, GETTERS["energy_mj"], 2**63),
        ("compute_capability", "4294967295.4294967295", GETTERS["compute_capability"], (-1, -1)),
    ],
)
def test_garbage_comes_with_success(
    start: Start, key: str, value: str | int, call: str, answer: Any
) -> None:
    """A figure that cannot be is handed out like any other."""
    driver, probe = start("h100x8")
    driver.set("gpu 0", key, value)
    probe.ask("h = gpu(0)")
    assert probe.ask(call) == answer


@pytest.mark.parametrize("count", [100_000, 2**31 - 1])
def test_the_count_can_be_anything(start: Start, count: int) -> None:
    """A driver can count GPUs that it does not list."""
    driver, probe = start("h100x8")
    driver.set("driver", "count", count)
    assert probe.ask("n.nvmlDeviceGetCount()") == count
    assert probe.ask("[fails(gpu, i) for i in (7, 8)]") == [0, INVALID_ARGUMENT]


def test_two_gpus_can_have_one_uuid(start: Start) -> None:
    """They differ by handle and index, and a lookup by UUID finds one of them."""
    driver, probe = start("h100x8")
    driver.set("gpu 5", "uuid", driver.get("gpu 1", "uuid") or "")
    assert probe.ask("[n.nvmlDeviceGetUUID(gpu(i)) for i in (1, 5)]") == (
        [driver.get("gpu 1", "uuid")] * 2
    )
    assert not probe.ask("address(gpu(1)) == address(gpu(5))")
    assert probe.ask("[n.nvmlDeviceGetIndex(gpu(i)) for i in (1, 5)]") == [1, 5]


def test_gpus_can_be_numbered_again(start: Start) -> None:
    """A GPU can change its place while a process runs; its handle stays its own."""
    driver, probe = start("h100x8")
    uuids = [driver.get(f"gpu {i}", "uuid") for i in range(8)]
    probe.ask("h = gpu(7)")
    with driver.at_once():
        driver.set("gpu 7", "position", 0)
        driver.set("gpu 0", "position", 7)
    assert probe.ask("[n.nvmlDeviceGetUUID(gpu(i)) for i in (0, 7)]") == [uuids[7], uuids[0]]
    assert probe.ask("n.nvmlDeviceGetIndex(h)") == 0
    assert probe.ask("n.nvmlDeviceGetUUID(h)") == uuids[7]


@pytest.mark.parametrize(("gi", "ci"), [(0, 0), (5, 0), (1, 3)])
def test_an_event_can_name_an_instance_that_is_not_there(start: Start, gi: int, ci: int) -> None:
    """The numbers of instances in an event are whatever the profile says."""
    driver, probe = start("a100_mig")
    probe.ask("s = n.nvmlEventSetCreate()")
    probe.ask("n.nvmlDeviceRegisterEvents(gpu(1), 8, s)")
    driver.push_event(1, XID, 48, gi=gi, ci=ci)
    probe.ask("e = n.nvmlEventSetWait_v2(s, 60000)")
    assert probe.ask("(e.eventData, e.gpuInstanceId, e.computeInstanceId)") == (48, gi, ci)
