# SPDX-License-Identifier: MPL-2.0
"""The metrics, as a parser of Prometheus' own formats reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from nomad_nvidia_vgpu import __version__
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.model import GpuSample, Health, Ratio, SeenGpu, XidEvent
from nomad_nvidia_vgpu.metrics.families import FAMILIES, STALE_S, CatalogCollector, registry_of
from nomad_nvidia_vgpu.sharing.enforcement import Enforcement
from nomad_nvidia_vgpu.state.catalog import Catalog
from nomad_nvidia_vgpu.state.tally import MADE, REFUSED, Tally
from nomad_nvidia_vgpu.state.usage import (
    GpuUse,
    MpsServer,
    Share,
    StrayProcess,
    Task,
    TaskProcess,
    Usage,
    parts_of,
)
from unit.example_gpus import FULL_SAMPLE, LOST, NOON, gpu, inventory, mig

GIB = 1 << 30
MIB = 1 << 20
OWN = {"gpu": "GPU-a", "model": "NVIDIA L4"}

Values = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


class Scraped:
    """A catalog, and what a scrape of it says."""

    def __init__(self, *gpus: object, config: PluginConfig | None = None) -> None:
        """Knows these GPUs, each with a full sample."""
        self.tally = Tally()
        self.now = NOON
        self.catalog = Catalog(config or PluginConfig(vgpus=2))
        found = inventory(*gpus)  # type: ignore[arg-type]
        self.catalog.take_inventory(found, complete=True)
        self.catalog.take_samples({seen.gpu.uuid: FULL_SAMPLE for seen in found.gpus})
        self.registry = CollectorRegistry()
        self.registry.register(
            CatalogCollector(self.catalog, self.tally, "letmutx", lambda: self.now)
        )

    def value(self, name: str, **labels: str) -> float | None:
        """The value of one series; None if it is not there."""
        return self.values().get((f"nvidia_vgpu_{name}", frozenset(labels.items())))

    def named(self, name: str) -> dict[str, float]:
        """All series of a metric, by their first label's value in the order of the labels' names."""
        return {
            ",".join(value for _, value in sorted(labels)): number
            for (found, labels), number in self.values().items()
            if found == f"nvidia_vgpu_{name}"
        }

    def values(self) -> Values:
        """Every series, parsed from the text."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(generate_latest(self.registry).decode())
            for sample in family.samples
        }


def test_xids_are_counted_by_physical_gpu_and_number(scraped: Scraped) -> None:
    """The harmless ones too; of a GPU without any there is no series."""
    assert scraped.named("gpu_xid_errors_total") == {}
    for xid in (43, 43, 79):
        scraped.catalog.take_event(XidEvent("GPU-a", xid, 1, 0))
    assert scraped.named("gpu_xid_errors_total") == {"GPU-a,43": 2, "GPU-a,79": 1}


@pytest.fixture
def scraped() -> Scraped:
    """One L4 in two vGPUs."""
    return Scraped(gpu())


def use(**strays: int | None) -> Usage:
    """Gives a task that holds the first of two vGPUs, and strays with this memory."""
    task = Task("/a", certain=True, allocation="a1", name="t", group="g", job="j")
    share = Share(task, "GPU-a", ("GPU-a-0",), (TaskProcess(7, 1, 512, "compute"),), 512, 11517)
    free = Share(task, "GPU-a", ("GPU-a-1",), (), 0, 11517)
    vgpus = {
        **dict(parts_of(share, 11517)),
        **{vgpu: part._replace(share=None) for vgpu, part in parts_of(free, 11517)},
    }
    found = tuple(
        StrayProcess(pid, mib, "compute", "no cgroup") for pid, mib in enumerate(strays.values())
    )
    return Usage(NOON, {"GPU-a": GpuUse("GPU-a", 0.0, vgpus, (share,), found)})


