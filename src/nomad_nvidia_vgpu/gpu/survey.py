# SPDX-License-Identifier: MPL-2.0
"""One look at all GPUs, for tools that are not the running plugin."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from nomad_nvidia_vgpu.errors import HardwareError, NoSuchGpuError, Problem
from nomad_nvidia_vgpu.gpu.health import HealthPolicy
from nomad_nvidia_vgpu.gpu.inventory import MOST_GPUS, Stock, too_many
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
    samples: dict[str, GpuSample] = {}
    problems: list[Problem] = []
    for index in range(min(count, MOST_GPUS)):
        try:
            uuid = source.find(index)
            stock.looked(source.look(uuid), 0.0)
        except NoSuchGpuError:
            break  # it counts more than it lists
        except HardwareError as error:
            problems.append(error.problem)
            continue
        # Its facts are worth showing without figures.
        with contextlib.suppress(HardwareError):
            samples.update(source.sample(uuid))
    if count > MOST_GPUS:
        problems.append(too_many(count))
    return Survey(stock.inventory(), samples, tuple(problems))


def list_processes(source: GpuSource, inventory: Inventory) -> Mapping[str, Sequence[GpuProcess]]:
    """The processes on the GPUs that a survey of this source saw, by UUID; without those not known."""
    found: dict[str, Sequence[GpuProcess]] = {}
    for uuid in sorted({seen.gpu.parent_uuid or seen.gpu.uuid for seen in inventory.gpus}):
        with contextlib.suppress(HardwareError):
            found.update(source.processes(uuid))
    return found
