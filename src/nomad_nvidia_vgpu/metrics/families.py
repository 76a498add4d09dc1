# SPDX-License-Identifier: MPL-2.0
"""The plugin's metrics for Prometheus, read from the catalog at each scrape: NVML is never asked.

In base units (bytes, ratios, seconds), named as Prometheus advises. What is not known is left out.
Labels that a task can influence are on one family alone, with at most one series for each vGPU.
Imported only where metrics are served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from nomad_nvidia_vgpu import __version__
from nomad_nvidia_vgpu.gpu.figures import FIGURES, Export
from nomad_nvidia_vgpu.gpu.model import GpuSample, Ratio
from nomad_nvidia_vgpu.sharing.plan import DEVICE_TYPE, Group, Plan, SharedGpu
from nomad_nvidia_vgpu.state.catalog import Catalog
from nomad_nvidia_vgpu.state.tally import Tally
from nomad_nvidia_vgpu.state.usage import GpuUse

STALE_S = 30.0
"""A sample that is older says nothing of the GPU any more: the driver does not answer."""

_ACTS = ("warned", "terminated", "killed")
_MIB = 1 << 20
_MAX_REASON = 200
_PARENTS_NAME = " MIG "


class Family(NamedTuple):
    """One metric as it is declared: the table in docs/metrics.md is made of these."""

    name: str
    kind: str
    """`gauge` or `counter`."""
    labels: tuple[str, ...]
    doc: str


_GPU = ("gpu", "model")
_VGPU = ("vgpu", "gpu")
# Not `job`: Prometheus gives every series one of its own, and would rename ours.
_TASK = ("nomad_job", "group", "task", "alloc")

_declared: list[Family] = []


def _gauge(name: str, labels: tuple[str, ...], doc: str) -> Family:
    _declared.append(Family(f"nvidia_vgpu_{name}", "gauge", labels, doc))
    return _declared[-1]


def _counter(name: str, labels: tuple[str, ...], doc: str) -> Family:
    _declared.append(Family(f"nvidia_vgpu_{name}", "counter", labels, doc))
    return _declared[-1]


BUILD_INFO = _gauge("build_info", ("version",), "The version of this plugin; always 1")
RESERVATIONS = _counter(
    "reservations_total", ("result",), "Reservations that Nomad asked for: `made` or `refused`"
)
USAGE_TIMESTAMP = _gauge(
    "usage_timestamp_seconds", (), "When it was last found out which task uses what"
)

GPU_INFO = _gauge(
    "gpu_info",
    (
        *_GPU,
        *(
            "device",
            "parent",
            "mig_profile",
            "pci_bus_id",
            "driver_index",
            "driver_version",
            "sharing",
        ),
    ),
    "What a GPU or MIG device is: always 1. `device` is the name for jobs, `parent` the UUID of the"
    " physical GPU, `driver_index` its number in `nvidia-smi`, which can move",
)
GPU_HEALTHY = _gauge("gpu_healthy", _GPU, "Whether Nomad may place tasks on the GPU: 1 or 0")
GPU_UNHEALTHY_INFO = _gauge(
    "gpu_unhealthy_info",
    (*_GPU, "reason"),
    "Why Nomad may not place tasks on the GPU: 1, and there only while it may not",
)
GPU_SAMPLE_TIMESTAMP = _gauge(
    "gpu_sample_timestamp_seconds",
    _GPU,
    "When the figures of the GPU were read; all of them are left out when older than 30 s",
)
GPU_MEMORY_TOTAL = _gauge("gpu_memory_total_bytes", _GPU, "Memory of the GPU")
FIGURES_OF: dict[Export, Family] = {}
"""The metrics that are made of the figures of a sample."""


def _declare_figures() -> None:
    for figure in FIGURES:
        for export in figure.exports:
            declare = _counter if export.kind == "counter" else _gauge
            known = next((f for f in _declared if f.name == f"nvidia_vgpu_{export.name}"), None)
            labels = (*_GPU, "location") if export.location else _GPU
            FIGURES_OF[export] = known or declare(export.name, labels, export.doc)


_declare_figures()
GPU_XID_ERRORS = _counter(
    "gpu_xid_errors_total",
    ("gpu", "xid"),
    "XIDs that the driver reported of the physical GPU since the plugin started, harmless ones too",
)
GPU_VGPUS = _gauge("gpu_vgpus", _GPU, "vGPUs of the GPU that Nomad is told of")
GPU_VGPUS_HEALTHY = _gauge("gpu_vgpus_healthy", _GPU, "vGPUs of the GPU that can be reserved")
GPU_VGPUS_IN_USE = _gauge(
    "gpu_vgpus_in_use", _GPU, "vGPUs of the GPU whose task has a process on it"
)
GPU_VGPUS_DISPUTED = _gauge(
    "gpu_vgpus_disputed", _GPU, "vGPUs of the GPU that two tasks claim at once: one of them lies"
)
GPU_PROCESSES = _gauge("gpu_processes", _GPU, "Processes that use the GPU")
GPU_STRAYS = _gauge(
    "gpu_unattributed_processes", _GPU, "Processes that use the GPU and belong to no task"
)
GPU_STRAY_MEMORY = _gauge(
    "gpu_unattributed_memory_bytes", _GPU, "Memory of the processes that belong to no task"
)
GPU_GUARD_ACTIONS = _counter(
    "gpu_guard_actions_total",
    (*_GPU, "action"),
    "What the memory guard did: tasks `warned` of, processes `terminated` (SIGTERM) and `killed`",
)
GPU_MPS_UP = _gauge(
    "gpu_mps_up", _GPU, "Whether the GPU's MPS daemon serves as the config asks: 1 or 0; MPS only"
)
GPU_MPS_MEMORY_LIMITED = _gauge(
    "gpu_mps_memory_limited",
    _GPU,
    "Whether each process is held to its task's memory: 1 or 0; MPS only",
)
GPU_MPS_MEMORY = _gauge(
    "gpu_mps_server_memory_bytes",
    _GPU,
    "Memory of the GPU's MPS server itself, without that of its clients; MPS only",
)

MEMORY_BUDGET = _gauge("memory_budget_bytes", _VGPU, "Memory that the vGPU entitles a task to")
MEMORY_USED = _gauge(
    "memory_used_bytes",
    _VGPU,
    "Memory that its task uses; that of a task with several vGPUs of a GPU is divided among them",
)
PROCESSES = _gauge(
    "processes", _VGPU, "GPU processes of its task, divided among its vGPUs in the same way"
)
TASK_INFO = _gauge(
    "task_info",
    (*_VGPU, *_TASK),
    "Who uses the vGPU: 1, and there only while a task does. Job and group are what the task's"
    " environment says",
)

FAMILIES: Sequence[Family] = tuple(_declared)
"""Every metric of this plugin, in the order of the docs; those of its process come on top."""


def registry_of(catalog: Catalog, tally: Tally, vendor: str) -> CollectorRegistry:
    """All metrics of this plugin and of its process."""
    registry = CollectorRegistry()
    registry.register(CatalogCollector(catalog, tally, vendor))
    ProcessCollector(registry=registry)
    return registry


class CatalogCollector(Collector):
    """Makes the families of what the catalog and the tally hold at the moment of a scrape."""

    def __init__(
        self,
        catalog: Catalog,
        tally: Tally,
        vendor: str,
        clock: Callable[[], datetime] = lambda: datetime.now(tz=timezone.utc),
    ) -> None:
        """`vendor` is the first part of the devices' names; `clock` tells the time in UTC."""
        self._catalog = catalog
        self._tally = tally
        self._vendor = vendor
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        """Every family that has anything to say."""
        page = _Page()
        page.put(BUILD_INFO, (__version__,), 1)
        for result, count in self._tally.reservations.items():
            page.put(RESERVATIONS, (result,), count)
        plan, usage = self._catalog.edition.plan, self._catalog.usage
        acts = self._catalog.guard_counts
        passed = usage.taken_at
        page.put(USAGE_TIMESTAMP, (), None if passed is None else passed.timestamp())
        samples = self._fresh_samples(plan)
        for group in plan.groups:
            for shared in group.gpus:
                uuid = shared.gpu.uuid
                _put_facts(page, group, shared, self._vendor)
                for act in _ACTS:
                    own = (uuid, shared.gpu.model, act)
                    page.put(GPU_GUARD_ACTIONS, own, acts.get((act, uuid), 0))
                if (sample := samples.get(uuid)) is not None:
                    names = (uuid, shared.gpu.model)
                    page.put(GPU_SAMPLE_TIMESTAMP, names, sample.taken_at.timestamp())
                    _put_figures(page, names, sample)
                _put_use(page, shared, usage.gpus.get(uuid))
        _put_boards(page, plan, samples)
        for (board, xid), count in self._catalog.xid_counts.items():
            page.put(GPU_XID_ERRORS, (board, xid), count)
        return page.families()

    def _fresh_samples(self, plan: Plan) -> dict[str, GpuSample]:
        now, samples = self._clock(), self._catalog.samples
        return {
            uuid: sample
            for uuid in plan.by_uuid()
            if (sample := samples.get(uuid)) and (now - sample.taken_at).total_seconds() <= STALE_S
        }


