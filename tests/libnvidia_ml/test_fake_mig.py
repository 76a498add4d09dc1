# SPDX-License-Identifier: MPL-2.0
"""What the fake driver promises about MIG instances."""

import pytest

from .queries import (
    GETTERS,
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    MIB,
    NO_PERMISSION,
    NOT_FOUND,
    NOT_SUPPORTED,
    Start,
)


def test_mig_modes(start: Start) -> None:
    """MIG is on, off or unknown per GPU, and instances are counted only where it is on."""
    _, probe = start("a100_mig")
    assert probe.ask("[n.nvmlDeviceGetMigMode(gpu(i)) for i in (0, 1)]") == [[1, 1], [0, 0]]
    assert probe.ask("[n.nvmlDeviceGetMaxMigDeviceCount(gpu(i)) for i in (0, 1)]") == [7, 0]
    _, probe = start("mixed")
    assert probe.ask("fails(n.nvmlDeviceGetMigMode, gpu(0))") == NOT_SUPPORTED
    assert probe.ask("n.nvmlDeviceGetMaxMigDeviceCount(gpu(0))") == 0


def test_an_instance_has_no_instances(start: Start) -> None:
    """Asking a MIG handle or a plain GPU as if it were the other kind is refused."""
    _, probe = start("a100_mig")
    assert probe.ask("fails(n.nvmlDeviceGetMaxMigDeviceCount, mig(0, 0))") == NOT_SUPPORTED
    assert probe.ask("fails(n.nvmlDeviceGetAttributes, gpu(0))") == NOT_SUPPORTED
    assert probe.ask("fails(n.nvmlDeviceGetGpuInstanceId, gpu(0))") == INVALID_ARGUMENT


def test_mig_slots_may_be_empty(start: Start) -> None:
    """An empty slot is NotFound between two full ones, and a slot past the last is invalid."""
    _, probe = start("a100_mig")
    codes = probe.ask("[fails(mig, 0, slot) for slot in range(8)]")
    assert codes == [0, NOT_FOUND, 0, *[NOT_FOUND] * 4, INVALID_ARGUMENT]
    assert probe.ask("fails(mig, 1, 0)") == INVALID_ARGUMENT


def test_a_mig_instance_describes_itself(start: Start) -> None:
    """Name, UUID, ids, memory, BAR1 and engine counts are the instance's own."""
    driver, probe = start("a100_mig")
    probe.ask("m = mig(0, 2)")
    assert probe.ask("n.nvmlDeviceGetName(m)") == "NVIDIA A100-SXM4-40GB MIG 3g.20gb"
    assert probe.ask("n.nvmlDeviceGetUUID(m)") == driver.get("mig 0.2", "uuid")
    assert probe.ask("n.nvmlDeviceGetGpuInstanceId(m)") == 2
    assert probe.ask("n.nvmlDeviceGetComputeInstanceId(m)") == 0
    assert probe.ask("n.nvmlDeviceGetMemoryInfo(m).total") == 19968 * MIB
    assert probe.ask("n.nvmlDeviceGetBAR1MemoryInfo(m).bar1Total") == 32767 * MIB
    assert probe.ask("n.nvmlDeviceGetComputeMode(m)") == 0
    assert probe.ask("struct(n.nvmlDeviceGetAttributes(m))") == {
        "multiprocessorCount": 42,
        "sharedCopyEngineCount": 3,
        "sharedDecoderCount": 2,
        "sharedEncoderCount": 0,
        "sharedJpegCount": 0,
        "sharedOfaCount": 0,
        "gpuInstanceSliceCount": 3,
        "computeInstanceSliceCount": 3,
        "memorySizeMB": 19968,
    }


def test_a_mig_instance_knows_its_parent(start: Start) -> None:
    """The parent's handle is the one an index lookup gives; a whole GPU has no parent."""
    _, probe = start("a100_mig")
    probe.ask("parent = n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig(0, 0))")
    assert probe.ask("address(parent) == address(gpu(0))")
    flags = probe.ask("[n.nvmlDeviceIsMigDeviceHandle(x).value for x in (gpu(0), mig(0, 0))]")
    assert flags == [0, 1]
    code = "fails(n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, gpu(1))"
    assert probe.ask(code) == INVALID_ARGUMENT
    _, probe = start("mixed")
    assert probe.ask(code) == NOT_SUPPORTED


@pytest.mark.parametrize(
    "key",
    [
        "temperature_c",
        "power_usage_mw",
        "energy_mj",
        "power_limit_mw",
        "enforced_power_limit_mw",
        "sm_clock_mhz",
        "max_sm_clock_mhz",
        "pcie_gen",
        "pcie_width",
        "pci",
        "persistence_mode",
        "display_mode",
        "supported_events",
        "gpu_utilization",
        "encoder_utilization",
        "decoder_utilization",
        "remapped_rows",
        "mig_mode",
    ],
)
def test_instances_have_no_board_values(start: Start, key: str) -> None:
    """What belongs to the board is NotSupported on a MIG handle."""
    _, probe = start("a100_mig")
    probe.ask("h = mig(0, 0)")
    assert probe.ask(f"fails(lambda: {GETTERS[key]})") == NOT_SUPPORTED


