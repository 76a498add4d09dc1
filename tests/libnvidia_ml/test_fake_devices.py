# SPDX-License-Identifier: MPL-2.0
"""What the fake driver promises about whole GPUs, through real `pynvml`."""

import re

import pytest

from .driver import PROFILES
from .probe import ProbeError
from .queries import (
    GETTERS,
    INVALID_ARGUMENT,
    MIB,
    NOT_FOUND,
    NOT_SUPPORTED,
    Start,
)


def test_zero_gpus(start: Start) -> None:
    """A machine without GPUs initialises, counts 0 and has no index 0."""
    _, probe = start("none")
    assert probe.ask("n.nvmlDeviceGetCount()") == 0
    assert probe.ask("fails(gpu, 0)") == INVALID_ARGUMENT


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_can_be_enumerated(start: Start, profile: str) -> None:
    """Every GPU of every profile has a UUID of its own and an index that leads back to it."""
    driver, probe = start(profile)
    lost = {i for i in range(8) if driver.get(f"gpu {i}", "lost") == "1"}
    present = set(range(probe.ask("n.nvmlDeviceGetCount()"))) - lost
    uuids = {probe.ask(f"n.nvmlDeviceGetUUID(gpu({i}))") for i in present}
    assert {probe.ask(f"n.nvmlDeviceGetIndex(gpu({i}))") for i in present} == present
    assert uuids == {driver.get(f"gpu {i}", "uuid") for i in present}
    assert len(uuids) == len(present)


def test_an_h100_answers_like_one(start: Start) -> None:
    """The values of a known card come through each getter unchanged."""
    _, probe = start("h100x8")
    probe.ask("h = gpu(2)")
    expected = {
        "name": "NVIDIA H100 80GB HBM3",
        "memory_total_mib": 85_520_809_984,
        "bar1_total_mib": 131072 * MIB,
        "pci": "00000000:52:00.0",
        "power_limit_mw": 700_000,
        "enforced_power_limit_mw": 700_000,
        "power_usage_mw": 70_000,
        "temperature_c": 41,
        "max_sm_clock_mhz": 1980,
        "max_memory_clock_mhz": 2619,
        "sm_clock_mhz": 345,
        "pcie_gen": 5,
        "pcie_width": 16,
        "compute_capability": (9, 0),
        "architecture": 9,
        "mig_mode": [0, 0],
        "remapped_rows": (0, 0, 0, 0),
    }
    assert {key: probe.ask(GETTERS[key]) for key in expected} == expected


def test_each_getter_reads_its_own_key(start: Start) -> None:
    """A number written to a key is what its getter returns, and no two getters share a key."""
    plain = [
        key
        for key, call in GETTERS.items()
        if not re.search(r"Name|UUID|Pci\w*Info|MemoryInfo|Capability|MigMode|Remapped", call)
    ]
    driver, probe = start("h100x8")
    for number, key in enumerate(plain, start=101):
        driver.set("gpu 0", key, number)
    probe.ask("h = gpu(0)")
    assert [probe.ask(GETTERS[key]) for key in plain] == list(range(101, 101 + len(plain)))


@pytest.mark.parametrize("key", GETTERS)
def test_an_absent_key_is_not_supported(start: Start, key: str) -> None:
    """A getter works while its key is there and says NotSupported when it is left out."""
    driver, probe = start("h100x8")
    if driver.get("gpu 0", key) is None:
        driver.set("gpu 0", key, 1)
    probe.ask("h = gpu(0)")
    assert probe.ask(f"fails(lambda: {GETTERS[key]})") == 0
    driver.clear("gpu 0", key)
    assert probe.ask(f"fails(lambda: {GETTERS[key]})") == NOT_SUPPORTED


def test_the_old_memory_call_counts_reserved_as_used(start: Start) -> None:
    """`used` includes the driver's reserve in version 1 and excludes it in version 2."""
    driver, probe = start("h100x8")
    driver.set("gpu 0", "memory_used_mib", 1000)
    total = 81559
    old = probe.ask("struct(n.nvmlDeviceGetMemoryInfo(gpu(0)))")
    assert old == {"total": total * MIB, "used": 1565 * MIB, "free": (total - 1565) * MIB}
    new = probe.ask("struct(n.nvmlDeviceGetMemoryInfo(gpu(0), n.nvmlMemory_v2))")
    assert new.pop("version") == 0x02000028
    assert new == {
        "total": total * MIB,
        "reserved": 565 * MIB,
        "used": 1000 * MIB,
        "free": (total - 1565) * MIB,
    }