class _Page:
    """The families of one scrape, filled value by value."""

    def __init__(self) -> None:
        self._families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}

    def put(self, family: Family, labels: Sequence[str | None], value: float | None) -> None:
        """Adds one series; none if its value is not known. A label that is not known is empty."""
        if value is None:
            return
        made = self._families.get(family.name)
        if made is None:
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            made = kind(family.name, family.doc, labels=family.labels)
            self._families[family.name] = made
        made.add_metric([label or "" for label in labels], value)

    def families(self) -> list[Metric]:
        """The families that have a series, in the order of their declaration."""
        return [self._families[f.name] for f in FAMILIES if f.name in self._families]


def _put_facts(page: _Page, group: Group, shared: SharedGpu, vendor: str) -> None:
    gpu, health = shared.gpu, shared.health
    own = (gpu.uuid, gpu.model)
    device = f"{vendor}/{DEVICE_TYPE}/{group.name}"
    page.put(
        GPU_INFO,
        (
            *own,
            device,
            gpu.parent_uuid,
            gpu.mig_profile,
            gpu.pci_bus_id,
            None if gpu.driver_index is None else str(gpu.driver_index),
            gpu.driver_version,
            shared.sharing,
        ),
        1,
    )
    page.put(GPU_HEALTHY, own, health.healthy)
    if not health.healthy:
        page.put(GPU_UNHEALTHY_INFO, (*own, health.reason[:_MAX_REASON]), 1)
    page.put(GPU_MEMORY_TOTAL, own, _bytes(gpu.memory_mib))
    page.put(GPU_VGPUS, own, shared.published)
    page.put(GPU_VGPUS_HEALTHY, own, shared.offered)
    if shared.sharing == "mps":
        page.put(GPU_MPS_UP, own, not shared.enforcement.problem)
        page.put(GPU_MPS_MEMORY_LIMITED, own, shared.enforcement.holds_memory)


