# SPDX-License-Identifier: MPL-2.0
"""Error codes, queries and waits that the tests of the fake driver share."""

import time
from collections.abc import Callable

from .driver import Call, FakeDriver
from .probe import Probe

Start = Callable[..., tuple[FakeDriver, Probe]]

UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
INSUFFICIENT_SIZE = 7
DRIVER_NOT_LOADED = 9
TIMEOUT = 10
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
GPU_NOT_FOUND = 28
UNKNOWN = 999

XID = 0x8
MIB = 1024 * 1024

# Every getter of a whole GPU that one key switches off: the key, and the call.
GETTERS = {
    "name": "n.nvmlDeviceGetName(h)",
    "uuid": "n.nvmlDeviceGetUUID(h)",
    "minor_number": "n.nvmlDeviceGetMinorNumber(h)",
    "pci": "n.nvmlDeviceGetPciInfo(h).busId",
    "memory_total_mib": "n.nvmlDeviceGetMemoryInfo(h).total",
    "bar1_total_mib": "n.nvmlDeviceGetBAR1MemoryInfo(h).bar1Total",
    "power_limit_mw": "n.nvmlDeviceGetPowerManagementLimit(h)",
    "enforced_power_limit_mw": "n.nvmlDeviceGetEnforcedPowerLimit(h)",
    "power_usage_mw": "n.nvmlDeviceGetPowerUsage(h)",
    "energy_mj": "n.nvmlDeviceGetTotalEnergyConsumption(h)",
    "temperature_c": "n.nvmlDeviceGetTemperature(h, 0)",
    "max_sm_clock_mhz": "n.nvmlDeviceGetMaxClockInfo(h, n.NVML_CLOCK_SM)",
    "max_memory_clock_mhz": "n.nvmlDeviceGetMaxClockInfo(h, n.NVML_CLOCK_MEM)",
    "sm_clock_mhz": "n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM)",
    "memory_clock_mhz": "n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM)",
    "pcie_gen": "n.nvmlDeviceGetMaxPcieLinkGeneration(h)",
    "pcie_width": "n.nvmlDeviceGetMaxPcieLinkWidth(h)",
    "gpu_pcie_gen": "n.nvmlDeviceGetGpuMaxPcieLinkGeneration(h)",
    "gpu_utilization": "n.nvmlDeviceGetUtilizationRates(h).gpu",
    "memory_utilization": "n.nvmlDeviceGetUtilizationRates(h).memory",
    "encoder_utilization": "n.nvmlDeviceGetEncoderUtilization(h)[0]",
    "decoder_utilization": "n.nvmlDeviceGetDecoderUtilization(h)[0]",
    "ecc_l1": "n.nvmlDeviceGetMemoryErrorCounter(h, 1, 0, 0)",
    "ecc_l2": "n.nvmlDeviceGetMemoryErrorCounter(h, 1, 0, 1)",
    "ecc_memory": "n.nvmlDeviceGetMemoryErrorCounter(h, 1, 0, 2)",
    "ecc_l2_corrected": "n.nvmlDeviceGetMemoryErrorCounter(h, 0, 0, 1)",
    "display_mode": "n.nvmlDeviceGetDisplayMode(h)",
    "display_active": "n.nvmlDeviceGetDisplayActive(h)",
    "persistence_mode": "n.nvmlDeviceGetPersistenceMode(h)",
    "compute_mode": "n.nvmlDeviceGetComputeMode(h)",
    "virtualization_mode": "n.nvmlDeviceGetVirtualizationMode(h)",
    "compute_capability": "n.nvmlDeviceGetCudaComputeCapability(h)",
    "architecture": "n.nvmlDeviceGetArchitecture(h)",
    "mig_mode": "n.nvmlDeviceGetMigMode(h)",
    "supported_events": "n.nvmlDeviceGetSupportedEventTypes(h)",
    "remapped_rows": "n.nvmlDeviceGetRemappedRows(h)",
    "retired_pages_pending": "n.nvmlDeviceGetRetiredPagesPendingStatus(h)",
    "memory_numa_node": "n.nvmlDeviceGetNumaNodeId(h)",
}


def wait_for_call(driver: FakeDriver, call: Call) -> None:
    """Return once the call went into the library, whether or not it has come back."""
    deadline = time.monotonic() + 120
    while call not in driver.call_log():
        assert time.monotonic() < deadline, f"{call} was never made"
        time.sleep(0.01)  # between two reads of another process's calls
