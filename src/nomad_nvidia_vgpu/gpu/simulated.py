# SPDX-License-Identifier: MPL-2.0
"""Simulated GPUs: a source of GPUs like NVML, for trying the plugin without hardware.

UUIDs depend on the profile and the GPU's number among those of its profile alone, so they
survive restarts and changes to the rest of the list.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone

from nomad_nvidia_vgpu.gpu.model import Gpu, GpuProcess, GpuSample, Look, Ratio, XidEvent
from nomad_nvidia_vgpu.gpu.nvml import pcie
from nomad_nvidia_vgpu.gpu.profiles import (
    PROFILES,
    GpuProfile,
    SimulatedGpus,
    gpu_instance_profile,
    gpu_instances,
)

DRIVER_VERSION = "580.95.05"
CUDA_DRIVER_VERSION = 13.0

_NAMESPACE = bytes.fromhex("6f0a1c5e8b0d5d0e9b631d2a6c1c7a50")
_MEMORY_SLICES = 8
_LOAD_PERIOD_S = 23.0  # of a radian
_DRIVER_LIVES_S = 7 * 86400.0


class SimulatedSource:
    """The GPUs that the option `simulate` lists; a `GpuSource`."""

    def __init__(
        self, wanted: Sequence[SimulatedGpus], clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` gives seconds; the moving figures are functions of it."""
        self._clock = clock
        self._gpus: dict[str, tuple[int, GpuProfile, Look]] = {}
        numbers: dict[str, int] = {}
        for entry in wanted:
            for _ in range(entry.number):
                number = numbers.get(entry.profile, 0)
                numbers[entry.profile] = number + 1
                look = _look(entry, number, slot=len(self._gpus))
                self._gpus[look.physical_uuid] = (len(self._gpus), PROFILES[entry.profile], look)

    def open(self) -> None:
        """Always ready."""

    def count(self) -> int:
        """How many GPUs are simulated."""
        return len(self._gpus)

    def find(self, index: int) -> str:
        """The UUID of the simulated GPU at this place of the list."""
        return list(self._gpus)[index]

    def look(self, uuid: str) -> Look:
        """The facts of one simulated GPU; they never change."""
        return self._gpus[uuid][2]

    def sample(self, uuid: str) -> Mapping[str, GpuSample]:
        """Plausible moving figures: slow waves, out of step between GPUs."""
        index, profile, look = self._gpus[uuid]
        now = self._clock()
        return {
            gpu.uuid: _sample(profile, gpu, now, phase=index + 0.37 * part)
            for part, gpu in enumerate(look.gpus)
        }

    def processes(self, uuid: str) -> Mapping[str, Sequence[GpuProcess]]:  # noqa: ARG002
        """Not known: nothing can run on a simulated GPU, whatever its figures look like."""
        return {}

    def compute_mode(self, uuid: str) -> str | None:  # noqa: ARG002
        """None: nothing computes here."""
        return None

    def set_compute_mode(self, uuid: str, mode: str) -> None:
        """Does nothing."""

    def wait_for_events(self, timeout_s: float) -> Sequence[XidEvent]:
        """None: simulated GPUs have no faults."""
        threading.Event().wait(timeout_s)
        return ()


def _look(entry: SimulatedGpus, number: int, slot: int) -> Look:
    profile = PROFILES[entry.profile]
    gpu = Gpu(
        uuid=_uuid("GPU", f"{entry.profile}/{number}"),
        model=profile.model,
        memory_mib=profile.memory_mib,
        bar1_mib=profile.bar1_mib,
        power_limit_w=profile.power_limit_w,
        cores_clock_mhz=profile.cores_clock_mhz,
        memory_clock_mhz=profile.memory_clock_mhz,
        pci_bandwidth_mb_s=pcie.bandwidth_mb_s(*profile.pcie) if profile.pcie else None,
        pci_bus_id=pcie.sysfs_bus_id(*divmod(0x07 + 4 * slot, 0x100), 0),
        driver_index=slot,
        display_state="Disabled",
        persistence_mode="Enabled",
        driver_version=DRIVER_VERSION,
        cuda_driver_version=CUDA_DRIVER_VERSION,
        cuda_compute_capability=profile.compute_capability,
        architecture=profile.architecture,
        unified_memory=profile.unified_memory,
        simulated=True,
    )
    if not entry.mig:
        return Look(gpu.uuid, (gpu,))
    devices = (_mig_device(entry, profile, gpu, number, i) for i in range(len(entry.mig)))
    return Look(gpu.uuid, tuple(devices))


