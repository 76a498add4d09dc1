# SPDX-License-Identifier: MPL-2.0
"""The metrics of the installed program, read as Prometheus reads them: over HTTP, with its parser."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import pytest
from libnvidia_ml.driver import FakeDriver
from prometheus_client.parser import text_string_to_metric_families

from nomad_nvidia_vgpu.rpc.client import Refused

from .conftest import Start, fact
from .fingerprints import until

LOOPBACK = "127.0.0.1"
PATIENCE_S = 60.0

Labels = Mapping[str, str]


class Page:
    """What one scrape said."""

    def __init__(self, text: str) -> None:
        """Parses the text."""
        self.samples = [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def all(self, name: str) -> list[tuple[Labels, float]]:
        """Every series of one metric."""
        return [(labels, value) for found, labels, value in self.samples if found == name]

    def value(self, name: str, **labels: str) -> float | None:
        """The value of the series that has these labels, among others; None if there is none."""
        values = [v for found, v in self.all(name) if labels.items() <= found.items()]
        assert len(values) <= 1, f"{name} {labels}: {len(values)} series"
        return values[0] if values else None


@pytest.fixture
def port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server((LOOPBACK, 0)) as probe:
        free: int = probe.getsockname()[1]
    return free


def scrape(port: int) -> Page:
    """One scrape; OSError while nobody listens."""
    client = http.client.HTTPConnection(LOOPBACK, port, timeout=PATIENCE_S)
    client.request("GET", "/metrics")
    answer = client.getresponse()
    assert answer.status == 200
    page = Page(answer.read().decode())
    client.close()
    return page


def scrape_until(port: int, wanted: Callable[[Page], object]) -> Page:
    """The first scrape for which this holds."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            page = scrape(port)
        except ConnectionRefusedError:
            page = Page("")
        if page.samples and wanted(page):
            return page
        assert time.monotonic() < deadline, f"never came: {page.samples}"
        time.sleep(0.05)


def test_each_gpu_shows_its_figures(node: FakeDriver, start: Start, port: int) -> None:
    """What the driver says, in base units, and each vGPU with its budget."""
    node.load("h100x8")
    node.set("gpu 0", "memory_used_mib", "4096")
    node.set("gpu 0", "gpu_utilization", "37")
    host = start(node, vgpus=2, metrics_address=f"{LOOPBACK}:{port}")
    until(host.fingerprints(), 8)
    page = scrape_until(port, lambda p: len(p.all("nvidia_vgpu_gpu_temperature_celsius")) == 8)
    uuid = fact(node, "gpu 0", "uuid")
    figures = {
        "gpu_memory_total_bytes": 81559 << 20,
        "gpu_memory_used_bytes": 4096 << 20,
        "gpu_utilization_ratio": 0.37,
        "gpu_power_watts": 70,
        "gpu_energy_joules_total": 86400000.123,
        "gpu_temperature_celsius": 41,
        "gpu_healthy": 1,
        "gpu_vgpus": 2,
    }
    assert {n: page.value(f"nvidia_vgpu_{n}", gpu=uuid) for n in figures} == figures
    assert page.value("nvidia_vgpu_memory_budget_bytes", vgpu=f"{uuid}-1") == 81559 // 2 << 20
    assert len(page.all("nvidia_vgpu_memory_budget_bytes")) == 16
    infos = page.all("nvidia_vgpu_gpu_info")
    numbers = {labels["gpu"]: labels["driver_index"] for labels, _ in infos}
    assert numbers == {fact(node, f"gpu {n}", "uuid"): str(n) for n in range(8)}
    assert page.value("process_resident_memory_bytes")


def test_reservations_and_faults_are_seen(node: FakeDriver, start: Start, port: int) -> None:
    """A refusal, a grant and a lost GPU are in the next scrape."""
    node.load("h100x8")
    host = start(node, vgpus=1, metrics_address=f"{LOOPBACK}:{port}")
    stream = host.fingerprints()
    until(stream, 8)
    uuid = fact(node, "gpu 3", "uuid")
    host.reserve([f"{uuid}-0"])
    with pytest.raises(Refused):
        host.reserve([f"{uuid}-1"])
    node.set("gpu 3", "lost", "1")
    until(stream, 7)
    page = scrape_until(port, lambda p: p.value("nvidia_vgpu_gpu_healthy", gpu=uuid) == 0)
    assert page.value("nvidia_vgpu_reservations_total", result="made") == 1
    assert page.value("nvidia_vgpu_reservations_total", result="refused") == 1
    ((labels, _),) = page.all("nvidia_vgpu_gpu_unhealthy_info")
    assert labels["gpu"] == uuid
    assert "reboot" in labels["reason"]