def test_the_figures_of_a_gpu_are_in_base_units(scraped: Scraped) -> None:
    """Bytes, ratios from 0 to 1, watts, joules and degrees Celsius."""
    figures = {
        "gpu_memory_total_bytes": 23034 * MIB,
        "gpu_memory_used_bytes": 1 * GIB,
        "gpu_bar1_total_bytes": 32 * GIB,
        "gpu_bar1_used_bytes": 2 * MIB,
        "gpu_utilization_ratio": 0.41,
        "gpu_memory_controller_utilization_ratio": 0.12,
        "gpu_encoder_utilization_ratio": 0.03,
        "gpu_decoder_utilization_ratio": 0.04,
        "gpu_temperature_celsius": 55,
        "gpu_power_watts": 30,
        "gpu_power_limit_watts": 72,
        "gpu_energy_joules_total": 1234.5,
        "gpu_sample_timestamp_seconds": NOON.timestamp(),
        "gpu_vgpus": 2,
        "gpu_vgpus_healthy": 2,
        "gpu_healthy": 1,
    }
    assert {name: scraped.value(name, **OWN) for name in figures} == figures
    errors = [
        scraped.value("gpu_ecc_errors_total", **OWN, location=place)
        for place in ("l1", "l2", "memory")
    ]
    assert errors == [0, 1, 2]


def test_what_is_not_known_is_left_out(scraped: Scraped) -> None:
    """A figure that the GPU does not give is not zero, but not there."""
    sample = FULL_SAMPLE.replaced(temperature_c=None, energy_mj=None)
    scraped.catalog.take_samples({"GPU-a": sample.replaced(power_w=Ratio(9))})
    assert scraped.value("gpu_power_watts", **OWN) == 9
    for name in ("gpu_temperature_celsius", "gpu_energy_joules_total", "gpu_power_limit_watts"):
        assert scraped.named(name) == {}


def test_old_figures_do_not_look_alive(scraped: Scraped) -> None:
    """Of a GPU that has not answered for a while, only the facts are told."""
    scraped.now = NOON + timedelta(seconds=STALE_S)
    assert scraped.value("gpu_temperature_celsius", **OWN) == 55
    scraped.now = NOON + timedelta(seconds=STALE_S + 1)
    assert scraped.named("gpu_temperature_celsius") == {}
    assert scraped.named("gpu_sample_timestamp_seconds") == {}
    assert scraped.value("gpu_memory_total_bytes", **OWN) == 23034 * MIB


def test_an_unhealthy_gpu_says_why() -> None:
    """The reason is there as long as the GPU is unhealthy, and its figures stay."""
    scraped = Scraped(SeenGpu(gpu(), LOST))
    assert scraped.value("gpu_healthy", **OWN) == 0
    assert scraped.value("gpu_unhealthy_info", **OWN, reason=LOST.reason) == 1
    assert scraped.value("gpu_vgpus_healthy", **OWN) == 0
    assert scraped.value("gpu_temperature_celsius", **OWN) == 55
    scraped.catalog.take_inventory(inventory(gpu()), complete=True)
    assert scraped.named("gpu_unhealthy_info") == {}


def test_a_long_reason_is_cut() -> None:
    """A label of any length would burden whoever stores it."""
    scraped = Scraped(SeenGpu(gpu(), Health(False, Problem('x"\\\n' * 1000))))
    ((_, labels),) = [key for key in scraped.values() if key[0].endswith("unhealthy_info")]
    assert len(dict(labels)["reason"]) == 200


@pytest.mark.parametrize(("index", "shown"), [(3, "3"), (None, "")])
def test_a_gpu_tells_what_it_is(index: int | None, shown: str) -> None:
    """One series joins the UUID with what a dashboard shows of the GPU."""
    scraped = Scraped(gpu(driver_index=index))
    info = {
        "device": "letmutx/gpu/NVIDIA L4",
        "parent": "",
        "mig_profile": "",
        "pci_bus_id": "0000:07:00.0",
        "driver_index": shown,
        "driver_version": "580.95.05",
        "sharing": "time-slicing",
    }
    assert scraped.value("gpu_info", **OWN, **info) == 1


