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
from dataclasses import replace
from typing import TYPE_CHECKING

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device import fingerprint, stats
from nomad_nvidia_vgpu.device.catalog import Catalog
from nomad_nvidia_vgpu.device.reserve import NodeSource, Reservation, reserve
from nomad_nvidia_vgpu.device.tally import MADE, REFUSED, Tally
from nomad_nvidia_vgpu.errors import RequestError
from nomad_nvidia_vgpu.gpu.health import HealthPolicy
from nomad_nvidia_vgpu.gpu.model import GpuSource
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus
from nomad_nvidia_vgpu.gpu.watch import LIST_EVERY_S, GpuWatch, Sink

if TYPE_CHECKING:
    from nomad_nvidia_vgpu.device.accountant import Accountant

METRICS_SAMPLE_S = 10.0
"""How often the GPUs are sampled for Prometheus; Nomad's own interval is a second as a rule."""

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
        self._tally = Tally()
        self._lock = threading.Lock()  # guards the start of the watch
        self._watch: GpuWatch | None = None
        self._accountant: Accountant | None = None

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
        try:
            reservation = reserve(self._config, edition.plan, ids, self._nodes)
        except RequestError:
            self._tally.reserved(REFUSED)
            raise
        self._tally.reserved(MADE)
        return reservation

    def stats(self, hang_up: "HangUp", asked_s: float) -> Iterator[tuple[stats.GroupStats, ...]]:
        """The stream of stats at the interval that the host asked for."""
        watch = self._start_watch()
        period_s = stats.interval_s(asked_s)
        ended = threading.Event()
        hang_up.call(ended.set)
        vendor = self._config.vendor
        with watch.sampling(period_s) if watch else contextlib.nullcontext():
            yield from stats.stream(self._catalog, vendor, period_s, ended, hang_up.listening)

    def _accounting(self) -> tuple[Accountant, Sink]:
        """Who finds out who uses what, and who is told what the watch finds; starts nothing."""
        # Two of the three launches per agent start never get here.
        from nomad_nvidia_vgpu.device.accountant import Accountant  # noqa: PLC0415
        from nomad_nvidia_vgpu.device.attribution import Attributor  # noqa: PLC0415
        from nomad_nvidia_vgpu.device.guard import Guard  # noqa: PLC0415
        from nomad_nvidia_vgpu.device.proc import Proc  # noqa: PLC0415
        from nomad_nvidia_vgpu.device.task_ending import TaskEnder  # noqa: PLC0415

        proc = Proc()
        if self._config.memory_guard.action == "kill" and not proc.sees_host_pids():
            _log.warning(
                'memory_guard.action is "kill", but this program does not see the pids of the'
                " host, which are the driver's, so it only warns: run the Nomad agent in the"
                " host's PID namespace"
            )
            self._config = _warning_only(self._config)
            self._catalog.take_config(self._config)
        attributor = Attributor(proc, self._config.mps.root)
        belongs = attributor.still_belongs
        guard = Guard(self._config.memory_guard, belongs)
        accountant = Accountant(self._catalog, attributor, guard, LIST_EVERY_S)
        if not self._config.health.end_tasks:
            return accountant, self._catalog
        return accountant, TaskEnder(self._catalog, accountant.last_use, belongs)

    def _start_watch(self) -> GpuWatch | None:
        """The watch over the hardware, started if none runs yet; None if nothing is to be offered."""
        config = self._config
        with self._lock:
            if self._watch is None and config.configured:
                source = self._source_of(config.simulate)
                self._accountant, sink = self._accounting()
                # Simulated GPUs have the same UUIDs in every agent, and nothing is kept on them.
                if not config.simulate:
                    self._follow_node(source)
                self._watch = GpuWatch(
                    source,
                    sink,
                    period_s=config.fingerprint_period_s,
                    policy=_policy(config),
                    leave=self._leave,
                )
                self._watch.start()
                wanted = config.memory_guard.action != "off" or config.health.end_tasks
                sampling = self._watch.sampling(LIST_EVERY_S) if wanted else None
                self._accountant.start(sampling or contextlib.nullcontext())
                if config.metrics_address:
                    threading.Thread(
                        target=_serve_metrics,
                        args=(config, self._catalog, self._tally, self._watch),
                        name="metrics",
                        daemon=True,
                    ).start()
            return self._watch

    def _follow_node(self, source: GpuSource) -> None:
        """Starts what keeps shares in force, and what finds out which tasks hold vGPUs."""
        # Imported late: of no use for simulated GPUs, and on the way to the first fingerprint.
        from nomad_nvidia_vgpu.device.holdings import HoldingsWatch  # noqa: PLC0415
        from nomad_nvidia_vgpu.sharing.strategy import enforcers_of  # noqa: PLC0415

        period_s = self._config.fingerprint_period_s
        enforcers = enforcers_of(self._config, source)
        if enforcers:
            from nomad_nvidia_vgpu.device.upkeep import Upkeep  # noqa: PLC0415

            Upkeep(self._catalog, enforcers, period_s).start()
        self._catalog.expect_holdings()
        HoldingsWatch(self._catalog.take_holdings, period_s).start()


def _node_source(config: PluginConfig) -> NodeSource | None:
    if config.device_nodes != "cdi":
        return None
    # Imported late: few nodes have a use for it, and every start would wait for it.
    from nomad_nvidia_vgpu.device.cdi import CdiNodes  # noqa: PLC0415

    return CdiNodes(config.cdi_spec_dirs)


def _warning_only(config: PluginConfig) -> PluginConfig:
    return replace(config, memory_guard=replace(config.memory_guard, action="warn"))


def _serve_metrics(config: PluginConfig, catalog: Catalog, tally: Tally, watch: GpuWatch) -> None:
    """Serves for ever. Whatever goes wrong, the plugin goes on without metrics."""
    try:
        # Imported late: 45 ms, and few nodes have a metrics_address.
        from nomad_nvidia_vgpu.device.metrics import registry_of  # noqa: PLC0415
        from nomad_nvidia_vgpu.device.metrics_server import MetricsServer  # noqa: PLC0415

        registry = registry_of(catalog, tally, config.vendor)
        server = MetricsServer(config.metrics_address, registry, config.fingerprint_period_s)
        with watch.sampling(METRICS_SAMPLE_S):
            server.run()
    except Exception:  # noqa: BLE001  the GPUs matter more
        _log.exception("the metrics failed in an unforeseen way: report this as a bug")


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
