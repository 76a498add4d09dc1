# SPDX-License-Identifier: MPL-2.0
"""Queries of NVML with their traps: one fact each, None where the GPU has no such thing.

Used by `gpu.nvml` alone, which hands in the pynvml module.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from nomad_nvidia_vgpu.errors import GpuError
from nomad_nvidia_vgpu.gpu.model import Gpu, Ratio, Signals
from nomad_nvidia_vgpu.gpu.nvml import pcie

_ARCHITECTURES = {
    2: "kepler",
    3: "maxwell",
    4: "pascal",
    5: "volta",
    6: "turing",
    7: "ampere",
    8: "ada",
    9: "hopper",
    10: "blackwell",
}
COMPUTE_MODES = ("DEFAULT", "EXCLUSIVE_THREAD", "PROHIBITED", "EXCLUSIVE_PROCESS")
"""NVML's compute modes by number, in the words of `nvidia-smi -c`."""
_UUID = re.compile(r"[A-Za-z0-9/-]{1,200}")
_MEMINFO = Path("/proc/meminfo")
_VGPU_GUEST = 2
_MAX_NAME = 128
_UNKNOWN_MODEL = "NVIDIA GPU"


class System(NamedTuple):
    """What is the same for all GPUs of a node."""

    driver_version: str | None = None
    cuda_driver_version: float | None = None


def optional(nvml: ModuleType, query: Callable[..., Any], *args: object) -> Any:
    """The answer, or None if this GPU, driver or mode has no such value.

    Errors that speak of the GPU or the session as a whole go on to the caller.
    """
    try:
        return query(*args)
    except nvml.NVMLError as error:
        if error.value in (
            nvml.NVML_ERROR_GPU_IS_LOST,
            nvml.NVML_ERROR_RESET_REQUIRED,
            nvml.NVML_ERROR_IRQ_ISSUE,
            nvml.NVML_ERROR_UNINITIALIZED,
            nvml.NVML_ERROR_DRIVER_NOT_LOADED,
            nvml.NVML_ERROR_INVALID_ARGUMENT,  # a stale handle
        ):
            raise
        return None
    except UnicodeDecodeError:  # raised by pynvml for bytes that are no UTF-8
        return None


def read_system(nvml: ModuleType) -> System:
    """Versions of driver and CUDA."""
    cuda = optional(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
    return System(
        driver_version=clean(optional(nvml, nvml.nvmlSystemGetDriverVersion)),
        cuda_driver_version=cuda and round(cuda // 1000 + cuda % 1000 / 100, 1),
    )


def mig_handles(nvml: ModuleType, handle: Any) -> list[Any] | None:
    """Handles of the MIG devices of a GPU in MIG mode (perhaps none), or None without MIG mode.

    Only "not supported" means that there is no MIG: any other failure must not turn a GPU in
    MIG mode into a whole one.
    """
    try:
        mode, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError as error:
        if error.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
            return None
        raise
    if mode != nvml.NVML_DEVICE_MIG_ENABLE:
        return None
    handles = []
    for slot in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            handles.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot))
        except nvml.NVMLError as error:  # slots are sparse: an empty one says no more than that
            if error.value not in (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_INVALID_ARGUMENT):
                raise
    return handles