def test_the_boards_figures_are_told_once() -> None:
    """Power, energy, temperature and errors of a GPU in MIG mode can be summed up over a node."""
    scraped = Scraped(mig("MIG-a"), mig("MIG-b", profile="2g.10gb"), gpu("GPU-c"))
    for name in ("gpu_power_watts", "gpu_temperature_celsius", "gpu_energy_joules_total"):
        assert set(scraped.named(name)) == {"GPU-p,NVIDIA A100-SXM4-40GB", "GPU-c,NVIDIA L4"}
    assert len(scraped.named("gpu_ecc_errors_total")) == 6
    assert len(scraped.named("gpu_memory_used_bytes")) == 3


def test_each_vgpu_shows_what_its_task_uses(scraped: Scraped) -> None:
    """Memory and processes of the task, and none of a vGPU that nobody uses."""
    scraped.catalog.take_usage(use())
    budget = 23034 // 2 * MIB
    assert scraped.named("memory_budget_bytes") == {
        "GPU-a,GPU-a-0": budget,
        "GPU-a,GPU-a-1": budget,
    }
    assert scraped.named("memory_used_bytes") == {
        "GPU-a,GPU-a-0": 512 * MIB,
        "GPU-a,GPU-a-1": 0,
    }
    assert scraped.named("processes") == {"GPU-a,GPU-a-0": 1, "GPU-a,GPU-a-1": 0}
    assert scraped.value("gpu_vgpus_in_use", **OWN) == 1
    assert scraped.value("usage_timestamp_seconds") == NOON.timestamp()


def test_the_task_is_on_one_metric_alone(scraped: Scraped) -> None:
    """So the number of series grows with the vGPUs, not with all that ever ran on them."""
    scraped.catalog.take_usage(use())
    task = {"nomad_job": "j", "group": "g", "task": "t", "alloc": "a1"}
    assert scraped.value("task_info", vgpu="GPU-a-0", gpu="GPU-a", **task) == 1
    with_task = {
        name for name, labels in scraped.values() if {"nomad_job", "alloc"} & dict(labels).keys()
    }
    assert with_task == {"nvidia_vgpu_task_info"}


def test_strays_are_counted(scraped: Scraped) -> None:
    """GPU processes that belong to nobody are told apart, with their memory if it is known."""
    scraped.catalog.take_usage(use(one=100, two=200))
    assert scraped.value("gpu_processes", **OWN) == 3
    assert scraped.value("gpu_unattributed_processes", **OWN) == 2
    assert scraped.value("gpu_unattributed_memory_bytes", **OWN) == 300 * MIB
    scraped.catalog.take_usage(use(one=100, two=None))
    assert scraped.value("gpu_unattributed_processes", **OWN) == 2
    assert scraped.named("gpu_unattributed_memory_bytes") == {}


def test_without_a_pass_nothing_is_said_of_use(scraped: Scraped) -> None:
    """That nothing is known of processes does not look as if there were none."""
    for name in (
        "gpu_processes",
        "gpu_vgpus_in_use",
        "memory_used_bytes",
        "usage_timestamp_seconds",
    ):
        assert scraped.named(name) == {}


def test_daemons_are_told_where_there_are_any(scraped: Scraped) -> None:
    """An MPS daemon that is down is 0, one that serves is 1; without MPS there is none."""
    assert scraped.named("gpu_mps_up") == {}
    mps = Scraped(gpu(), config=PluginConfig(vgpus=2, sharing="mps"))
    assert mps.value("gpu_mps_up", **OWN) == 0
    mps.catalog.take_enforcement("GPU-a", Enforcement(holds_memory=True))
    assert mps.value("gpu_mps_up", **OWN) == 1
    assert mps.value("gpu_mps_memory_limited", **OWN) == 1
    mps.catalog.take_enforcement("GPU-a", Enforcement(Problem("it has died"), holds_memory=False))
    assert mps.value("gpu_mps_up", **OWN) == 0
    assert mps.value("gpu_mps_memory_limited", **OWN) == 0


