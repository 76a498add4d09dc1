# SPDX-License-Identifier: MPL-2.0
"""GPUs, MIG devices and samples to make inventories of."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.model import (
    HEALTHY,
    Gpu,
    GpuSample,
    Health,
    Inventory,
    Look,
    Ratio,
    SeenGpu,
)

LOST = Health(False, Problem("GPU-x: lost", "drain the node and reboot it"))
NOON = datetime(2026, 5, 4, 12, 0, tzinfo=timezone.utc)

L4 = Gpu(
    uuid="GPU-a",
    model="NVIDIA L4",
    memory_mib=23034,
    bar1_mib=32768,
    power_limit_w=72,
    cores_clock_mhz=2040,
    memory_clock_mhz=6251,
    pci_bandwidth_mb_s=31507,
    pci_bus_id="0000:07:00.0",
    display_state="Disabled",
    persistence_mode="Enabled",
    driver_version="580.95.05",
    cuda_driver_version=13.0,
    cuda_compute_capability=8.9,
    architecture="ada",
)

FULL_SAMPLE = GpuSample(
    taken_at=NOON,
    power_w=Ratio(30, 72),
    energy_mj=1_234_500,
    gpu_utilization_percent=41,
    memory_utilization_percent=12,
    encoder_utilization_percent=3,
    decoder_utilization_percent=4,
    temperature_c=55,
    memory_mib=Ratio(1024, 23034),
    bar1_mib=Ratio(2, 32768),
    ecc_l1_errors=0,
    ecc_l2_errors=1,
    ecc_memory_errors=2,
)


def gpu(uuid: str = "GPU-a", **facts: Any) -> Gpu:
    """Gives an L4 with this UUID that differs in these facts."""
    return L4._replace(uuid=uuid, **facts)


def mig(uuid: str, parent: str = "GPU-p", profile: str = "3g.20gb", **facts: Any) -> Gpu:
    """Gives a MIG device."""
    model = f"NVIDIA A100-SXM4-40GB MIG {profile}"
    return gpu(uuid, parent_uuid=parent, mig_profile=profile, model=model, **facts)


def look(*gpus: Gpu) -> Look:
    """Gives what a look at the physical GPU of these finds."""
    return Look(gpus[0].parent_uuid or gpus[0].uuid, gpus)


def inventory(*gpus: Gpu | SeenGpu) -> Inventory:
    """Gives an inventory of these, healthy unless said otherwise."""
    seen = (g if isinstance(g, SeenGpu) else SeenGpu(g, HEALTHY) for g in gpus)
    return Inventory(tuple(sorted(seen, key=lambda s: s.gpu.uuid)))