def _put_figures(
    page: _Page, own: tuple[str, str], sample: GpuSample, *, of_board: bool = False
) -> None:
    """What a sample says of a GPU or MIG device itself, or of the physical GPU."""
    for figure in FIGURES:
        value = sample.figures.get(figure.field)
        if value is None or figure.of_board is not of_board:
            continue
        for export in figure.exports:
            number = _number(value, of_total=export.of_total)
            labels = (*own, export.location) if export.location else own
            if number is not None:
                number = number * export.times / export.per_unit
                page.put(FIGURES_OF[export], labels, number)


def _put_boards(page: _Page, plan: Plan, samples: dict[str, GpuSample]) -> None:
    """What is the whole physical GPU's, once, however many MIG devices show it: sums are right."""
    told = set()
    for uuid, shared in plan.by_uuid().items():
        gpu, sample = shared.gpu, samples.get(uuid)
        board = gpu.parent_uuid or uuid
        if sample is None or board in told:
            continue
        told.add(board)
        model = gpu.model.rpartition(_PARENTS_NAME)[0] if gpu.parent_uuid else gpu.model
        own = (board, model or gpu.model)
        _put_figures(page, own, sample, of_board=True)


def _put_use(page: _Page, shared: SharedGpu, use: GpuUse | None) -> None:
    own = (shared.gpu.uuid, shared.gpu.model)
    budget = _bytes(shared.memory_mib(1))
    for vgpu in shared.ids():
        page.put(MEMORY_BUDGET, (str(vgpu), shared.gpu.uuid), budget)
    if use is None:
        return
    page.put(GPU_VGPUS_IN_USE, own, sum(vgpu.share is not None for vgpu in use.vgpus.values()))
    page.put(GPU_VGPUS_DISPUTED, own, len(use.disputed))
    page.put(GPU_PROCESSES, own, use.processes)
    page.put(GPU_STRAYS, own, len(use.strays))
    page.put(GPU_STRAY_MEMORY, own, _bytes(_sum(stray.memory_mib for stray in use.strays)))
    if shared.sharing == "mps":
        page.put(GPU_MPS_MEMORY, own, _bytes(_sum(server.memory_mib for server in use.servers)))
    for vgpu_id, part in use.vgpus.items():
        names = (vgpu_id, shared.gpu.uuid)
        page.put(MEMORY_USED, names, _bytes(part.used_mib))
        page.put(PROCESSES, names, part.processes)
        if part.share is not None:
            task = part.share.task
            page.put(TASK_INFO, (*names, task.job, task.group, task.name, task.allocation), 1)


def _bytes(mib: int | None) -> int | None:
    return None if mib is None else mib * _MIB


def _number(value: int | Ratio, *, of_total: bool) -> float | None:
    if isinstance(value, Ratio):
        return value.total if of_total else value.value
    return None if of_total else value


def _sum(parts: Iterable[int | None]) -> int | None:
    """The sum; None if any part is not known."""
    total = 0
    for part in parts:
        if part is None:
            return None
        total += part
    return total
