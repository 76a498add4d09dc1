# SPDX-License-Identifier: MPL-2.0
"""The figures of each vGPU, once per interval.

A vGPU shows the figures of its GPU: what its own tasks use is not known here. Every published
vGPU is in every message, with a summary, or Nomad's command line panics.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import NamedTuple

from nomad_nvidia_vgpu.device.catalog import Catalog
from nomad_nvidia_vgpu.gpu.model import GpuSample, Ratio
from nomad_nvidia_vgpu.sharing.plan import DEVICE_TYPE, Plan, SharedGpu

DEFAULT_INTERVAL_S = 1.0
"""For hosts that send no interval (Nomad 0.9.0 to 0.9.5)."""

MIN_INTERVAL_S = 0.01


class Stat(NamedTuple):
    """One figure: a number, perhaps out of another, or a word."""

    value: int | float | str
    total: int | float | None = None
    unit: str = ""
    desc: str = ""


class GpuStats(NamedTuple):
    """The figures that all vGPUs of one GPU show."""

    summary: Stat
    stats: Mapping[str, Stat]
    taken_at: datetime


class GroupStats(NamedTuple):
    """The figures of one device group."""

    vendor: str
    type: str
    name: str
    gpus: tuple[tuple[tuple[str, ...], GpuStats], ...]
    """For each GPU: the ids of its vGPUs, and what each of them shows."""


UNAVAILABLE = Stat("unavailable", desc="the GPU gives no figures now")

_FIGURES = (
    ("Power usage", "power_w", "W", "Power drawn by the GPU, out of its limit"),
    ("GPU utilization", "gpu_utilization_percent", "%", "Time in which a kernel ran on the GPU"),
    (
        "Memory utilization",
        "memory_utilization_percent",
        "%",
        "Time in which the GPU's memory was read or written",
    ),
    ("Encoder utilization", "encoder_utilization_percent", "%", "Time in which video was encoded"),
    ("Decoder utilization", "decoder_utilization_percent", "%", "Time in which video was decoded"),
    ("Temperature", "temperature_c", "C", "Temperature of the GPU"),
    ("Memory state", "memory_mib", "MiB", "Memory in use on the GPU, out of its total"),
    ("BAR1 buffer state", "bar1_mib", "MiB", "BAR1 memory in use, out of its total"),
    ("ECC L1 errors", "ecc_l1_errors", "#", "Uncorrected errors in L1 since the driver loaded"),
    ("ECC L2 errors", "ecc_l2_errors", "#", "Uncorrected errors in L2 since the driver loaded"),
    (
        "ECC memory errors",
        "ecc_memory_errors",
        "#",
        "Uncorrected errors in memory since the driver loaded",
    ),
)
"""Name, field of `GpuSample`, unit and meaning; names and units are the official plugin's."""


def interval_s(asked_s: float) -> float:
    """The interval for what the host asked: a second for none, never below 10 ms."""
    return max(asked_s, MIN_INTERVAL_S) if asked_s > 0 else DEFAULT_INTERVAL_S


def group_stats(
    plan: Plan, vendor: str, samples: Mapping[str, GpuSample], now: datetime
) -> tuple[GroupStats, ...]:
    """The figures of every published vGPU; `now` stamps those of a GPU without a sample."""
    return tuple(
        GroupStats(
            vendor,
            DEVICE_TYPE,
            group.name,
            tuple(
                (
                    _ids(one),
                    _gpu_stats(samples.get(one.gpu.uuid), now, healthy=one.health.healthy),
                )
                for one in group.gpus
            ),
        )
        for group in plan.groups
    )


def stream(
    catalog: Catalog,
    vendor: str,
    period_s: float,
    ended: threading.Event,
    listening: Callable[[], bool],
) -> Iterator[tuple[GroupStats, ...]]:
    """Yields the figures at once and then each `period_s`, until `ended` is set.

    A clean end of this stream would leave the node without stats until the agent restarts.
    """
    while listening():
        edition = catalog.edition
        now = datetime.now(tz=timezone.utc)
        yield group_stats(edition.plan, vendor, catalog.samples, now)
        if ended.wait(period_s):
            return


@lru_cache(maxsize=64)
def _ids(shared: SharedGpu) -> tuple[str, ...]:
    return tuple(str(vgpu) for vgpu in shared.ids())


def _gpu_stats(sample: GpuSample | None, now: datetime, *, healthy: bool) -> GpuStats:
    if sample is None or not healthy:  # old figures of a dead GPU would look alive
        return GpuStats(UNAVAILABLE, {}, now)
    stats = {
        name: _stat(value, unit, desc)
        for name, field, unit, desc in _FIGURES
        if (value := getattr(sample, field)) is not None
    }
    return GpuStats(stats.get("Memory state", UNAVAILABLE), stats, sample.taken_at)


def _stat(value: int | Ratio, unit: str, desc: str) -> Stat:
    if isinstance(value, Ratio):
        return Stat(value.value, value.total, unit, desc)
    return Stat(value, None, unit, desc)
