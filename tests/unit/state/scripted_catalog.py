# SPDX-License-Identifier: MPL-2.0
"""A catalog whose waits pass in no time: what is to come is scripted by the second."""

from __future__ import annotations

from collections.abc import Callable

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.model import Gpu, SeenGpu
from nomad_nvidia_vgpu.state.catalog import Catalog, Edition
from unit.example_gpus import inventory
from unit.manual_clock import ManualClock


class ScriptedCatalog(Catalog):
    """Holds the script of one stream, which ends when the host hangs up."""

    def __init__(self, config: PluginConfig, *, hang_up_at: float) -> None:
        """The host hangs up after so many seconds."""
        super().__init__(config)
        self.clock = ManualClock(0.0)
        self._hang_up_at = hang_up_at
        self._script: list[tuple[float, Callable[[], None]]] = []

    def listening(self) -> bool:
        """Whether the host has not hung up yet."""
        return self.clock.now < self._hang_up_at

    def at(self, seconds: float, *gpus: Gpu | SeenGpu, complete: bool = True) -> None:
        """Lets these be the GPUs of the node from this second on."""
        found = inventory(*gpus)
        self._script.append((seconds, lambda: self.take_inventory(found, complete=complete)))
        self._script.sort(key=lambda event: event[0])

    def wait(self, until: Callable[[Edition], bool], timeout_s: float) -> Edition:
        """Moves the clock to what is waited for, or to the end of the wait."""
        end = min(self.clock.now + timeout_s, self._hang_up_at)
        while not until(self.edition) and self.clock.now < end:
            if self._script and self._script[0][0] <= end:
                seconds, act = self._script.pop(0)
                self.clock.now = max(self.clock.now, seconds)
                act()
            else:
                self.clock.now = end
        return self.edition
