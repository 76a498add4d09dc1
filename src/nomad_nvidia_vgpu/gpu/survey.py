# SPDX-License-Identifier: MPL-2.0
"""One look at all GPUs, for tools that are not the running plugin."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nomad_nvidia_vgpu.errors import HardwareError, Problem
from nomad_nvidia_vgpu.gpu.health import HealthPolicy
from nomad_nvidia_vgpu.gpu.inventory import Stock
from nomad_nvidia_vgpu.gpu.model import GpuProcess, GpuSample, GpuSource, Inventory


class Survey(NamedTuple):
    """What one look at all GPUs found."""

    inventory: Inventory
    samples: Mapping[str, GpuSample]
    """By UUID; only of GPUs that gave one."""
    problems: tuple[Problem, ...]
    """One sentence for each GPU that does not tell its UUID."""


def survey(source: GpuSource) -> Survey:
    """Looks at every GPU once; DriverError when there is no usable driver.

    Blocks as long as the driver does.
    """
    source.open()
    count = source.count()
    stock = Stock(HealthPolicy())
    stock.counted(count, 0.0)
    samples: dict[str, GpuSample] = {}
    problems = []
    for index in range(count):
        try:
            stock.looked(index, source.look(index), 0.0)
        except HardwareError as error:
            problems.append(error.problem)
            continue
        # Its facts are worth showing without figures.
        with contextlib.suppress(HardwareError):
            samples.update(source.sample(index))
    return Survey(stock.inventory(), samples, tuple(problems))


def list_processes(source: GpuSource) -> Mapping[str, Sequence[GpuProcess]]:
    """The processes on the GPUs that the last survey saw, by UUID; without those not known."""
    found: dict[str, Sequence[GpuProcess]] = {}
    for index in range(source.count()):
        with contextlib.suppress(HardwareError):
            found.update(source.processes(index))
    return found