def memory_in_use(nvml: ModuleType, handle: Any) -> Ratio | None:
    """Used and total memory in MiB, without what the driver keeps for itself where it says so.

    The first form of the query counts the driver's part as used: half a GiB on an idle card.
    """
    info = optional(nvml, nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
    info = info or optional(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    return info and Ratio(info.used >> 20, info.total >> 20)


def compute_mode(nvml: ModuleType, handle: Any) -> str | None:
    """The compute mode of a physical GPU."""
    number = optional(nvml, nvml.nvmlDeviceGetComputeMode, handle)
    return COMPUTE_MODES[number] if number in range(len(COMPUTE_MODES)) else None


def signals(nvml: ModuleType, handle: Any) -> Signals:
    """What lasts in the driver of a GPU's faults; it survives a restart of ours, events do not."""
    rows = optional(nvml, nvml.nvmlDeviceGetRemappedRows, handle)
    return Signals(
        recovery_action=_field(nvml, handle, nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION),
        row_remap_failed=rows and bool(rows[3]),
    )


def _field(nvml: ModuleType, handle: Any, field: int) -> int | None:
    """A field's value; each field has a return code of its own."""
    values = optional(nvml, nvml.nvmlDeviceGetFieldValues, handle, [field])
    if not values or values[0].nvmlReturn != nvml.NVML_SUCCESS:
        return None
    return int(values[0].value.uiVal)


def clean(text: str | None) -> str | None:
    """Text fit for Nomad: without NULs, control characters and the bar that breaks its tables."""
    if text is None:
        return None
    kept = "".join(c if c.isprintable() and c != "|" else " " for c in text.split("\0")[0])
    return " ".join(kept.split())[:_MAX_NAME] or None


class Reader:
    """Reads the lasting facts of GPUs from one NVML session."""

    def __init__(self, nvml: ModuleType, system: System, meminfo: Path = _MEMINFO) -> None:
        """`meminfo` is where the system's memory is found, for GPUs that use it."""
        self._nvml = nvml
        self._system = system
        self._meminfo = meminfo

    def gpu(self, handle: Any, uuid: str) -> Gpu:
        """A physical GPU; NVMLError when it is lost, GpuError when its UUID is no UUID."""
        nvml = self._nvml
        memory_mib = self._total_mib(handle)
        unified = memory_mib is None and self._has_no_memory_of_its_own(handle)
        return Gpu(
            uuid=_checked(uuid),
            model=clean(self._value(nvml.nvmlDeviceGetName, handle)) or _UNKNOWN_MODEL,
            memory_mib=self._system_memory_mib() if unified else memory_mib,
            bar1_mib=self._bar1_mib(handle),
            power_limit_w=self._power_limit_w(handle),
            cores_clock_mhz=self._value(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self._value(
                nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_MEM
            ),
            # GB10 reports a placeholder link of the first generation with one lane.
            pci_bandwidth_mb_s=None if unified else self._pci_bandwidth_mb_s(handle),
            pci_bus_id=self._pci_bus_id(handle),
            display_state=_word(self._value(nvml.nvmlDeviceGetDisplayMode, handle)),
            persistence_mode=_word(self._value(nvml.nvmlDeviceGetPersistenceMode, handle)),
            compute_mode=compute_mode(nvml, handle),
            driver_version=self._system.driver_version,
            cuda_driver_version=self._system.cuda_driver_version,
            cuda_compute_capability=self._compute_capability(handle),
            architecture=_ARCHITECTURES.get(
                self._value(nvml.nvmlDeviceGetArchitecture, handle) or 0
            ),
            unified_memory=unified,
        )

    def mig_device(self, handle: Any, parent: Gpu) -> Gpu:
        """A MIG device; what NVML tells only of its parent is the parent's."""
        nvml = self._nvml
        name = clean(self._value(nvml.nvmlDeviceGetName, handle)) or f"{parent.model} MIG"
        return Gpu(
            uuid=_checked(str(nvml.nvmlDeviceGetUUID(handle))),
            model=name,
            parent_uuid=parent.uuid,
            mig_profile=name.rpartition("MIG ")[2] if "MIG " in name else None,
            gpu_instance_id=self._value(nvml.nvmlDeviceGetGpuInstanceId, handle),
            compute_instance_id=self._value(nvml.nvmlDeviceGetComputeInstanceId, handle),
            memory_mib=self._total_mib(handle),
            bar1_mib=self._bar1_mib(handle),
            power_limit_w=parent.power_limit_w,
            cores_clock_mhz=parent.cores_clock_mhz,
            memory_clock_mhz=parent.memory_clock_mhz,
            pci_bandwidth_mb_s=parent.pci_bandwidth_mb_s,
            pci_bus_id=parent.pci_bus_id,
            display_state=parent.display_state,
            persistence_mode=parent.persistence_mode,
            driver_version=parent.driver_version,
            cuda_driver_version=parent.cuda_driver_version,
            cuda_compute_capability=parent.cuda_compute_capability,
            architecture=parent.architecture,
        )

    def _value(self, query: Callable[..., Any], *args: object) -> Any:
        return optional(self._nvml, query, *args)

    def _total_mib(self, handle: Any) -> int | None:
        info = self._value(self._nvml.nvmlDeviceGetMemoryInfo, handle)
        return None if info is None else int(info.total) >> 20

    def _has_no_memory_of_its_own(self, handle: Any) -> bool:
        """Whether the memory query is plainly unsupported, on real hardware.

        A guest of NVIDIA's hypervisor product may support next to nothing and says nothing of
        the host's memory.
        """
        nvml = self._nvml
        if self._value(nvml.nvmlDeviceGetVirtualizationMode, handle) == _VGPU_GUEST:
            return False
        try:
            nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError as error:
            return bool(error.value == nvml.NVML_ERROR_NOT_SUPPORTED)
        return False

    def _system_memory_mib(self) -> int | None:
        try:
            found = re.search(r"^MemTotal:\s+(\d+) kB", self._meminfo.read_text(), re.MULTILINE)
        except OSError:
            return None
        return int(found[1]) >> 10 if found else None

    def _bar1_mib(self, handle: Any) -> int | None:
        info = self._value(self._nvml.nvmlDeviceGetBAR1MemoryInfo, handle)
        return None if info is None else int(info.bar1Total) >> 20

    def _power_limit_w(self, handle: Any) -> int | None:
        milliwatts = self._value(self._nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        if milliwatts is None:
            milliwatts = self._value(self._nvml.nvmlDeviceGetPowerManagementLimit, handle)
        return None if milliwatts is None else int(milliwatts) // 1000

    def _pci_bandwidth_mb_s(self, handle: Any) -> int | None:
        generation = self._value(self._nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle)
        width = self._value(self._nvml.nvmlDeviceGetMaxPcieLinkWidth, handle)
        if generation is None or width is None:
            return None
        return pcie.bandwidth_mb_s(generation, width)

    def _pci_bus_id(self, handle: Any) -> str | None:
        info = self._value(self._nvml.nvmlDeviceGetPciInfo, handle)
        return info and pcie.sysfs_bus_id(info.domain, info.bus, info.device)

    def _compute_capability(self, handle: Any) -> float | None:
        version = self._value(self._nvml.nvmlDeviceGetCudaComputeCapability, handle)
        return version and float(f"{version[0]}.{version[1]}")


def _word(state: int | None) -> str | None:
    return None if state is None else ("Enabled" if state else "Disabled")


def _checked(uuid: str) -> str:
    if not _UUID.fullmatch(uuid):
        raise GpuError(
            f"the driver gives {uuid!r:.80} as a UUID", "reset the GPU or its MIG device"
        )
    return uuid