def test_mig_mode_hides_how_busy_the_gpu_is(start: Start) -> None:
    """With MIG on the parent has no utilisation or remapped rows, its neighbour has both."""
    _, probe = start("a100_mig")
    keys = ("gpu_utilization", "encoder_utilization", "decoder_utilization", "remapped_rows")
    for index, code in ((0, NOT_SUPPORTED), (1, 0)):
        probe.ask(f"h = gpu({index})")
        codes = [probe.ask(f"fails(lambda: {GETTERS[key]})") for key in keys]
        assert codes == [code] * len(keys)


def test_the_parents_memory_is_readable_unless_denied(start: Start) -> None:
    """With MIG on the parent's memory works, and a permission fault there spares instances."""
    driver, probe = start("a100_mig")
    assert probe.ask("n.nvmlDeviceGetMemoryInfo(gpu(0)).total") == 40960 * MIB
    driver.set("gpu 0", "fault.nvmlDeviceGetMemoryInfo", NO_PERMISSION)
    assert probe.ask("fails(n.nvmlDeviceGetMemoryInfo, gpu(0))") == NO_PERMISSION
    assert probe.ask("fails(n.nvmlDeviceGetMemoryInfo, mig(0, 0))") == 0


def test_an_instance_can_be_out_of_reach(start: Start) -> None:
    """A fault in an instance's section stops its lookup and not its neighbour's."""
    driver, probe = start("a100_mig")
    driver.set("mig 0.0", "fault.nvmlDeviceGetMigDeviceHandleByIndex", NO_PERMISSION)
    assert probe.ask("[fails(mig, 0, slot) for slot in (0, 2)]") == [NO_PERMISSION, 0]


def test_a_recreated_instance_needs_a_new_handle(start: Start) -> None:
    """When a slot holds an instance with another UUID, the old handle is invalid."""
    driver, probe = start("a100_mig")
    probe.ask("old = mig(0, 0)")
    driver.set("mig 0.0", "uuid", "MIG-another")
    assert probe.ask("fails(n.nvmlDeviceGetName, old)") == INVALID_ARGUMENT
    assert probe.ask("n.nvmlDeviceGetUUID(mig(0, 0))") == "MIG-another"


@pytest.mark.parametrize("way", ["destroyed", "mig off"])
def test_a_destroyed_instance_leaves_an_invalid_handle(start: Start, way: str) -> None:
    """Without the instance, or with MIG switched off, its handle and UUID mean nothing."""
    driver, probe = start("a100_mig")
    probe.ask("old = mig(0, 0)")
    uuid = driver.get("mig 0.0", "uuid")
    if way == "destroyed":
        driver.remove_section("mig 0.0")
    else:
        driver.set("gpu 0", "mig_mode", 0)
    assert probe.ask("fails(n.nvmlDeviceGetName, old)") == INVALID_ARGUMENT
    assert probe.ask(f"fails(n.nvmlDeviceGetHandleByUUID, {uuid!r})") == NOT_FOUND


def test_instances_of_a_lost_gpu_are_lost(start: Start) -> None:
    """Losing the parent loses its instances and not the other GPU."""
    driver, probe = start("a100_mig")
    probe.ask("m = mig(0, 0)")
    driver.set("gpu 0", "lost", 1)
    assert probe.ask("fails(n.nvmlDeviceGetMemoryInfo, m)") == GPU_IS_LOST
    assert probe.ask("fails(n.nvmlDeviceGetMemoryInfo, gpu(1))") == 0


def test_subsliced_instances_report_the_shared_memory_each(start: Start) -> None:
    """Two compute instances of one GPU instance share its id and both report all its memory."""
    _, probe = start("a100_mig_subsliced")
    probe.ask("ms = [mig(0, slot) for slot in range(3)]")
    assert probe.ask("[n.nvmlDeviceGetGpuInstanceId(m) for m in ms]") == [1, 1, 2]
    assert probe.ask("[n.nvmlDeviceGetComputeInstanceId(m) for m in ms]") == [0, 1, 0]
    assert probe.ask("{n.nvmlDeviceGetMemoryInfo(m).total for m in ms}") == {19968 * MIB}
    assert probe.ask("[n.nvmlDeviceGetAttributes(m).multiprocessorCount for m in ms]") == [
        14,
        28,
        42,
    ]


def test_an_instance_counts_only_its_sram_errors(start: Start) -> None:
    """On a MIG handle the uncorrected volatile SRAM count works and no other count does."""
    driver, probe = start("a100_mig")
    driver.set("mig 0.0", "ecc_sram", 3)
    assert probe.ask("n.nvmlDeviceGetMemoryErrorCounter(mig(0, 0), 1, 0, 7)") == 3
    codes = probe.ask(
        "[fails(n.nvmlDeviceGetMemoryErrorCounter, mig(0, 0), *a)"
        " for a in ((0, 0, 7), (1, 1, 7), (1, 0, 2))]"
    )
    assert codes == [NOT_SUPPORTED] * 3
