# SPDX-License-Identifier: MPL-2.0
"""What is in examples/ for Prometheus, with a real one: alerts and dashboard."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import prometheus
import pytest
from prometheus import NoPrometheusError, Server
from unit.example_gpus import FULL_SAMPLE, gpu, inventory
from unit.metrics.test_families import use

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.model import GpuSample, Health, SeenGpu, XidEvent
from nomad_nvidia_vgpu.metrics.families import registry_of
from nomad_nvidia_vgpu.metrics.server import MetricsServer
from nomad_nvidia_vgpu.sharing.enforcement import Enforcement
from nomad_nvidia_vgpu.state.catalog import Catalog
from nomad_nvidia_vgpu.state.tally import MADE, REFUSED, Tally

from .conftest import Start

pytestmark = pytest.mark.may_skip("needs Debian's prometheus from a mirror")

EXAMPLES = prometheus.ROOT / "examples"
PANELS = [
    (panel["title"], target["expr"])
    for panel in json.loads((EXAMPLES / "grafana-dashboard.json").read_text())["panels"]
    for target in panel.get("targets", ())
]
OF_TASKS_AND_FAULTS = {
    "Why GPUs are unhealthy",
    "Memory by task",
    "Memory out of its budget, by task",
    "GPU processes by task",
    "Unattributed processes",
    "Unattributed",
    "vGPUs in use",
    "vGPUs",
    "MPS daemons",
    "Memory guard",
    "Uncorrected memory errors",
    "Age of what is known of tasks",
}
"""Panels that simulated GPUs, which have neither tasks nor faults nor MPS, may leave empty."""


def expression(panel: str) -> str:
    """As Grafana asks with all nodes and GPUs chosen."""
    chosen = panel.replace("$instance", ".*").replace("$gpu", ".*")
    return chosen.replace("$__rate_interval", "10s").replace("[1h]", "[10s]")


@pytest.fixture(scope="module")
def promtool() -> Path:
    """Prometheus' own checker."""
    try:
        return prometheus.program("promtool")
    except NoPrometheusError as error:
        pytest.skip(str(error))


def test_the_alerts_are_rules(promtool: Path) -> None:
    """Prometheus' own checker finds nothing to say."""
    command = [str(promtool), "check", "rules", "--lint-fatal", str(EXAMPLES / "alerts.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def busy(promtool: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Reads the metrics of a node with a task, a stray, an unhealthy GPU and a daemon of MPS."""
    config = PluginConfig(vgpus=2, sharing="mps")
    catalog, tally = Catalog(config), Tally()
    lost = SeenGpu(gpu("GPU-b"), Health(False, Problem("lost")))
    catalog.take_inventory(inventory(gpu("GPU-a"), lost), complete=True)
    catalog.take_enforcement("GPU-a", Enforcement(holds_memory=True))
    catalog.take_usage(use(a=1))
    catalog.take_event(XidEvent("GPU-a", 43, 1, 0))
    catalog.take_guard_counts({("warned", "GPU-a"): 1})
    for result in (MADE, REFUSED):
        tally.reserved(result)
    stopped = threading.Event()

    def sample() -> None:
        while not stopped.wait(0.2):
            now = datetime.now(timezone.utc)
            catalog.take_samples({"GPU-a": GpuSample(now, **FULL_SAMPLE.figures)})
            catalog.take_usage(use(a=1)._replace(taken_at=now))

    port = prometheus.free_port()
    server = MetricsServer(f"127.0.0.1:{port}", registry_of(catalog, tally, "letmutx"), 1.0)
    threading.Thread(target=server.run, daemon=True).start()
    threading.Thread(target=sample, daemon=True).start()
    with prometheus.scraping([f"127.0.0.1:{port}"], tmp_path_factory.mktemp("p")) as found:
        yield found
    stopped.set()


@pytest.mark.parametrize(("title", "panel"), PANELS)
def test_a_panel_is_filled(busy: Server, title: str, panel: str) -> None:
    """Each shows something of a node on which everything is to be seen."""
    assert busy.wait_for(expression(panel))


def test_simulated_gpus_fill_it_too(promtool: Path, start: Start, tmp_path: Path) -> None:
    """All panels but those of tasks, faults and MPS."""
    port = prometheus.free_port()
    host = start(None, vgpus=4, simulate=["l4:2"], metrics_address=f"127.0.0.1:{port}")
    next(host.fingerprints())
    with prometheus.scraping([f"127.0.0.1:{port}"], tmp_path) as server:
        for title, panel in PANELS:
            if title not in OF_TASKS_AND_FAULTS:
                assert server.wait_for(expression(panel)), title
