# SPDX-License-Identifier: MPL-2.0
"""Queries of NVML with their traps: one fact each, None where the GPU has no such thing.

Used by `gpu.nvml` alone, which hands in the pynvml module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nomad_nvidia_vgpu.errors import GpuError
from nomad_nvidia_vgpu.gpu.model import Gpu, Signals
from nomad_nvidia_vgpu.gpu.nvml import pcie
from nomad_nvidia_vgpu.gpu.nvml.asking import Asker, plausible

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
_MIG_SLOTS = 7
_KNOWS_NO_MIG = (2, 3, 13)
"""NVML's InvalidArgument (its handle was good a moment ago), NotSupported, FunctionNotFound."""

MOST_MEMORY_BYTES = 2**46
"""The largest plausible size: 64 TiB. The largest GPU of 2026 has less than one hundredth."""
_MOST_MILLIWATTS = 100_000_000
_MOST_MHZ = 100_000
_MOST_LANES = 32
_MOST_CAPABILITY = 99
_MOST_CUDA = 999_999
_MOST_MIG_SLOTS = 64
_MOST_INSTANCES = 1000
_MOST_RECOVERY_ACTION = 255
_UNKNOWN_MODEL = "NVIDIA GPU"


class System(NamedTuple):
    """What is the same for all GPUs of a node."""

    driver_version: str | None = None
    cuda_driver_version: float | None = None


def read_system(ask: Asker) -> System:
    """Versions of driver and CUDA; NVMLError only if the session has ended."""
    nvml = ask.nvml
    cuda = plausible(ask(nvml.nvmlSystemGetCudaDriverVersion_v2), _MOST_CUDA, least=1000)
    return System(
        driver_version=clean(ask(nvml.nvmlSystemGetDriverVersion)),
        cuda_driver_version=cuda and round(cuda // 1000 + cuda % 1000 / 100, 1),
    )


def mig_slots(
    ask: Asker, handle: Any, before: Mapping[int, Any] | None, *, known: bool
) -> dict[int, Any] | None:
    """Handles of the MIG devices of a GPU in MIG mode by slot (perhaps none); None without MIG mode.

    `before` is what the last look found, if there was one (`known`); it holds where the driver
    fails to tell: only an answer may turn a GPU in MIG mode into a whole one, or the other way
    round. NVMLError if nothing is known.
    """
    nvml = ask.nvml
    try:
        mode, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError as error:
        ask.failed("nvmlDeviceGetMigMode", error)
        if known or error.value in _KNOWS_NO_MIG:
            return None if before is None else dict(before)
        raise
    if mode != nvml.NVML_DEVICE_MIG_ENABLE:
        return None
    found: dict[int, Any] = {}
    slots = plausible(ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle), _MOST_MIG_SLOTS)
    for slot in range(_MIG_SLOTS if slots is None else slots):
        try:
            found[slot] = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot)
        except nvml.NVMLError as error:  # slots are sparse: an empty one says no more than that
            if error.value in (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_INVALID_ARGUMENT):
                continue
            ask.failed("nvmlDeviceGetMigDeviceHandleByIndex", error)
            if not before or slot not in before:
                raise
            found[slot] = before[slot]
    return found


def compute_mode(ask: Asker, handle: Any) -> str | None:
    """The compute mode of a physical GPU."""
    number = ask(ask.nvml.nvmlDeviceGetComputeMode, handle)
    return COMPUTE_MODES[number] if number in range(len(COMPUTE_MODES)) else None


