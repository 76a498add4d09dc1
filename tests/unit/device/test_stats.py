# SPDX-License-Identifier: MPL-2.0
"""The figures of each vGPU."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device.stats import (
    GpuStats,
    GroupStats,
    Stat,
    group_stats,
    interval_s,
    stream,
)
from nomad_nvidia_vgpu.gpu.model import GpuSample, SeenGpu
from nomad_nvidia_vgpu.sharing.plan import make_plan
from nomad_nvidia_vgpu.state.catalog import Catalog
from nomad_nvidia_vgpu.state.usage import GpuUse, Usage, VgpuUse
from unit.example_gpus import FULL_SAMPLE, LOST, NOON, gpu, inventory
from unit.manual_clock import DEADLINE_S

CONFIG = PluginConfig(vgpus=2)
LATER = NOON + timedelta(hours=1)


def stats_of(seen: SeenGpu | None = None, **samples: GpuSample) -> GpuStats:
    """Gives the figures of the one GPU of a node."""
    plan = make_plan(CONFIG, inventory(seen or gpu("GPU_a")))
    (group,) = group_stats(plan, "letmutx", samples, LATER)
    ((_, figures),) = group.gpus
    return figures


def test_the_eleven_figures() -> None:
    """A GPU that tells everything shows the official plugin's eleven figures and units."""
    stats = stats_of(GPU_a=FULL_SAMPLE).stats
    assert {name: (s.value, s.total, s.unit) for name, s in stats.items()} == {
        "Power usage": (30, 72, "W"),
        "GPU utilization": (41, None, "%"),
        "Memory utilization": (12, None, "%"),
        "Encoder utilization": (3, None, "%"),
        "Decoder utilization": (4, None, "%"),
        "Temperature": (55, None, "C"),
        "Memory state": (1024, 23034, "MiB"),
        "BAR1 buffer state": (2, 32768, "MiB"),
        "ECC L1 errors": (0, None, "#"),
        "ECC L2 errors": (1, None, "#"),
        "ECC memory errors": (2, None, "#"),
    }
    assert all(stat.desc for stat in stats.values())


@pytest.mark.parametrize(
    ("field", "name"),
    [("power_w", "Power usage"), ("temperature_c", "Temperature"), ("memory_mib", "Memory state")],
)
def test_a_missing_figure_is_left_out(field: str, name: str) -> None:
    """What a GPU does not measure is not shown, and the other figures are."""
    without: dict[str, Any] = {field: None}
    sample = FULL_SAMPLE.replaced(**without)
    stats = stats_of(GPU_a=sample).stats
    assert name not in stats
    assert len(stats) == 10


def test_zero_is_a_figure() -> None:
    """A figure of zero is shown as zero, not left out."""
    sample = GpuSample(NOON, gpu_utilization_percent=0, ecc_memory_errors=0)
    assert {n: s.value for n, s in stats_of(GPU_a=sample).stats.items()} == {
        "GPU utilization": 0,
        "ECC memory errors": 0,
    }


def test_the_summary_is_the_memory() -> None:
    """The summary is the memory in use, stamped with the moment of the sample."""
    figures = stats_of(GPU_a=FULL_SAMPLE)
    assert figures.summary == figures.stats["Memory state"]
    assert figures.taken_at == NOON


def test_without_memory_the_summary_is_a_word() -> None:
    """A GPU that does not tell its memory has a summary all the same, and its other figures."""
    figures = stats_of(GPU_a=FULL_SAMPLE.replaced(memory_mib=None))
    assert figures.summary.value == "unavailable"
    assert "Temperature" in figures.stats


@pytest.mark.parametrize(
    ("seen", "samples"),
    [
        (SeenGpu(gpu("GPU_a"), LOST), {"GPU_a": FULL_SAMPLE}),
        (None, {}),
        (None, {"GPU_b": FULL_SAMPLE}),
    ],
    ids=["unhealthy", "no sample yet", "sample of another"],
)
def test_without_fresh_figures_a_gpu_is_unavailable(
    seen: SeenGpu | None, samples: dict[str, GpuSample]
) -> None:
    """An unhealthy GPU, or one not sampled yet, shows that and none of its old figures."""
    figures = stats_of(seen, **samples)
    assert figures.summary.value == "unavailable"
    assert figures.stats == {}
    assert figures.taken_at == LATER


def test_every_published_vgpu_is_there() -> None:
    """Each group has all its vGPUs under the same names as the fingerprint, healthy or not."""
    plan = make_plan(
        CONFIG,
        inventory(gpu("GPU-a"), SeenGpu(gpu("GPU-b"), LOST), gpu("GPU-t", model="Tesla T4")),
    )
    groups = group_stats(plan, "nvidia", {}, LATER)
    assert [(g.vendor, g.type, g.name) for g in groups] == [
        ("nvidia", "gpu", "NVIDIA L4"),
        ("nvidia", "gpu", "Tesla T4"),
    ]
    assert [ids for g in groups for ids, _ in g.gpus] == [
        ("GPU-a-0", "GPU-a-1"),
        ("GPU-b-0", "GPU-b-1"),
        ("GPU-t-0", "GPU-t-1"),
    ]


@pytest.mark.parametrize(
    ("asked_s", "given_s"),
    [(0.0, 1.0), (-5.0, 1.0), (0.001, 0.01), (0.01, 0.01), (1.0, 1.0), (30.0, 30.0)],
)
def test_an_interval_that_makes_no_sense_is_replaced(asked_s: float, given_s: float) -> None:
    """No interval means a second, and none is shorter than 10 ms."""
    assert interval_s(asked_s) == given_s


def test_the_first_figures_come_at_once() -> None:
    """Who asks for stats does not wait for the end of the interval."""
    figures = stream(Catalog(CONFIG), "letmutx", 3600.0, threading.Event(), lambda: True)
    assert next(figures) == ()


