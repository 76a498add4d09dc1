# SPDX-License-Identifier: MPL-2.0
"""How long a task waits for its reservation."""

from __future__ import annotations

import time
from statistics import median

from bench import launch
from bench.environment import Installation
from bench.figures import Effort, Figure, percentile

P99_BUDGET_MS = 3.0
_GPUS = 8
_VGPUS = 16
_STATS_INTERVAL_S = 0.1
"""Ten times as often as Nomad asks, so that more than one call in a hundred meets a message."""


def measure(installation: Installation, effort: Effort) -> list[Figure]:
    """Times of Reserve, called without pause for one vGPU after the other while stats run."""
    samples = []
    with launch.running(installation, launch.simulated(_GPUS, _VGPUS)) as host:
        stream = host.fingerprints()
        ids = [instance.id for group in next(stream) for instance in group.instances]
        with launch.streaming_stats(host, _STATS_INTERVAL_S):
            for number in range(effort.reserves):
                wanted = ids[number % len(ids)]
                began = time.perf_counter()
                host.reserve([wanted])
                samples.append((time.perf_counter() - began) * 1e3)
        stream.cancel()
    calls = f"{effort.reserves} calls, slowest {max(samples):.1f} ms"
    return [
        Figure("Reserve, median", median(samples), "ms"),
        Figure(
            "Reserve, 99th percentile",
            percentile(samples, 99),
            "ms",
            P99_BUDGET_MS,
            note=calls,
            samples=tuple(samples),
        ),
    ]
