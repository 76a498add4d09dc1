# SPDX-License-Identifier: MPL-2.0
"""The plugin as Nomad uses it: told its config, then asked for fingerprints, reservations, stats.

Nothing is started before the first fingerprint: of the three launches per agent start, two never
ask for one.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device import fingerprint, stats
from nomad_nvidia_vgpu.device.catalog import Catalog
from nomad_nvidia_vgpu.device.reserve import NodeSource, Reservation, reserve
from nomad_nvidia_vgpu.device.task_ending import NobodyAttributed, TaskEnder
from nomad_nvidia_vgpu.device.upkeep import Upkeep, enforcers_of
from nomad_nvidia_vgpu.gpu.health import HealthPolicy
from nomad_nvidia_vgpu.gpu.model import GpuSource
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus
from nomad_nvidia_vgpu.gpu.watch import GpuWatch, Sink

SourceOf = Callable[[Sequence[SimulatedGpus]], GpuSource]

_log = logging.getLogger(__name__)


class Plugin:
    """Nomad's three calls, joined by one catalog and one watch over the hardware."""

    def __init__(
        self, source_of: SourceOf, config: PluginConfig, leave: Callable[[], None] = lambda: None
    ) -> None:
        """`source_of` makes the source of GPUs for the option `simulate`.

        `leave` is called when only a new process can go on; Nomad starts one at once.
        """
        self._leave = leave
        self._source_of = source_of
        self._config = config
        self._catalog = Catalog(config)
        self._nodes = _node_source(config)
        self._lock = threading.Lock()  # guards the start of the watch
        self._watch: GpuWatch | None = None

    def fingerprint(self, hang_up: "HangUp") -> Iterator[tuple[fingerprint.DeviceGroup, ...]]:
        """The stream of fingerprints; starts the watch over the hardware if none runs yet."""
        self._start_watch()
        hang_up.call(self._catalog.wake)
        return fingerprint.stream(self._catalog, self._config.vendor, hang_up.listening)

    def reserve(self, ids: Sequence[str]) -> Reservation:
        """The reservation for these vGPUs; RequestError.

        After a crash of ours Nomad may reserve before we have seen all GPUs again, and a refusal
        would fail the allocation for good: so this waits for them, as long as a fingerprint would.
        """
        self._start_watch()
        edition = self._catalog.wait(lambda e: e.complete, fingerprint.FIRST_ANSWER_S)
        return reserve(self._config, edition.plan, ids, self._nodes)

    def stats(self, hang_up: "HangUp", asked_s: float) -> Iterator[tuple[stats.GroupStats, ...]]:
        """The stream of stats at the interval that the host asked for."""
        watch = self._start_watch()
        period_s = stats.interval_s(asked_s)
        ended = threading.Event()
        hang_up.call(ended.set)
        vendor = self._config.vendor
        with watch.sampling(period_s) if watch else contextlib.nullcontext():
            yield from stats.stream(self._catalog, vendor, period_s, ended, hang_up.listening)

    def _start_watch(self) -> GpuWatch | None:
        """The watch over the hardware, started if none runs yet; None if nothing is to be offered."""
        config = self._config
        with self._lock:
            if self._watch is None and config.configured:
                source = self._source_of(config.simulate)
                enforcers = enforcers_of(config, source)
                if enforcers:
                    Upkeep(self._catalog, enforcers, config.fingerprint_period_s).start()
                self._watch = GpuWatch(
                    source,
                    _sink(config, self._catalog),
                    period_s=config.fingerprint_period_s,
                    policy=_policy(config),
                    leave=self._leave,
                )
                self._watch.start()
            return self._watch


def _node_source(config: PluginConfig) -> NodeSource | None:
    if config.device_nodes != "cdi":
        return None
    # Imported late: few nodes have a use for it, and every start would wait for it.
    from nomad_nvidia_vgpu.device.cdi import CdiNodes  # noqa: PLC0415

    return CdiNodes(config.cdi_spec_dirs)


def _sink(config: PluginConfig, catalog: Catalog) -> Sink:
    if not config.health.end_tasks:
        return catalog
    _log.warning(
        "health.end_tasks is set, but no process can be attributed to a task yet: none is ended"
    )
    return TaskEnder(catalog, NobodyAttributed())


def _policy(config: PluginConfig) -> HealthPolicy:
    health = config.health
    return HealthPolicy(
        fatal_xids=frozenset(health.fatal_xids),
        ignored_xids=frozenset(health.ignored_xids),
        recovery_period_s=health.recovery_period_s,
    )


class HangUp:
    """Whether the host still listens to a stream, and what to do when it stops."""

    def __init__(self) -> None:
        """Listening."""
        self._lock = threading.Lock()
        self._listening = True
        self._calls: list[Callable[[], None]] = []

    def listening(self) -> bool:
        """False once the host has hung up."""
        return self._listening

    def call(self, act: Callable[[], None]) -> None:
        """Calls `act` when the host hangs up, or now if it has."""
        with self._lock:
            if self._listening:
                self._calls.append(act)
                return
        act()

    def hang_up(self) -> None:
        """The host has hung up."""
        with self._lock:
            self._listening = False
            calls = self._calls
        for act in calls:
            act()
