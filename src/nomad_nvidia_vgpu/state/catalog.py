# SPDX-License-Identifier: MPL-2.0
"""What is published now. The only state that the three calls and the hardware's threads share."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.gpu.model import GpuProcess, GpuSample, Inventory, SeenGpu, XidEvent
from nomad_nvidia_vgpu.outbox import Outbox
from nomad_nvidia_vgpu.sharing.enforcement import Enforcement
from nomad_nvidia_vgpu.sharing.plan import Plan, make_plan
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.sharing.withheld import Holding
from nomad_nvidia_vgpu.state.usage import Usage
from nomad_nvidia_vgpu.state.xid_log import XidLog

_log = logging.getLogger(__name__)


class Edition(NamedTuple):
    """The plan at one moment."""

    number: int
    """Rises with each change."""
    complete: bool
    """Whether every GPU has answered at least once, or was given up, and what holds its shares."""
    plan: Plan
    seen: frozenset[str] = frozenset()
    """The UUIDs of all GPUs seen so far, those that are not published too."""
    been_complete: bool = False
    """Whether an earlier one was complete, if this one is not: a GPU has come since."""

    def settled_for(self, gpu_uuids: Iterable[str]) -> bool:
        """Whether all is known of these GPUs, whatever another one is still waited for."""
        gpus = self.plan.by_uuid()
        return self.been_complete and all(
            uuid in gpus and not gpus[uuid].enforcement.starting for uuid in gpu_uuids
        )


class Listing(NamedTuple):
    """The processes on one GPU, as the driver listed them at one moment."""

    taken_at: float
    """By the catalog's clock, in seconds."""
    processes: Sequence[GpuProcess]


