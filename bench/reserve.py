# SPDX-License-Identifier: MPL-2.0
"""How long a task waits for its reservation."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from statistics import median
from typing import Any

from bench import launch
from bench.environment import Installation
from bench.fake_driver import FakeMachine
from bench.figures import Effort, Figure, percentile
from nomad_nvidia_vgpu.rpc.client import Host, Refused

P99_BUDGET_MS = 3.0
BESIDE_CLAIMS = "Reserve beside 400 hostile processes, slowest"
_BESIDE_CLAIMS_BUDGET_MS = 50.0
BESIDE_HANG = "Reserve while another GPU's driver calls hang, 99th percentile"
_PROCESSES = 400
_PAUSE_S = 0.005
"""Between two calls beside hostile processes: no agent asks without pause."""
_GPUS = 8
_VGPUS = 16
_STATS_INTERVAL_S = 0.1
"""Ten times as often as Nomad asks, so that more than one call in a hundred meets a message."""


def measure(installation: Installation, effort: Effort) -> list[Figure]:
    """Times of Reserve, called without pause for one vGPU after the other while stats run."""
    with launch.running(installation, launch.simulated(_GPUS, _VGPUS)) as host:
        stream = host.fingerprints()
        ids = [instance.id for group in next(stream) for instance in group.instances]
        with launch.streaming_stats(host, _STATS_INTERVAL_S):
            samples = _timed(host, ids, effort.reserves)
        stream.cancel()
    return [
        Figure("Reserve, median", median(samples), "ms"),
        _p99("Reserve, 99th percentile", samples),
    ]


def beside_hang(installation: Installation, effort: Effort, machine: FakeMachine) -> list[Figure]:
    """The same for vGPUs of seven GPUs, before and after the eighth, which hangs, is given up."""
    given = launch.config(vgpus=_VGPUS, fingerprint_period="1s")
    environment = machine.environment(counted=False)
    with launch.running(installation, given, environment) as host:
        stream = host.fingerprints()
        listed = {vgpu.id for group in next(stream) for vgpu in group.instances}
        with machine.hanging(_GPUS - 1) as uuid, launch.streaming_stats(host, _STATS_INTERVAL_S):
            ids = sorted(vgpu for vgpu in listed if not vgpu.startswith(uuid))
            samples = _timed(host, ids, effort.reserves // 2)
            for groups in stream:
                if not all(vgpu.healthy for group in groups for vgpu in group.instances):
                    break
            samples += _timed(host, ids, effort.reserves // 2)
        stream.cancel()
    return [_p99(BESIDE_HANG, samples)]


def _timed(host: Host, ids: Sequence[str], calls: int) -> list[float]:
    """Milliseconds of each of so many calls."""
    samples = []
    for number in range(calls):
        wanted = ids[number % len(ids)]
        began = time.perf_counter()
        host.reserve([wanted])
        samples.append((time.perf_counter() - began) * 1e3)
    return samples


def _p99(name: str, samples: Sequence[float]) -> Figure:
    note = f"{len(samples)} calls, slowest {max(samples):.1f} ms"
    measured = percentile(samples, 99)
    return Figure(name, measured, "ms", P99_BUDGET_MS, note=note, samples=tuple(samples))


def beside_claims(installation: Installation, effort: Effort, machine: FakeMachine) -> list[Figure]:
    """Times of Reserve while 400 processes in a task's cgroup claim 4,096 vGPUs each."""
    hostile: Any = importlib.import_module("contract.hostile")
    cgroups: Any = importlib.import_module("contract.task_cgroups")
    if os.geteuid() != 0:
        return [Figure(BESIDE_CLAIMS, None, "ms", note="only root can act as another user")]
    names = [f"GPU-{letter}" for letter in "abcdefgh"]
    samples: list[float] = []
    try:
        with (
            machine.named(names),
            cgroups.any_task() as task,
            launch.running(installation, _watching(), machine.environment(counted=False)) as host,
            hostile.crowd(_PROCESSES, names, task.directory),
        ):
            stream = host.fingerprints()
            for groups in stream:
                if not any(vgpu.healthy for group in groups for vgpu in group.instances):
                    break  # the claims have been read: all is withheld
            for _ in range(effort.claimed_reserves):
                began = time.perf_counter()
                with suppress(Refused):
                    host.reserve([f"{names[0]}-0"])
                samples.append((time.perf_counter() - began) * 1e3)
                time.sleep(_PAUSE_S)
            stream.cancel()
    except cgroups.NoCgroupsError as error:
        return [Figure(BESIDE_CLAIMS, None, "ms", note=str(error))]
    note = f"{effort.claimed_reserves} calls, median {median(samples):.1f} ms"
    return [
        Figure(
            BESIDE_CLAIMS,
            max(samples),
            "ms",
            _BESIDE_CLAIMS_BUDGET_MS,
            note=note,
            samples=tuple(samples),
        )
    ]


def _watching() -> bytes:
    return launch.config(vgpus=_VGPUS, fingerprint_period="1s", memory_guard={"action": "warn"})