def test_unified_memory_has_no_total(start: Start) -> None:
    """A GB10 names itself and has a temperature, but no memory total, BAR1 or power limit."""
    _, probe = start("gb10")
    probe.ask("h = gpu(0)")
    assert probe.ask(GETTERS["name"]) == "NVIDIA GB10"
    assert probe.ask(GETTERS["temperature_c"]) == 40
    for key in ("memory_total_mib", "bar1_total_mib", "power_limit_mw", "ecc_memory"):
        assert probe.ask(f"fails(lambda: {GETTERS[key]})") == NOT_SUPPORTED


def test_pci_addresses_come_in_both_spellings(start: Start) -> None:
    """The bus id has an 8-digit domain and capitals, the legacy one 4 digits."""
    _, probe = start("mixed")
    info = probe.ask("struct(n.nvmlDeviceGetPciInfo(gpu(2)))")
    assert (info["domain"], info["bus"], info["device"]) == (0xAD50, 0xD8, 0)
    assert info["busId"] == "0000AD50:D8:00.0"
    assert info["busIdLegacy"] == "AD50:D8:00.0"
    assert info["pciDeviceId"] == 0x1EB810DE


def test_odd_names(start: Start) -> None:
    """A name may fill the whole buffer, be empty, or be bytes that are not UTF-8."""
    _, probe = start("odd_names")
    assert len(probe.ask("n.nvmlDeviceGetName(gpu(0))")) == 95
    with pytest.raises(ProbeError, match="UnicodeDecodeError"):
        probe.ask("n.nvmlDeviceGetName(gpu(1))")
    assert probe.ask("n.nvmlDeviceGetName(gpu(2))") == ""
    assert probe.ask("n.nvmlDeviceGetName(gpu(3))") == 'NVIDIA "quoted" / 100% é, {x} ${y}'


def test_the_same_gpu_has_the_same_handle(start: Start) -> None:
    """Lookups by index and by UUID give one address for one GPU."""
    _, probe = start("h100x8")
    probe.ask("uuid = n.nvmlDeviceGetUUID(gpu(5))")
    probe.ask("by_uuid = n.nvmlDeviceGetHandleByUUID(uuid)")
    assert probe.ask("address(gpu(5)) == address(by_uuid)")
    assert not probe.ask("address(gpu(5)) == address(gpu(4))")


def test_lookup_by_uuid(start: Start) -> None:
    """A UUID finds a GPU or an instance; an unknown one is NotFound."""
    driver, probe = start("a100_mig")
    uuid = driver.get("mig 0.2", "uuid")
    assert probe.ask(f"n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByUUID({uuid!r}))") == uuid
    assert probe.ask("fails(n.nvmlDeviceGetHandleByUUID, 'GPU-none')") == NOT_FOUND


def test_ecc_counters(start: Start) -> None:
    """Corrected and uncorrected errors are counted apart, and the total is over all places."""
    driver, probe = start("h100x8")
    for key, count in (("ecc_l1", 1), ("ecc_l2", 20), ("ecc_memory", 300), ("ecc_sram", 4000)):
        driver.set("gpu 0", key, count)
    driver.set("gpu 0", "ecc_l2_corrected", 7)
    assert probe.ask("n.nvmlDeviceGetTotalEccErrors(gpu(0), 1, 0)") == 4321
    assert probe.ask("n.nvmlDeviceGetTotalEccErrors(gpu(0), 0, 0)") == 7
    assert probe.ask("fails(n.nvmlDeviceGetMemoryErrorCounter, gpu(0), 1, 0, 8)") == (
        INVALID_ARGUMENT
    )


def test_fields_fail_one_by_one(start: Start) -> None:
    """Each field value has its own code: the recovery action is there, an unknown field is not."""
    driver, probe = start("h100x8")
    driver.set("gpu 0", "recovery_action", 2)
    probe.ask("values = n.nvmlDeviceGetFieldValues(gpu(0), [230, 1])")
    assert probe.ask("[v.nvmlReturn for v in values]") == [0, NOT_SUPPORTED]
    assert probe.ask("values[0].value.uiVal") == 2
    driver.clear("gpu 0", "recovery_action")
    probe.ask("values = n.nvmlDeviceGetFieldValues(gpu(0), [230])")
    assert probe.ask("values[0].nvmlReturn") == NOT_SUPPORTED
