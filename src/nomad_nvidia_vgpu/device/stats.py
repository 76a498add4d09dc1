# SPDX-License-Identifier: MPL-2.0
"""The figures of each vGPU, once per interval.

A vGPU shows the figures of its GPU, and what its own task uses where that is known: the use of a
task with several vGPUs of a GPU is divided among them, so that all together show what it uses.
Every published vGPU is in every message, with a summary, or Nomad's command line panics.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import NamedTuple

from nomad_nvidia_vgpu.gpu.figures import FIGURES
from nomad_nvidia_vgpu.gpu.model import GpuSample, Ratio
from nomad_nvidia_vgpu.sharing.plan import DEVICE_TYPE, Plan, SharedGpu
from nomad_nvidia_vgpu.state.catalog import Catalog
from nomad_nvidia_vgpu.state.usage import UNKNOWN, GpuUse, Usage, VgpuUse

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
    """The figures that some vGPUs of one GPU show."""

    summary: Stat
    stats: Mapping[str, Stat]
    """The figures of the GPU: one and the same object for all its vGPUs, so that messages are built
    once."""
    taken_at: datetime
    own: Mapping[str, Stat] = {}
    """The figures of the vGPUs themselves."""


class GroupStats(NamedTuple):
    """The figures of one device group."""

    vendor: str
    type: str
    name: str
    gpus: tuple[tuple[tuple[str, ...], GpuStats], ...]
    """Sets of vGPUs that show the same, GPU by GPU: their ids, and what each of them shows."""


MEMORY = "vGPU memory"
PROCESSES = "vGPU processes"
_MEMORY_DESC = "Memory that the task of this vGPU uses, out of its share"
_PROCESSES_DESC = "Processes of the task of this vGPU on the GPU"

UNAVAILABLE = Stat("unavailable", desc="the GPU gives no figures now")

_STALE_S = 30.0
"""After this, the figures of use say nothing: the thread that makes them may hang."""


def interval_s(asked_s: float) -> float:
    """The interval for what the host asked: a second for none, never below 10 ms."""
    return max(asked_s, MIN_INTERVAL_S) if asked_s > 0 else DEFAULT_INTERVAL_S


def group_stats(
    plan: Plan,
    vendor: str,
    samples: Mapping[str, GpuSample],
    now: datetime,
    usage: Usage = UNKNOWN,
) -> tuple[GroupStats, ...]:
    """The figures of every published vGPU; `now` stamps those of a GPU without a sample."""
    fresh = usage.taken_at is not None and (now - usage.taken_at).total_seconds() <= _STALE_S
    uses = usage.gpus if fresh else {}
    return tuple(
        GroupStats(
            vendor,
            DEVICE_TYPE,
            group.name,
            tuple(
                entry
                for shared in group.gpus
                for entry in _entries(
                    shared, samples.get(shared.gpu.uuid), uses.get(shared.gpu.uuid), now
                )
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
        yield group_stats(edition.plan, vendor, catalog.samples, now, catalog.usage)
        if ended.wait(period_s):
            return


@lru_cache(maxsize=64)
def _ids(shared: SharedGpu) -> tuple[str, ...]:
    return tuple(str(vgpu) for vgpu in shared.ids())


def _entries(
    shared: SharedGpu, sample: GpuSample | None, use: GpuUse | None, now: datetime
) -> Iterable[tuple[tuple[str, ...], GpuStats]]:
    """What the vGPUs of one GPU show."""
    ids = _ids(shared)
    if not shared.health.healthy:  # old figures of a dead GPU would look alive
        return [(ids, GpuStats(UNAVAILABLE, {}, now))]
    stats = _stats(sample)
    common = GpuStats(
        stats.get("Memory state", UNAVAILABLE), stats, sample.taken_at if sample else now
    )
    if use is None:
        return [(ids, common)]
    alike: dict[tuple[object, ...] | None, list[str]] = {}
    for vgpu_id in ids:
        own = use.vgpus.get(vgpu_id)
        alike.setdefault(own and own.figures, []).append(vgpu_id)
    return [(tuple(same), _with_own(common, use.vgpus.get(same[0]))) for same in alike.values()]


def _stats(sample: GpuSample | None) -> dict[str, Stat]:
    known = sample.figures if sample else {}
    return {
        figure.stat: _stat(known[figure.field], figure.unit, figure.desc)
        for figure in FIGURES
        if figure.stat is not None and figure.field in known
    }


def _with_own(common: GpuStats, use: VgpuUse | None) -> GpuStats:
    if use is None:
        return common
    own = {PROCESSES: Stat(use.processes, None, "#", _PROCESSES_DESC)}
    if use.used_mib is None:
        return common._replace(own=own)
    own[MEMORY] = Stat(use.used_mib, use.budget_mib, "MiB", _MEMORY_DESC)
    return common._replace(own=own, summary=own[MEMORY])


def _stat(value: int | Ratio, unit: str, desc: str) -> Stat:
    if isinstance(value, Ratio):
        return Stat(value.value, value.total, unit, desc)
    return Stat(value, None, unit, desc)