def test_the_memory_of_an_mps_server_is_its_own() -> None:
    """It counts as a process of the GPU, and neither as a task's nor as nobody's."""
    mps = Scraped(gpu(), config=PluginConfig(vgpus=2, sharing="mps"))
    use = GpuUse("GPU-a", 0.0, {}, (), (), servers=(MpsServer(31, 300),))
    mps.catalog.take_usage(Usage(NOON, {"GPU-a": use}))
    assert mps.value("gpu_mps_server_memory_bytes", **OWN) == 300 << 20
    assert mps.value("gpu_processes", **OWN) == 1
    assert mps.value("gpu_unattributed_memory_bytes", **OWN) == 0


def test_what_the_plugin_did_is_counted(scraped: Scraped) -> None:
    """Reservations and what the guard did, each from zero."""
    scraped.tally.reserved(MADE)
    scraped.catalog.take_guard_counts({("killed", "GPU-a"): 2, ("warned", "GPU-gone"): 1})
    assert scraped.value("reservations_total", result=MADE) == 1
    assert scraped.value("reservations_total", result=REFUSED) == 0
    assert scraped.named("gpu_guard_actions_total") == {
        f"{act},GPU-a,NVIDIA L4": count
        for act, count in {"warned": 0, "terminated": 0, "killed": 2}.items()
    }
    assert scraped.value("build_info", version=__version__) == 1


def test_a_node_without_gpus_has_metrics() -> None:
    """The plugin's own are there before any GPU is."""
    assert {name for name, _ in Scraped().values()} == {
        "nvidia_vgpu_build_info",
        "nvidia_vgpu_reservations_total",
    }


def test_both_formats_can_be_parsed(scraped: Scraped) -> None:
    """Prometheus asks for OpenMetrics, curl for plain text; a parser of each reads the same."""
    scraped.catalog.take_usage(use(one=1))
    text = openmetrics.generate_latest(scraped.registry).decode()  # type: ignore[no-untyped-call]
    families = openmetrics_parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    found = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    assert found == scraped.values()


def test_the_process_shows_its_own_figures() -> None:
    """Memory, processor time and open files of the plugin, by the names that all exporters use."""
    registry = registry_of(Catalog(PluginConfig()), Tally(), "letmutx")
    names = {f.name for f in text_string_to_metric_families(generate_latest(registry).decode())}
    assert {"process_resident_memory_bytes", "process_cpu_seconds", "process_open_fds"} <= names


def test_names_follow_the_conventions() -> None:
    """Counters end in _total and nothing else does; units are base units and stand at the end."""
    for family in FAMILIES:
        assert re.fullmatch(r"nvidia_vgpu_[a-z0-9_]+", family.name)
        assert family.name.endswith("_total") is (family.kind == "counter")
        assert not re.search(r"_(mib|mb|percent|ms|mw|mj|kwh)(_|$)", family.name)
        assert len(family.labels) == len(set(family.labels))
        assert family.doc[0].isupper() or family.doc.startswith("vGPUs")
        assert not family.doc.endswith(".")
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_a_scrape_has_one_clock() -> None:
    """Without a clock of a test, a sample of this moment is fresh."""
    scraped = Scraped(gpu())
    now = datetime.now(tz=NOON.tzinfo)
    scraped.catalog.take_samples({"GPU-a": GpuSample(now, **FULL_SAMPLE.figures)})
    text = generate_latest(registry_of(scraped.catalog, scraped.tally, "letmutx")).decode()
    assert "nvidia_vgpu_gpu_temperature_celsius{" in text
