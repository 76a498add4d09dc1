# SPDX-License-Identifier: MPL-2.0
"""What the two streams cost: time to a fingerprint, processor time of a stats message."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from statistics import median

from bench import launch
from bench.environment import Installation
from bench.fake_driver import GPUS, FakeMachine
from bench.figures import TIMES, Effort, Figure
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device.fingerprint import device_groups
from nomad_nvidia_vgpu.device.stats import group_stats
from nomad_nvidia_vgpu.gpu.model import GpuSample
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus
from nomad_nvidia_vgpu.gpu.simulated import SimulatedSource
from nomad_nvidia_vgpu.gpu.survey import survey
from nomad_nvidia_vgpu.rpc import device_messages as messages
from nomad_nvidia_vgpu.sharing.plan import Plan, make_plan

FINGERPRINT_BUDGET_MS = 100.0
STATS_BUDGET_MS = 5.0
TICK_BUDGET_MS = 4.0
PASSES_BUDGET = 1.05  # one at each end of the time they are counted in may be one too many
_FEW = 16
_MANY = 256
_STATS_INTERVAL_S = 0.02
_PASSES_INTERVAL_S = 0.1
_STREAMS = 4
_ONCE_PER_PASS = "nvmlDeviceGetPowerUsage"
_LONG = "1h"


def fingerprint(installation: Installation, effort: Effort) -> list[Figure]:
    """Time from opening a stream to the whole set, the first on a fresh plugin apart."""
    samples = []
    with launch.running(installation, launch.simulated(_FEW, _MANY)) as host:
        for _ in range(effort.launches + 1):
            began = time.perf_counter()
            stream = launch.fingerprints(host)
            next(stream)
            samples.append(time.perf_counter() - began)
            stream.cancel()
    first, *rest = (s * 1e3 for s in samples)
    plan, _ = _plan(_MANY)
    built = _cpu_ms(
        lambda: messages.fingerprint(device_groups(plan, "v")).SerializeToString(), effort.launches
    )
    size = f"{_FEW} {TIMES} {_MANY} fingerprint"
    return [
        Figure(
            f"{size}, built and sent", median(rest), "ms", FINGERPRINT_BUDGET_MS, samples=(*rest,)
        ),
        Figure(f"{size}, the first of a process", first, "ms", FINGERPRINT_BUDGET_MS),
        Figure(f"{size}, built alone", median(built), "ms CPU", samples=built),
    ]


def stats(installation: Installation, effort: Effort) -> list[Figure]:
    """Processor time of one stats message, all threads of the plugin together."""
    with launch.running(installation, launch.simulated(_FEW, _FEW)) as host:
        stream = launch.stats(host, _STATS_INTERVAL_S)
        for _ in range(10):
            next(stream)
        before = launch.cpu_s(host)
        for _ in range(effort.messages):
            next(stream)
        used_ms = (launch.cpu_s(host) - before) / effort.messages * 1e3
        stream.cancel()
    plan, samples = _plan(_FEW)
    now = datetime.now(tz=timezone.utc)
    built = _cpu_ms(
        lambda: messages.stats(group_stats(plan, "v", samples, now)),
        effort.messages,
    )
    size = f"{_FEW} {TIMES} {_FEW} stats message"
    return [
        Figure(f"{size}, whole process", used_ms, "ms CPU", STATS_BUDGET_MS),
        Figure(f"{size}, built alone", median(built), "ms CPU", samples=built),
    ]


def stats_over_driver(
    installation: Installation, effort: Effort, fake: FakeMachine
) -> list[Figure]:
    """Processor time of one tick at a second: every figure asked of the driver, listed, sent."""
    ticks = effort.passes
    given = launch.config(vgpus=_FEW, fingerprint_period=_LONG)
    with launch.running(installation, given, fake.environment(counted=False)) as host:
        stream = launch.stats(host, 1.0)
        for _ in range(3):
            next(stream)
        before = launch.cpu_s(host)
        for _ in range(ticks):
            next(stream)
        used_ms = (launch.cpu_s(host) - before) / ticks * 1e3
        stream.cancel()
    name = f"{GPUS} {TIMES} {_FEW} stats at 1 s over the fake driver, whole process"
    return [Figure(name, used_ms, "ms CPU", TICK_BUDGET_MS)]


def nvml_passes(installation: Installation, effort: Effort, fake: FakeMachine) -> list[Figure]:
    """How often each GPU is asked per interval, with few and with many who want to know."""
    return [
        _passes(installation, effort, fake, vgpus, streams)
        for vgpus, streams in ((1, 1), (_FEW, _STREAMS))
    ]


def _passes(
    installation: Installation, effort: Effort, fake: FakeMachine, vgpus: int, streams: int
) -> Figure:
    given = launch.config(vgpus=vgpus, fingerprint_period=_LONG)
    with launch.running(installation, given, fake.environment()) as host:
        groups = launch.fingerprints(host)
        next(groups)
        open_streams = [launch.stats(host, _PASSES_INTERVAL_S) for _ in range(streams)]
        for stream in open_streams:
            next(stream)
        time.sleep(5 * _PASSES_INTERVAL_S)
        before, began = fake.calls()[_ONCE_PER_PASS], time.perf_counter()
        time.sleep(effort.passes * _PASSES_INTERVAL_S)
        after, ended = fake.calls()[_ONCE_PER_PASS], time.perf_counter()
        for stream in (*open_streams, groups):
            stream.cancel()
    passes = (after - before) / GPUS / ((ended - began) / _PASSES_INTERVAL_S)
    plural = "s" if streams > 1 else ""
    name = f"NVML passes per interval, {vgpus} vGPU{plural} per GPU, {streams} stream{plural}"
    return Figure(name, passes, "", PASSES_BUDGET)


def _plan(vgpus: int) -> tuple[Plan, dict[str, GpuSample]]:
    """What the plugin would hold in memory, made in this process."""
    found = survey(SimulatedSource([SimulatedGpus("a100-sxm4-80gb", _FEW)]))
    return make_plan(PluginConfig(vgpus=vgpus), found.inventory), dict(found.samples)


def _cpu_ms(work: Callable[[], object], repetitions: int) -> tuple[float, ...]:
    samples = []
    for _ in range(repetitions):
        began = time.thread_time()
        work()
        samples.append((time.thread_time() - began) * 1e3)
    return tuple(samples)
