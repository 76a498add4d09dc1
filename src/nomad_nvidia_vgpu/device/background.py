# SPDX-License-Identifier: MPL-2.0
"""What runs behind Nomad's calls from the first fingerprint on: built whole, then started whole."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.health import HealthPolicy
from nomad_nvidia_vgpu.gpu.model import ComputeModes, GpuSource
from nomad_nvidia_vgpu.gpu.sample_rounds import LIST_EVERY_S
from nomad_nvidia_vgpu.gpu.sink import Sink
from nomad_nvidia_vgpu.gpu.watch import GpuWatch
from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.sharing.strategy import enforcers_of
from nomad_nvidia_vgpu.state.catalog import Catalog
from nomad_nvidia_vgpu.state.tally import Tally
from nomad_nvidia_vgpu.tasks.accountant import Accountant, Tools

if TYPE_CHECKING:
    from nomad_nvidia_vgpu.device.upkeep import Upkeep
    from nomad_nvidia_vgpu.tasks.holdings import HoldingsWatch
    from nomad_nvidia_vgpu.tasks.load import LoadWatch

METRICS_SAMPLE_S = 10.0
"""How often the GPUs are sampled for Prometheus; Nomad's own interval is a second as a rule."""

_log = logging.getLogger(__name__)


class Background(NamedTuple):
    """The threads behind the calls, and what they work with."""

    catalog: Catalog
    watch: GpuWatch
    accountant: Accountant
    lists_always: bool
    """Whether the processes on the GPUs are listed though nobody reads stats."""
    upkeep: Upkeep | None = None
    """None: no GPU of this node needs, or has left, more than the driver holds."""
    load: LoadWatch | None = None
    """None: what tasks have is not published."""
    holdings: HoldingsWatch | None = None
    """None: nothing is kept on the GPUs, because they are simulated."""
    metrics: threading.Thread | None = None

    def start(self) -> None:
        """Starts all of it; what does not start takes the rest with it."""
        try:
            if self.upkeep is not None:
                self.upkeep.expect()
            if self.holdings is not None:
                self.catalog.expect_holdings()
                self.holdings.start()
            if self.load is not None:
                self.load.start()
            self.watch.start()
            listing = self.watch.sampling(LIST_EVERY_S) if self.lists_always else None
            self.accountant.start(listing or contextlib.nullcontext())
            if self.metrics is not None:
                self.metrics.start()
            # Last: it holds the lock on the MPS daemons, once taken, until the process ends.
            if self.upkeep is not None:
                self.upkeep.start()
        except Exception:
            self.stop()
            raise

    def stop(self) -> None:
        """Tells all threads to end, except for that of the metrics; waits for none."""
        for part in (self.accountant, self.watch, self.load, self.holdings, self.upkeep):
            if part is not None:
                part.stop()


def background_of(
    config: PluginConfig,
    catalog: Catalog,
    tally: Tally,
    source: GpuSource,
    leave: Callable[[], None],
) -> Background:
    """What this config wants to run over these GPUs; starts nothing and changes nothing.

    `leave` is called when only a new process can go on.
    """
    proc = Proc()
    accountant = Accountant(catalog, lambda: tools_of(config, proc), LIST_EVERY_S)
    watch = GpuWatch(
        source,
        sink_of(config, catalog, accountant),
        period_s=config.fingerprint_period_s,
        policy=policy_of(config),
        leave=leave,
    )
    acts = config.memory_guard.action != "off" or config.health.end_tasks
    metrics = None
    if config.metrics_address:
        metrics = threading.Thread(
            target=serve_metrics, args=(config, catalog, tally, watch), name="metrics", daemon=True
        )
    background = Background(catalog, watch, accountant, lists_always=acts, metrics=metrics)
    if config.publish_load:
        # Imported late, as all below: the first fingerprint of most nodes would wait for it in vain.
        from nomad_nvidia_vgpu.tasks.load import LoadWatch  # noqa: PLC0415

        load = LoadWatch(
            catalog.take_load,
            config.publish_load_interval_s,
            proc,
            only_own=bool(config.simulate),
        )
        background = background._replace(load=load)
    # Simulated GPUs have the same UUIDs in every agent, and nothing is kept on them.
    if config.simulate:
        return background
    from nomad_nvidia_vgpu.tasks.holdings import HoldingsWatch  # noqa: PLC0415

    return background._replace(
        upkeep=_upkeep(config, catalog, source),
        holdings=HoldingsWatch(catalog, config.fingerprint_period_s, proc),
    )


def policy_of(config: PluginConfig) -> HealthPolicy:
    """What the `health` block says, as the GPUs are judged by."""
    health = config.health
    return HealthPolicy(
        fatal_xids=frozenset(health.fatal_xids),
        ignored_xids=frozenset(health.ignored_xids),
        recovery_period_s=health.recovery_period_s,
    )


def tools_of(config: PluginConfig, proc: Proc) -> Tools:
    """What attributes processes to tasks, and what guards their memory."""
    # In the thread of the passes, two seconds later.
    from nomad_nvidia_vgpu.tasks.attribution import Attributor  # noqa: PLC0415
    from nomad_nvidia_vgpu.tasks.guard import Guard  # noqa: PLC0415

    attributor = Attributor(proc, config.mps.root)
    return Tools(attributor, Guard(config.memory_guard, attributor.still_belongs))


def sink_of(config: PluginConfig, catalog: Catalog, accountant: Accountant) -> Sink:
    """What is told of the GPUs: the catalog, behind what ends tasks if the config has that."""
    if not config.health.end_tasks:
        return catalog
    from nomad_nvidia_vgpu.tasks.sick_gpu import TaskEnder  # noqa: PLC0415

    ender = TaskEnder(
        catalog,
        accountant.last_use,
        accountant.still_belongs,
        returned=accountant.first_process,
    )
    accountant.after_pass = ender.again
    return ender


class _ToldModes:
    """`ComputeModes` that tell the catalog what was set, because the next look may be a period away."""

    def __init__(self, modes: ComputeModes, catalog: Catalog) -> None:
        self._modes = modes
        self._catalog = catalog
        self.compute_mode = modes.compute_mode

    def set_compute_mode(self, uuid: str, mode: str) -> None:
        self._modes.set_compute_mode(uuid, mode)
        self._catalog.take_compute_mode(uuid, mode)


def _upkeep(config: PluginConfig, catalog: Catalog, source: GpuSource) -> Upkeep | None:
    enforcers = enforcers_of(config, _ToldModes(source, catalog))
    if not enforcers:
        return None
    from nomad_nvidia_vgpu.device.upkeep import Upkeep  # noqa: PLC0415

    return Upkeep(catalog, enforcers, config.fingerprint_period_s)


def serve_metrics(config: PluginConfig, catalog: Catalog, tally: Tally, watch: GpuWatch) -> None:
    """Serves for ever. Whatever goes wrong, the plugin goes on without metrics."""
    try:
        # Imported late: 45 ms, and few nodes have a metrics_address.
        from nomad_nvidia_vgpu.metrics.families import registry_of  # noqa: PLC0415
        from nomad_nvidia_vgpu.metrics.server import MetricsServer  # noqa: PLC0415

        registry = registry_of(catalog, tally, config.vendor)
        server = MetricsServer(config.metrics_address, registry, config.fingerprint_period_s)
        with watch.sampling(METRICS_SAMPLE_S):
            server.run()
    except Exception:  # noqa: BLE001  the GPUs matter more
        _log.exception("the metrics failed in an unforeseen way: report this as a bug")