def _mig_device(
    entry: SimulatedGpus, profile: GpuProfile, parent: Gpu, number: int, position: int
) -> Gpu:
    name = entry.mig[position]
    instance, compute_instance = _numbers(entry.mig)[position]
    kind = profile.mig[gpu_instance_profile(name)]
    part = kind.memory_slices / _MEMORY_SLICES
    return parent._replace(
        uuid=_uuid("MIG", f"{entry.profile}/{number}/{position}/{name}"),
        model=f"{profile.model} MIG {name}",
        parent_uuid=parent.uuid,
        mig_profile=name,
        gpu_instance_id=1 + instance,
        compute_instance_id=compute_instance,
        memory_mib=kind.memory_mib or int((profile.memory_mib or 0) * part),
        bar1_mib=int(profile.bar1_mib * part) if profile.bar1_mib else None,
    )


def _numbers(layout: tuple[str, ...]) -> list[tuple[int, int]]:
    """The GPU instance and the compute instance of each MIG device."""
    return [
        (instance, compute_instance)
        for instance, devices in enumerate(gpu_instances(layout))
        for compute_instance in range(len(devices))
    ]


def _uuid(prefix: str, name: str) -> str:
    """A UUID of version 5, as `uuid.uuid5` makes it; that module costs each start 2 ms."""
    digest = bytearray(hashlib.sha1(_NAMESPACE + name.encode()).digest()[:16])  # noqa: S324
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{prefix}-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _sample(profile: GpuProfile, gpu: Gpu, now: float, phase: float) -> GpuSample:
    load = 0.5 + 0.45 * math.sin(now / _LOAD_PERIOD_S + phase)
    filled = 0.45 + 0.35 * math.sin(now / 61.0 + 1.7 * phase)
    limit = profile.power_limit_w
    loaded_w = 0.8 * ((limit or 200) - profile.idle_w)
    errors = 0 if profile.ecc else None
    busy = None if gpu.mig_profile else round(100 * load)  # NVML knows none while MIG is on
    return GpuSample(
        taken_at=datetime.fromtimestamp(now, tz=timezone.utc),
        power_w=Ratio(round(profile.idle_w + load * loaded_w), limit),
        energy_mj=_energy_mj(profile.idle_w, loaded_w, now, phase),
        gpu_utilization_percent=busy,
        memory_utilization_percent=None if busy is None else round(0.6 * busy),
        encoder_utilization_percent=None if busy is None else 0,
        decoder_utilization_percent=None if busy is None else 0,
        temperature_c=round(profile.idle_c + 38 * load),
        memory_mib=Ratio(round(gpu.memory_mib * filled), gpu.memory_mib)
        if gpu.memory_mib
        else None,
        bar1_mib=Ratio(2, gpu.bar1_mib) if gpu.bar1_mib else None,
        ecc_l1_errors=errors,
        ecc_l2_errors=errors,
        ecc_memory_errors=errors,
    )


def _energy_mj(idle_w: float, loaded_w: float, now: float, phase: float) -> int:
    """What the power adds up to since the driver was loaded: once a week, as it were."""
    began = now - now % _DRIVER_LIVES_S
    waves = math.cos(began / _LOAD_PERIOD_S + phase) - math.cos(now / _LOAD_PERIOD_S + phase)
    load_s = 0.5 * (now - began) + 0.45 * _LOAD_PERIOD_S * waves
    return round(1000 * (idle_w * (now - began) + loaded_w * load_s))
