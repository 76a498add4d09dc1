# SPDX-License-Identifier: MPL-2.0
"""How much memory the plugin keeps, and whether it grows."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from bench import launch
from bench.environment import Installation
from bench.fake_driver import FakeMachine
from bench.figures import Effort, Figure

SIMULATED_BUDGET_MB = 42.0
FAKE_BUDGET_MB = 48.0
GROWTH_BUDGET_MB = 1.0
_GPUS = 8
_VGPUS = 16
_INTERVAL_S = 0.01


def simulated(installation: Installation, effort: Effort) -> Figure:
    """Resident memory after the first fingerprint of simulated GPUs."""
    samples = _after_fingerprint(installation, effort, launch.simulated(_GPUS, _VGPUS), None)
    name = "resident memory after the first fingerprint, simulated"
    return Figure(name, median(samples), "MB", SIMULATED_BUDGET_MB, samples=samples)


def over_nvml(installation: Installation, effort: Effort, fake: FakeMachine) -> Figure:
    """The same over the fake driver, which itself takes less than NVIDIA's."""
    given = launch.config(vgpus=_VGPUS)
    samples = _after_fingerprint(installation, effort, given, fake.environment(counted=False))
    name = "resident memory after the first fingerprint, fake driver"
    return Figure(name, median(samples), "MB", FAKE_BUDGET_MB, samples=samples)


def growth(installation: Installation, effort: Effort) -> Figure:
    """By how much resident memory grows while stats stream."""
    samples = []
    with launch.running(installation, launch.simulated(_GPUS, _VGPUS)) as host:
        groups = launch.fingerprints(host)
        next(groups)
        stats = launch.stats(host, _INTERVAL_S)
        for number in range(1, effort.flat_to + 1):
            next(stats)
            if number % effort.flat_from == 0:
                samples.append(launch.resident_mb(host))
        stats.cancel()
        groups.cancel()
    name = f"growth from stats message {effort.flat_from} to {effort.flat_to}"
    grown = samples[-1] - samples[0]
    note = f"from {samples[0]:.1f} MB"
    return Figure(name, grown, "MB", GROWTH_BUDGET_MB, note=note, samples=tuple(samples))


def _after_fingerprint(
    installation: Installation, effort: Effort, given: bytes, extra: Mapping[str, str] | None
) -> tuple[float, ...]:
    samples = []
    for _ in range(effort.memory_launches):
        with launch.running(installation, given, extra) as host:
            groups = launch.fingerprints(host)
            next(groups)
            samples.append(launch.resident_mb(host))
            groups.cancel()
    return tuple(samples)
