# SPDX-License-Identifier: MPL-2.0
"""The moving figures of a GPU, from NVML. What cannot be is left out."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from nomad_nvidia_vgpu.gpu.model import GpuSample, Ratio
from nomad_nvidia_vgpu.gpu.nvml.asking import Asker, plausible
from nomad_nvidia_vgpu.gpu.nvml.facts import (
    MOST_CELSIUS,
    MOST_MEMORY_BYTES,
    MOST_MILLIWATTS,
    memory_in_use,
)

_MOST_PERCENT = 100
_MOST_COUNTED = 2**48
_MOST_MILLIJOULES = 2**62


def take_sample(ask: Asker, physical: Any, own: Any, limit_w: int | None) -> GpuSample:
    """`physical` knows power and temperature, `own` (a MIG device, or the same) the memory."""
    nvml = ask.nvml
    busy = ask(nvml.nvmlDeviceGetUtilizationRates, own)
    encoder = ask(nvml.nvmlDeviceGetEncoderUtilization, own)
    decoder = ask(nvml.nvmlDeviceGetDecoderUtilization, own)
    power_mw = plausible(ask(nvml.nvmlDeviceGetPowerUsage, physical), MOST_MILLIWATTS)
    energy_mj = ask(nvml.nvmlDeviceGetTotalEnergyConsumption, physical)
    temperature = ask(nvml.nvmlDeviceGetTemperature, physical, nvml.NVML_TEMPERATURE_GPU)
    errors = [
        plausible(
            ask(
                nvml.nvmlDeviceGetMemoryErrorCounter,
                physical,
                nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                nvml.NVML_VOLATILE_ECC,
                location,
            ),
            _MOST_COUNTED,
        )
        for location in (
            nvml.NVML_MEMORY_LOCATION_L1_CACHE,
            nvml.NVML_MEMORY_LOCATION_L2_CACHE,
            nvml.NVML_MEMORY_LOCATION_DEVICE_MEMORY,
        )
    ]
    return GpuSample(
        taken_at=datetime.now(tz=timezone.utc),
        power_w=None if power_mw is None else Ratio(power_mw // 1000, limit_w),
        energy_mj=plausible(energy_mj, _MOST_MILLIJOULES),
        gpu_utilization_percent=plausible(busy and busy.gpu, _MOST_PERCENT),
        memory_utilization_percent=plausible(busy and busy.memory, _MOST_PERCENT),
        encoder_utilization_percent=plausible(encoder and encoder[0], _MOST_PERCENT),
        decoder_utilization_percent=plausible(decoder and decoder[0], _MOST_PERCENT),
        temperature_c=plausible(temperature, MOST_CELSIUS),
        memory_mib=memory_in_use(ask, own),
        bar1_mib=_bar1(ask, own),
        ecc_l1_errors=errors[0],
        ecc_l2_errors=errors[1],
        ecc_memory_errors=errors[2],
    )


def _bar1(ask: Asker, own: Any) -> Ratio | None:
    info = ask(ask.nvml.nvmlDeviceGetBAR1MemoryInfo, own)
    total = plausible(info and info.bar1Total, MOST_MEMORY_BYTES, least=1)
    used = plausible(info and info.bar1Used, total or 0)
    return None if total is None or used is None else Ratio(used >> 20, total >> 20)