class Catalog:
    """The present plan, the newest samples and the use by tasks; a `Sink` of the watch."""

    def __init__(self, config: PluginConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Empty until the first inventory comes."""
        self._config = config
        self._clock = clock
        self._changed = threading.Condition()  # guards all that follows
        self._edition = Edition(0, complete=not config.configured, plan=Plan())
        self._samples: dict[str, GpuSample] = {}
        self._listings: dict[str, Listing] = {}
        self._usage = Usage()
        self._guard_counts: Mapping[tuple[str, str], int] = {}
        self._xids = XidLog()
        self._told: frozenset[str] = frozenset()
        self._inventory = Inventory()
        self._set_modes: dict[str, tuple[str | None, str]] = {}
        """The compute mode that was looked at last and the one that was set since, by UUID."""
        self._answered = False
        self._enforced: dict[str, Enforcement] = {}
        self._holdings: frozenset[Holding] = frozenset()
        self._held_of: frozenset[str] | None = None
        """The GPUs of which it is known what tasks hold; None: nobody finds that out."""
        self._load: frozenset[VgpuId] = frozenset()
        self._outbox = Outbox()

    @property
    def edition(self) -> Edition:
        """The present plan."""
        return self._edition  # one reference, replaced whole: no lock needed

    @property
    def samples(self) -> Mapping[str, GpuSample]:
        """The newest sample of each GPU that gave one, by UUID; a copy."""
        with self._changed:
            return dict(self._samples)

    @property
    def listings(self) -> Mapping[str, Listing]:
        """The newest list of processes of each GPU that gave one, by UUID; a copy."""
        with self._changed:
            return dict(self._listings)

    @property
    def usage(self) -> Usage:
        """The use by tasks, as of the newest pass."""
        return self._usage  # one reference, replaced whole: no lock needed

    def take_usage(self, usage: Usage) -> None:
        """Replaces the use by tasks; called once per pass."""
        self._usage = usage

    @property
    def guard_counts(self) -> Mapping[tuple[str, str], int]:
        """What the memory guard has done so far; see `Guard.counts`."""
        return self._guard_counts

    def take_guard_counts(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Replaces what the memory guard has done so far; called once per pass."""
        self._guard_counts = counts

    @property
    def xid_counts(self) -> Mapping[tuple[str, str], int]:
        """How many XIDs came since the start, by physical GPU and XID."""
        return self._xids.counts

    def take_event(self, event: XidEvent) -> None:
        """Counts an XID, and tells the log whose it may be; called by the watch."""
        gpus = self._edition.plan.by_uuid()
        tasks = (
            share.task.label
            for share in self._usage.shares
            if share.gpu_uuid in gpus and event.may_concern(gpus[share.gpu_uuid].gpu)
        )
        self._xids.take(event, tasks, self._clock())

    def now(self) -> float:
        """The time by the clock of the listings, in seconds."""
        return self._clock()

    def take_inventory(self, inventory: Inventory, *, complete: bool) -> None:
        """Plans again and wakes all waiting threads; called by the watch."""
        with self._changed:
            self._inventory, self._answered = inventory, complete
            for gpu in (seen.gpu for seen in inventory.gpus if seen.gpu.uuid in self._set_modes):
                if self._set_modes[gpu.uuid][0] != gpu.compute_mode:
                    del self._set_modes[gpu.uuid]
            self._plan_again()
        self._outbox.deliver()

    def take_enforcement(self, uuid: str, enforcement: Enforcement | None) -> None:
        """What is in force on one GPU; plans again if it has changed; called by the upkeep.

        None: nothing is kept in force there any more.
        """
        with self._changed:
            if self._enforced.get(uuid) == enforcement:
                return
            if enforcement is None:
                del self._enforced[uuid]
            else:
                self._enforced[uuid] = enforcement
            self._plan_again()
        self._outbox.deliver()

    def take_compute_mode(self, uuid: str, mode: str) -> None:
        """The mode that this program has set on a GPU: the last look at it is out of date.

        The next plan goes by it, until a look shows another mode than the last one did.
        """
        with self._changed:
            looked = {seen.gpu.uuid: seen.gpu.compute_mode for seen in self._inventory.gpus}
            self._set_modes[uuid] = (looked.get(uuid), mode)

    def expect_holdings(self) -> None:
        """Somebody is about to find out what tasks hold: no plan is complete without."""
        with self._changed:
            self._held_of = frozenset()

    def take_holdings(self, holdings: frozenset[Holding], of: frozenset[str]) -> None:
        """What running tasks hold of the GPUs `of`, by UUID; plans again if it has changed."""
        with self._changed:
            if (self._holdings, self._held_of) != (holdings, of):
                self._holdings, self._held_of = holdings, of
                self._plan_again()
        self._outbox.deliver()

    def take_load(self, load: frozenset[VgpuId]) -> None:
        """Which vGPUs tasks have; plans again if it has changed."""
        with self._changed:
            if self._load != load:
                self._load = load
                self._plan_again()
        self._outbox.deliver()

    def _plan_again(self) -> None:
        """Replaces the edition; the lock is held, so the log is told later."""
        before = self._edition
        plan = make_plan(
            self._config,
            Inventory(tuple(map(self._with_set_mode, self._inventory.gpus))),
            self._enforced,
            self._holdings,
            before.plan,
            load=self._load,
        )
        uuids = frozenset(seen.gpu.uuid for seen in self._inventory.gpus)
        # A GPU that has not answered yet may be the one that is missed.
        complete = self._answered and not plan.starting
        complete = complete and (self._held_of is None or uuids <= self._held_of)
        been_complete = complete or before.been_complete
        self._edition = Edition(before.number + 1, complete, plan, uuids, been_complete)
        self._changed.notify_all()
        if complete:
            for warning in plan.warnings:
                if warning not in self._told:
                    self._outbox.put(partial(_log.warning, "%s", warning))
            self._told = frozenset(plan.warnings)

    def _with_set_mode(self, seen: SeenGpu) -> SeenGpu:
        """A GPU as it is by now, if this program has changed its compute mode since the last look."""
        if seen.gpu.uuid not in self._set_modes:
            return seen
        _, mode = self._set_modes[seen.gpu.uuid]
        return seen._replace(gpu=seen.gpu._replace(compute_mode=mode))

    def take_samples(self, samples: Mapping[str, GpuSample]) -> None:
        """Replaces the samples of these GPUs; called by the watch."""
        with self._changed:
            self._samples.update(samples)

    def take_processes(self, processes: Mapping[str, Sequence[GpuProcess]]) -> None:
        """Replaces the lists of processes of these GPUs; called by the watch."""
        now = self._clock()
        with self._changed:
            self._listings.update((uuid, Listing(now, of)) for uuid, of in processes.items())

    def wait(self, until: Callable[[Edition], bool], timeout_s: float) -> Edition:
        """The edition for which `until` holds, or the present one after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: until(self._edition), timeout=timeout_s)
            return self._edition

    def wake(self) -> None:
        """Makes all waiting threads look again, as when a stream was cancelled."""
        with self._changed:
            self._changed.notify_all()
