# SPDX-License-Identifier: MPL-2.0
"""How long Nomad waits for the plugin when an agent starts, in starts of the bare interpreter."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median

from bench import launch
from bench.environment import Installation
from bench.fake_driver import FakeMachine
from bench.figures import TIMES, Effort, Figure

SET_CONFIG_BUDGET = 9.0
THREE_LAUNCHES_BUDGET = 27.0
_GPUS = 8
_VGPUS = 16


def measure(installation: Installation, effort: Effort, fake: FakeMachine | None) -> list[Figure]:
    """The start-up figures, every kind of launch taking turns with the bare interpreter."""
    simulated = launch.simulated(_GPUS, _VGPUS)
    bare, line, answered, ended, three, three_nvml = [], [], [], [], [], []
    three_launches(installation, simulated)  # fills the page cache
    for _ in range(effort.launches):
        bare.append(launch.bare_s(installation))
        times = _until_configured(installation, simulated)
        line.append(times[0])
        answered.append(times[1])
        ended.append(times[2])
        bare.append(launch.bare_s(installation))
        three.append(three_launches(installation, simulated))
        bare.append(launch.bare_s(installation))
        if fake is not None:
            given = launch.config(vgpus=_VGPUS)
            three_nvml.append(three_launches(installation, given, fake.environment(counted=False)))
    unit_s = median(bare)
    figures = [
        Figure("bare: python3 -I -c pass", unit_s * 1e3, "ms", samples=tuple(bare)),
        _in_bare("exec to handshake line", line, unit_s, None),
        _in_bare("exec to SetConfig answered", answered, unit_s, SET_CONFIG_BUDGET),
        _in_bare("Shutdown to end of process", ended, unit_s, None),
        _in_bare(
            "three launches and first fingerprint, simulated", three, unit_s, THREE_LAUNCHES_BUDGET
        ),
    ]
    if fake is not None:
        name = "three launches and first fingerprint, fake driver"
        figures.append(_in_bare(name, three_nvml, unit_s, None))
    return figures


def _in_bare(name: str, samples: list[float], unit_s: float, budget: float | None) -> Figure:
    note = f"{median(samples) * 1e3:.1f} ms"
    return Figure(
        name, median(samples) / unit_s, f"{TIMES} bare", budget, note=note, samples=tuple(samples)
    )


def _until_configured(installation: Installation, given: bytes) -> tuple[float, float, float]:
    """Seconds to the handshake and to the answered SetConfig, and from Shutdown to the end."""
    began = time.perf_counter()
    host = launch.start(installation)
    line = time.perf_counter()
    host.set_config_bytes(given)
    answered = time.perf_counter()
    launch.stop(host)
    return line - began, answered - began, time.perf_counter() - answered


def three_launches(
    installation: Installation, given: bytes, extra: Mapping[str, str] | None = None
) -> float:
    """Seconds of what an agent does before it can register a node."""
    began = time.perf_counter()
    first = launch.start(installation, extra)
    first.info()
    first.schema()
    launch.stop(first)
    second = launch.start(installation, extra)
    second.set_config_bytes(given)
    second.set_config_bytes(given)
    launch.stop(second)
    third = launch.start(installation, extra)
    third.set_config_bytes(given)
    stream = launch.fingerprints(third)
    next(stream)
    took = time.perf_counter() - began
    stream.cancel()
    launch.stop(third)
    return took


def nvml_starts(installation: Installation, fake: FakeMachine) -> Figure:
    """How often NVML is initialised in all three launches together."""
    fake.forget_calls()
    three_launches(installation, launch.config(vgpus=_VGPUS), fake.environment())
    starts = sum(n for name, n in fake.calls().items() if name.startswith("nvmlInit"))
    return Figure("NVML initialisations per agent start", starts, "", 1, exact=True)