def test_figures_come_each_interval() -> None:
    """Each message has the figures of its own moment."""
    catalog = Catalog(CONFIG)
    figures = stream(catalog, "letmutx", 0.01, threading.Event(), lambda: True)
    assert next(figures) == ()
    catalog.take_inventory(inventory(gpu("GPU-a")), complete=True)
    (group,) = next(figures)
    assert group.gpus[0][1].summary.value == "unavailable"
    catalog.take_samples({"GPU-a": FULL_SAMPLE})
    (group,) = next(figures)
    assert group.gpus[0][1].summary.value == 1024


def test_the_stream_ends_when_the_host_hangs_up() -> None:
    """A stream that waits for the end of a long interval ends at once when told to."""
    ended = threading.Event()
    sent: list[tuple[GroupStats, ...]] = []
    first = threading.Event()

    def listen() -> None:
        for groups in stream(Catalog(CONFIG), "letmutx", 3600.0, ended, lambda: True):
            sent.append(groups)
            first.set()

    listener = threading.Thread(target=listen)
    listener.start()
    assert first.wait(DEADLINE_S)
    ended.set()
    listener.join(DEADLINE_S)
    assert not listener.is_alive()
    assert len(sent) == 1


def test_a_host_that_hung_up_is_sent_nothing() -> None:
    """A stream whose host is gone already sends nothing."""
    assert list(stream(Catalog(CONFIG), "letmutx", 1.0, threading.Event(), lambda: False)) == []


# What the vGPUs use themselves


def with_use(vgpus: dict[str, VgpuUse], taken_at: datetime = LATER) -> list[tuple[str, GpuStats]]:
    """Gives what each vGPU of a node with one sampled GPU shows, in the order of the message."""
    plan = make_plan(PluginConfig(vgpus=3), inventory(gpu("GPU-a")))
    usage = Usage(taken_at, {"GPU-a": GpuUse("GPU-a", 0.0, vgpus, (), ())})
    (group,) = group_stats(plan, "letmutx", {"GPU-a": FULL_SAMPLE}, LATER, usage)
    return [(vgpu_id, figures) for ids, figures in group.gpus for vgpu_id in ids]


BUSY, IDLE = VgpuUse(300, 7678, 2), VgpuUse(0, 7678, 0)


def test_a_vgpu_shows_what_its_task_uses() -> None:
    """Memory out of the share, and processes; the memory is the summary."""
    shown = dict(with_use({"GPU-a-0": IDLE, "GPU-a-1": BUSY, "GPU-a-2": IDLE}))
    assert shown["GPU-a-1"].own == {
        "vGPU memory": Stat(300, 7678, "MiB", shown["GPU-a-1"].own["vGPU memory"].desc),
        "vGPU processes": Stat(2, None, "#", shown["GPU-a-1"].own["vGPU processes"].desc),
    }
    assert shown["GPU-a-1"].summary[:3] == (300, 7678, "MiB")
    assert shown["GPU-a-0"].summary[:3] == (0, 7678, "MiB")


def test_vgpus_that_show_the_same_are_said_once() -> None:
    """All unused vGPUs of a GPU share their figures, and all vGPUs those of the GPU."""
    shown = with_use({"GPU-a-0": IDLE, "GPU-a-1": BUSY, "GPU-a-2": IDLE})
    assert [vgpu_id for vgpu_id, _ in shown] == ["GPU-a-0", "GPU-a-2", "GPU-a-1"]
    assert shown[0][1] is shown[1][1]
    assert shown[0][1].stats is shown[2][1].stats


def test_memory_that_is_not_known_is_left_out() -> None:
    """Without the memory of a task the summary is the GPU's; its processes are shown."""
    ((_, figures), *_) = with_use({"GPU-a-0": VgpuUse(None, 7678, 2)})
    assert set(figures.own) == {"vGPU processes"}
    assert figures.summary == figures.stats["Memory state"]


def test_a_vgpu_in_dispute_shows_its_gpu_only() -> None:
    """What a vGPU uses that belongs to nobody is not known."""
    shown = dict(with_use({"GPU-a-0": BUSY}))
    assert shown["GPU-a-1"].own == {}
    assert shown["GPU-a-1"].summary == shown["GPU-a-1"].stats["Memory state"]


def test_use_that_is_old_is_not_shown() -> None:
    """When nobody finds out any more who uses what, the last answer does not stay."""
    shown = dict(with_use({"GPU-a-0": BUSY}, taken_at=LATER - timedelta(minutes=1)))
    assert shown["GPU-a-0"].own == {}


def test_use_is_shown_without_a_sample() -> None:
    """A GPU that gave no figures may still have told its processes."""
    plan = make_plan(CONFIG, inventory(gpu("GPU-a")))
    usage = Usage(LATER, {"GPU-a": GpuUse("GPU-a", 0.0, {"GPU-a-0": BUSY}, (), ())})
    (group,) = group_stats(plan, "letmutx", {}, LATER, usage)
    (_, first), (_, second) = group.gpus
    assert first.summary.value == 300
    assert second.summary.value == "unavailable"


def test_an_unhealthy_gpu_shows_no_use() -> None:
    """Old figures of a dead GPU would look alive."""
    plan = make_plan(CONFIG, inventory(SeenGpu(gpu("GPU-a"), LOST)))
    usage = Usage(LATER, {"GPU-a": GpuUse("GPU-a", 0.0, {"GPU-a-0": BUSY}, (), ())})
    (group,) = group_stats(plan, "letmutx", {"GPU-a": FULL_SAMPLE}, LATER, usage)
    ((_, figures),) = group.gpus
    assert (figures.own, figures.summary.value) == ({}, "unavailable")