def test_a_task_is_on_the_vgpus_that_it_uses(node: FakeDriver, start: Start, port: int) -> None:
    """With its names, its memory, and nothing on the vGPUs of others."""
    node.load("h100x8")
    uuid = fact(node, "gpu 1", "uuid")
    own = {
        "NVIDIA_VGPU_IDS": f"{uuid}-1",
        "NOMAD_ALLOC_ID": "8c3a9f70-25a5-42a5-9b5c-1c5a5f0f9d11",
        "NOMAD_TASK_NAME": 'infer"\n',
        "NOMAD_GROUP_NAME": "serve",
        "NOMAD_JOB_ID": "llm",
    }
    waits = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(
        waits, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **own}
    ) as task:
        assert task.stdout is not None
        task.stdout.readline()  # it runs, with this environment
        node.set("gpu 1", "compute_processes", f"{task.pid}:3000")
        host = start(node, vgpus=2, metrics_address=f"{LOOPBACK}:{port}")
        until(host.fingerprints(), 8)
        page = scrape_until(port, lambda p: p.all("nvidia_vgpu_task_info"))
        task.kill()
    ((labels, _),) = page.all("nvidia_vgpu_task_info")
    assert labels == {
        "vgpu": f"{uuid}-1",
        "gpu": uuid,
        "nomad_job": "llm",
        "group": "serve",
        "task": 'infer"?',
        "alloc": own["NOMAD_ALLOC_ID"],
    }
    assert page.value("nvidia_vgpu_memory_used_bytes", vgpu=f"{uuid}-1") == 3000 << 20
    assert page.value("nvidia_vgpu_memory_used_bytes", vgpu=f"{uuid}-0") == 0
    assert page.value("nvidia_vgpu_gpu_vgpus_in_use", gpu=uuid) == 1
    assert page.value("nvidia_vgpu_gpu_unattributed_processes", gpu=uuid) == 0


def test_a_scrape_asks_the_driver_nothing(node: FakeDriver, start: Start, port: int) -> None:
    """However often it is scraped, each GPU is sampled at its own pace."""
    node.load("h100x8")
    config = {"memory_guard": {"action": "off"}, "fingerprint_period": "1h"}
    host = start(node, vgpus=2, metrics_address=f"{LOOPBACK}:{port}", **config)
    until(host.fingerprints(), 8)
    scrape_until(port, lambda p: len(p.all("nvidia_vgpu_gpu_temperature_celsius")) == 8)
    node.forget_calls()
    began = time.monotonic()
    for _ in range(40):
        scrape(port)
    passes = node.calls()["nvmlDeviceGetTemperature"] / 8
    assert passes <= (time.monotonic() - began) / 10 + 2


def test_nothing_listens_before_the_first_fingerprint(start: Start, port: int) -> None:
    """Two of the three starts per agent start serve nothing, and would hold the address."""
    host = start(vgpus=1, simulate=["t4"], metrics_address=f"{LOOPBACK}:{port}")
    host.info()
    with pytest.raises(ConnectionRefusedError):
        scrape(port)
    next(host.fingerprints())
    scrape_until(port, lambda p: p.all("nvidia_vgpu_gpu_info"))


def test_an_address_in_use_hurts_nothing_and_is_taken_when_free(start: Start, port: int) -> None:
    """The plugin of an agent that crashed holds it for up to a minute."""
    with socket.create_server((LOOPBACK, port)):
        host = start(vgpus=1, simulate=["t4"], metrics_address=f"{LOOPBACK}:{port}")
        (group,) = next(host.fingerprints())
        assert host.reserve([group.instances[0].id]).envs
        deadline = time.monotonic() + PATIENCE_S
        while not any("metrics_address" in text for text in host.logged("warn")):
            assert time.monotonic() < deadline, "no warning"
            time.sleep(0.05)
    scrape_until(port, lambda p: p.all("nvidia_vgpu_gpu_info"))
    assert len([text for text in host.logged("warn") if "metrics_address" in text]) == 1


def test_slow_scrapers_do_not_hold_up_the_plugin(start: Start, port: int) -> None:
    """Connections that say nothing cost no reservation and no second at the end."""
    host = start(vgpus=1, simulate=["t4"], metrics_address=f"{LOOPBACK}:{port}")
    (group,) = next(host.fingerprints())
    scrape_until(port, lambda p: p.samples)
    slow = [socket.create_connection((LOOPBACK, port), timeout=PATIENCE_S) for _ in range(20)]
    assert host.reserve([group.instances[0].id]).envs
    status = host.end()
    for client in slow:
        client.close()
    assert status == 0


def test_a_wrong_address_is_refused_with_the_config(start: Start) -> None:
    """The text alone is judged then, in one sentence."""
    with pytest.raises(Refused, match=r'metrics_address must be "" or a "host:port"') as refused:
        start(vgpus=1, metrics_address="9400")
    assert 'got "9400"' in refused.value.text
