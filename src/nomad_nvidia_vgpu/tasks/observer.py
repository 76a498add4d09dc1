# SPDX-License-Identifier: MPL-2.0
"""The use of GPUs, read by a tool beside the running plugin with the plugin's own code."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import NamedTuple

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.model import GpuSample, GpuSource
from nomad_nvidia_vgpu.gpu.survey import list_processes, survey
from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.sharing.plan import Plan, make_plan
from nomad_nvidia_vgpu.state.catalog import Listing
from nomad_nvidia_vgpu.state.usage import Usage
from nomad_nvidia_vgpu.tasks.attribution import Attributor


class Observation(NamedTuple):
    """A node at one moment."""

    taken_at: datetime
    """In UTC."""
    plan: Plan
    samples: Mapping[str, GpuSample]
    """By UUID; only of GPUs that gave one."""
    usage: Usage
    problems: tuple[str, ...] = ()
    """One sentence for each GPU that does not tell its UUID."""


class Observer:
    """Looks at the node, again and again; not thread-safe."""

    def __init__(
        self,
        config: PluginConfig,
        source: GpuSource,
        proc: Proc,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Touches nothing yet; `config` says how the GPUs are divided."""
        self._config = config
        self._source = source
        self._attributor = Attributor(proc, config.mps.root)
        self._clock = clock

    def look(self) -> Observation:
        """The node now; DriverError when there is no usable driver. Blocks as long as it does."""
        found = survey(self._source)
        plan = make_plan(self._config, found.inventory)
        processes = list_processes(self._source, found.inventory)
        now = self._clock()
        listings = {uuid: Listing(now, of) for uuid, of in processes.items()}
        taken_at = datetime.now(tz=timezone.utc)
        usage = self._attributor.attribute(plan, listings, now, taken_at)
        return Observation(taken_at, plan, found.samples, usage, found.problems)