def signals(ask: Asker, handle: Any) -> Signals:
    """What lasts in the driver of a GPU's faults; it survives a restart of ours, events do not."""
    nvml = ask.nvml
    rows = ask(nvml.nvmlDeviceGetRemappedRows, handle)
    failed = plausible(rows and rows[3], 1)
    energy_mj = ask(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
    return Signals(
        recovery_action=_field(ask, handle, nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION),
        row_remap_failed=None if failed is None else bool(failed),
        energy_mj=plausible(energy_mj, 2**62),
    )


def _field(ask: Asker, handle: Any, field: int) -> int | None:
    """A field's value; each field has a return code of its own."""
    values = ask(ask.nvml.nvmlDeviceGetFieldValues, handle, [field])
    if not values or values[0].nvmlReturn != ask.nvml.NVML_SUCCESS:
        return None
    return plausible(values[0].value.uiVal, _MOST_RECOVERY_ACTION)


def clean(text: str | None) -> str | None:
    """Text fit for Nomad: without NULs, control characters and the bar that breaks its tables."""
    if text is None:
        return None
    kept = "".join(c if c.isprintable() and c != "|" else " " for c in text.split("\0")[0])
    return " ".join(kept.split())[:_MAX_NAME] or None


class Reader:
    """Reads the lasting facts of GPUs from one NVML session."""

    def __init__(self, ask: Asker, system: System, meminfo: Path = _MEMINFO) -> None:
        """`meminfo` is where the system's memory is found, for GPUs that use it."""
        self._ask = ask
        self._nvml = ask.nvml
        self._system = system
        self._meminfo = meminfo

    def gpu(
        self, handle: Any, uuid: str, index: int | None = None, before: Gpu | None = None
    ) -> Gpu:
        """A physical GPU; NVMLError when it is lost.

        `index` is where the driver lists it now. `before` is what the last look found: what cannot change holds, whatever a call says.
        """
        nvml = self._nvml
        memory_mib = self._total_mib(handle)
        unified = False
        if memory_mib is None and before is not None and before.memory_mib is not None:
            memory_mib, unified = before.memory_mib, before.unified_memory
        elif memory_mib is None:
            memory_mib, unified = self._memory_at_second_sight(handle)
        model = clean(self._ask.twice(nvml.nvmlDeviceGetName, handle))
        architecture = _ARCHITECTURES.get(self._ask(nvml.nvmlDeviceGetArchitecture, handle) or 0)
        return Gpu(
            uuid=uuid,
            model=model or (before.model if before else _UNKNOWN_MODEL),
            memory_mib=self._system_memory_mib() if unified else memory_mib,
            bar1_mib=self._bar1_mib(handle),
            power_limit_w=self._power_limit_w(handle),
            cores_clock_mhz=self._max_clock_mhz(handle, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=self._max_clock_mhz(handle, nvml.NVML_CLOCK_MEM),
            # GB10 reports a placeholder link of the first generation with one lane.
            pci_bandwidth_mb_s=None if unified else self._pci_bandwidth_mb_s(handle),
            pci_bus_id=self._pci_bus_id(handle) or (before and before.pci_bus_id),
            driver_index=index,
            display_state=_word(self._ask(nvml.nvmlDeviceGetDisplayMode, handle)),
            persistence_mode=_word(self._ask(nvml.nvmlDeviceGetPersistenceMode, handle)),
            compute_mode=compute_mode(self._ask, handle),
            driver_version=self._system.driver_version,
            cuda_driver_version=self._system.cuda_driver_version,
            cuda_compute_capability=self._compute_capability(handle)
            or (before and before.cuda_compute_capability),
            architecture=architecture or (before and before.architecture),
            unified_memory=unified,
        )

    def mig_device(self, handle: Any, parent: Gpu, before: Gpu | None = None) -> Gpu:
        """A MIG device; what NVML tells only of its parent is the parent's.

        `before` is what the last look found in its slot. GpuError when its UUID is no UUID.
        """
        nvml = self._nvml
        uuid = self._mig_uuid(handle, before)
        if before is not None and before.uuid != uuid:
            before = None  # another device in the same slot
        name = clean(self._ask.twice(nvml.nvmlDeviceGetName, handle))
        name = name or (before.model if before else f"{parent.model} MIG")
        memory_mib = self._total_mib(handle)
        return Gpu(
            uuid=uuid,
            model=name,
            parent_uuid=parent.uuid,
            mig_profile=name.rpartition("MIG ")[2] if "MIG " in name else None,
            gpu_instance_id=self._instance_id(
                nvml.nvmlDeviceGetGpuInstanceId, handle, before and before.gpu_instance_id
            ),
            compute_instance_id=self._instance_id(
                nvml.nvmlDeviceGetComputeInstanceId, handle, before and before.compute_instance_id
            ),
            memory_mib=before.memory_mib if memory_mib is None and before else memory_mib,
            bar1_mib=self._bar1_mib(handle),
            power_limit_w=parent.power_limit_w,
            cores_clock_mhz=parent.cores_clock_mhz,
            memory_clock_mhz=parent.memory_clock_mhz,
            pci_bandwidth_mb_s=parent.pci_bandwidth_mb_s,
            pci_bus_id=parent.pci_bus_id,
            driver_index=parent.driver_index,
            display_state=parent.display_state,
            persistence_mode=parent.persistence_mode,
            driver_version=parent.driver_version,
            cuda_driver_version=parent.cuda_driver_version,
            cuda_compute_capability=parent.cuda_compute_capability,
            architecture=parent.architecture,
        )

    def _mig_uuid(self, handle: Any, before: Gpu | None) -> str:
        try:
            return checked_uuid(str(self._nvml.nvmlDeviceGetUUID(handle)))
        except self._nvml.NVMLError as error:
            self._ask.failed("nvmlDeviceGetUUID", error)
            if before is None:
                raise
            return before.uuid

    def _instance_id(
        self, query: Callable[..., Any], handle: Any, before: int | None
    ) -> int | None:
        number = plausible(self._ask(query, handle), _MOST_INSTANCES)
        return before if number is None else number

    def _max_clock_mhz(self, handle: Any, clock: int) -> int | None:
        return plausible(
            self._ask(self._nvml.nvmlDeviceGetMaxClockInfo, handle, clock), _MOST_MHZ, least=1
        )

    def _total_mib(self, handle: Any) -> int | None:
        info = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, handle)
        total = plausible(info and info.total, MOST_MEMORY_BYTES, least=1 << 20)
        return None if total is None else total >> 20

    def _memory_at_second_sight(self, handle: Any) -> tuple[int | None, bool]:
        """The total of a GPU whose first answer was none, and whether it is the system's memory.

        That is so where the query is plainly unsupported, or says zero and there is no BAR1
        either, on real hardware: a guest of NVIDIA's hypervisor product may support next to
        nothing and says nothing of the host's memory.
        """
        nvml = self._nvml
        if self._ask(nvml.nvmlDeviceGetVirtualizationMode, handle) == _VGPU_GUEST:
            return None, False
        try:
            info = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError as error:
            self._ask.failed("nvmlDeviceGetMemoryInfo", error)
            return None, error.value == nvml.NVML_ERROR_NOT_SUPPORTED
        if not info.total:
            return None, self._bar1_mib(handle) is None
        total = plausible(info.total, MOST_MEMORY_BYTES, least=1 << 20)
        return (None if total is None else total >> 20), False

    def _system_memory_mib(self) -> int | None:
        try:
            found = re.search(r"^MemTotal:\s+(\d+) kB", self._meminfo.read_text(), re.MULTILINE)
        except OSError:
            return None
        return int(found[1]) >> 10 if found else None

    def _bar1_mib(self, handle: Any) -> int | None:
        info = self._ask(self._nvml.nvmlDeviceGetBAR1MemoryInfo, handle)
        total = plausible(info and info.bar1Total, MOST_MEMORY_BYTES, least=1 << 20)
        return None if total is None else total >> 20

    def _power_limit_w(self, handle: Any) -> int | None:
        for query in (
            self._nvml.nvmlDeviceGetEnforcedPowerLimit,
            self._nvml.nvmlDeviceGetPowerManagementLimit,
        ):
            milliwatts = plausible(self._ask(query, handle), _MOST_MILLIWATTS)
            if milliwatts is not None:
                return milliwatts // 1000
        return None

    def _pci_bandwidth_mb_s(self, handle: Any) -> int | None:
        generation = self._ask(self._nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle)
        width = plausible(self._ask(self._nvml.nvmlDeviceGetMaxPcieLinkWidth, handle), _MOST_LANES)
        if generation is None or width is None:
            return None
        return pcie.bandwidth_mb_s(generation, width)

    def _pci_bus_id(self, handle: Any) -> str | None:
        info = self._ask(self._nvml.nvmlDeviceGetPciInfo, handle)
        return info and pcie.sysfs_bus_id(info.domain, info.bus, info.device)

    def _compute_capability(self, handle: Any) -> float | None:
        version = self._ask(self._nvml.nvmlDeviceGetCudaComputeCapability, handle)
        major = plausible(version and version[0], _MOST_CAPABILITY, least=1)
        minor = plausible(version and version[1], _MOST_CAPABILITY)
        return None if major is None or minor is None else float(f"{major}.{minor}")


def _word(state: int | None) -> str | None:
    return {0: "Disabled", 1: "Enabled"}.get(-1 if state is None else state)


def checked_uuid(uuid: str) -> str:
    """The UUID; GpuError if it is none."""
    if not _UUID.fullmatch(uuid):
        raise GpuError(
            f"the driver gives {uuid!r:.80} as a UUID", "reset the GPU or its MIG device"
        )
    return uuid
