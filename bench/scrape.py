# SPDX-License-Identifier: MPL-2.0
"""What Prometheus costs: the time and processor time of a scrape, and the memory to serve it."""

from __future__ import annotations

import http.client
import socket
import time
from datetime import datetime, timezone
from statistics import median

from bench import launch
from bench.environment import Installation
from bench.figures import TIMES, Effort, Figure
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus
from nomad_nvidia_vgpu.gpu.simulated import SimulatedSource
from nomad_nvidia_vgpu.gpu.survey import survey
from nomad_nvidia_vgpu.sharing.plan import SharedGpu
from nomad_nvidia_vgpu.state.catalog import Catalog
from nomad_nvidia_vgpu.state.usage import GpuUse, Share, Task, TaskProcess, Usage, parts_of

BUDGET_MS = 25.0
_GPUS = 8
_VGPUS = 16
_LOOPBACK = "127.0.0.1"
_PATIENCE_S = 30.0


def measure(installation: Installation, effort: Effort) -> list[Figure]:
    """One scrape after the other; in the plugin, and built alone with a task on each vGPU."""
    port = _free_port()
    given = launch.config(
        vgpus=_VGPUS,
        simulate=[f"a100-sxm4-80gb:{_GPUS}"],
        metrics_address=f"{_LOOPBACK}:{port}",
    )
    size = f"{_GPUS} {TIMES} {_VGPUS} scrape"
    times = []
    with launch.running(installation, given) as host:
        groups = launch.fingerprints(host)
        next(groups)
        length = _first_scrape(port)
        resident_mb = launch.resident_mb(host)
        before = launch.cpu_s(host)
        for _ in range(effort.messages):
            began = time.perf_counter()
            _scrape(port)
            times.append((time.perf_counter() - began) * 1e3)
        used_ms = (launch.cpu_s(host) - before) / effort.messages * 1e3
        groups.cancel()
    alone, series = _built_alone(effort)
    return [
        Figure(f"{size}, answered", median(times), "ms", samples=tuple(times)),
        Figure(
            f"{size}, whole process", used_ms, "ms CPU", BUDGET_MS, note=f"{length / 1e3:.0f} kB"
        ),
        Figure(
            f"{size}, built alone, a task on each vGPU",
            median(alone),
            "ms CPU",
            BUDGET_MS,
            note=f"{series} series",
            samples=alone,
        ),
        Figure("resident memory with metrics, simulated", resident_mb, "MB"),
    ]


def _free_port() -> int:
    with socket.create_server((_LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def _first_scrape(port: int) -> int:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return _scrape(port)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _scrape(port: int) -> int:
    client = http.client.HTTPConnection(_LOOPBACK, port, timeout=_PATIENCE_S)
    client.request("GET", "/metrics")
    answer = client.getresponse()
    body = answer.read()
    client.close()
    if answer.status != 200:
        raise RuntimeError(f"a scrape was answered with {answer.status}")
    return len(body)


def _built_alone(effort: Effort) -> tuple[tuple[float, ...], int]:
    """Processor time of a page in this process, and how many series it has."""
    # Imported late: bench measures how the program starts, too, and must not warm that up.
    from prometheus_client.exposition import generate_latest  # noqa: PLC0415

    from nomad_nvidia_vgpu.metrics.families import registry_of  # noqa: PLC0415
    from nomad_nvidia_vgpu.state.tally import Tally  # noqa: PLC0415

    registry = registry_of(_full_catalog(), Tally(), "letmutx")
    samples = []
    page = b""
    for _ in range(effort.messages):
        began = time.thread_time()
        page = generate_latest(registry)
        samples.append((time.thread_time() - began) * 1e3)
    return tuple(samples), sum(not line.startswith(b"#") for line in page.splitlines())


def _full_catalog() -> Catalog:
    """Every vGPU has a task of its own, with two processes."""
    found = survey(SimulatedSource([SimulatedGpus("a100-sxm4-80gb", _GPUS)]))
    catalog = Catalog(PluginConfig(vgpus=_VGPUS))
    catalog.take_inventory(found.inventory, complete=True)
    catalog.take_samples(found.samples)
    gpus = catalog.edition.plan.by_uuid()
    uses = {uuid: _full_use(shared) for uuid, shared in gpus.items()}
    catalog.take_usage(Usage(datetime.now(tz=timezone.utc), uses))
    return catalog


def _full_use(shared: SharedGpu) -> GpuUse:
    shares = []
    for vgpu in shared.ids():
        name = f"{vgpu.number:08x}-25a5-42a5-9b5c-1c5a5f0f9d11"
        task = Task(str(vgpu), certain=True, allocation=name, name="task", group="g", job="job")
        processes = tuple(TaskProcess(pid, 1, 512, "compute") for pid in (1, 2))
        budget = shared.memory_mib(1)
        shares.append(Share(task, shared.gpu.uuid, (str(vgpu),), processes, 1024, budget))
    vgpus = dict(part for share in shares for part in parts_of(share, share.budget_mib))
    return GpuUse(shared.gpu.uuid, 0.0, vgpus, tuple(shares), ())
