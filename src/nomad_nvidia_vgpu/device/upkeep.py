# SPDX-License-Identifier: MPL-2.0
"""Keeps in force what holds the shares of the GPUs: one thread per GPU and its strategy's enforcer.

Works from the catalog's plan and tells the catalog what is in force; RPC handlers wait for none
of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.goplugin.logs import fields
from nomad_nvidia_vgpu.gpu.model import Gpu
from nomad_nvidia_vgpu.outbox import Outbox
from nomad_nvidia_vgpu.periodic import PeriodicThread
from nomad_nvidia_vgpu.sharing.enforcement import IN_FORCE, STARTING, Enforcement
from nomad_nvidia_vgpu.sharing.plan import Plan
from nomad_nvidia_vgpu.sharing.strategy import Enforcer
from nomad_nvidia_vgpu.state.catalog import Catalog, Edition

MAX_INTERVAL_S = 10.0
"""How long a daemon that has died may go unseen."""
GIVE_UP_S = 8.0
"""How long one pass over a GPU may take before the GPU is said not to answer: less than the first
fingerprint waits, because a driver that hangs on one GPU must not hold up the others."""

PATIENCE_S = 30.0
"""The same for a GPU that was well."""

_LOOK_S = 1.0

_log = logging.getLogger(__name__)


class _Target(NamedTuple):
    """How a GPU is to be shared now."""

    gpu: Gpu | None
    """None: not at all."""
    vgpus: int = 0
    sharing: str = ""
    memory_percent: int = 100


_NOTHING = _Target(None)


class Upkeep:
    """Sees to the enforcement of every GPU in a catalog."""

    def __init__(
        self, catalog: Catalog, enforcers: Mapping[str, Enforcer], interval_s: float
    ) -> None:
        """`enforcers` by the name of their strategy; `interval_s` is the time between two looks."""
        self._catalog = catalog
        self._enforcers = enforcers
        self._interval_s = min(interval_s, MAX_INTERVAL_S)
        self._changed = threading.Condition()  # guards what follows
        self._targets: dict[str, _Target] = {}
        self._since: dict[str, float] = {}
        """When the pass began that is under way, by GPU; `time.monotonic`."""
        self._told: dict[str, str] = {}
        self._outbox = Outbox()
        self._number = -1
        """Of the edition that was followed last."""
        self._thread = PeriodicThread(
            "upkeep", self._follow_plan, 0.0, failing="cannot follow the plan for MPS"
        )

    def expect(self) -> None:
        """Keeps back each GPU with something left of an earlier config, until that is off."""
        for enforcer in self._enforcers.values():
            for uuid in enforcer.left_over():
                self._catalog.take_enforcement(uuid, STARTING)

    def start(self) -> None:
        """Starts the threads; they are daemons, because what they call may hang."""
        self._thread.start()

    def stop(self) -> None:
        """Tells the threads to end; what they keep in force stays, because tasks depend on it."""
        with self._changed:
            self._thread.stop()
            self._changed.notify_all()
        self._catalog.wake()

    def _follow_plan(self) -> None:
        edition = self._catalog.wait(
            lambda e: self._thread.stopped or e.number != self._number,
            min(self._interval_s, _LOOK_S),
        )
        if edition.number != self._number:
            self._number = edition.number
            self._take_aim(edition)
        self._give_up()

    def _give_up(self) -> None:
        """Tells of the passes that take too long; one that ends after all has the last word."""
        with self._changed:
            for uuid, since in self._since.items():
                # A GPU that has answered before gets more time, or a busy node would flap.
                patience_s = PATIENCE_S if self._told.get(uuid) == "" else GIVE_UP_S
                if time.monotonic() - since > patience_s:
                    self._publish(
                        uuid,
                        Enforcement(
                            problem=Problem(
                                # No number: a text that changes is a message to the cluster.
                                f"{uuid}: what holds its shares does not answer in time",
                                "see dmesg and nvidia-smi, drain the node if it lasts",
                            )
                        ),
                    )
        self._outbox.deliver()

    def _take_aim(self, edition: Edition) -> None:
        wanted = _targets(edition.plan)
        # What is left for a GPU that nobody has seen yet stays: its tasks may need it.
        left_over = {uuid for e in self._enforcers.values() for uuid in e.left_over()}
        # So does what a GPU has that cannot be shared as the config says now: that may be a slip.
        planned = edition.plan.by_uuid().keys()
        for uuid in (left_over & edition.seen | self._targets.keys()) - planned:
            self._aim(uuid, _NOTHING)
        for uuid, target in wanted.items():
            self._aim(uuid, target)

    def _aim(self, uuid: str, target: _Target) -> None:
        with self._changed:
            new = uuid not in self._targets
            if not new and self._targets[uuid] == target:
                return
            self._targets[uuid] = target
            self._changed.notify_all()
        if new:
            threading.Thread(
                target=self._keep, args=(uuid,), name=f"upkeep-{uuid}", daemon=True
            ).start()

    def _keep(self, uuid: str) -> None:
        while not self._thread.stopped:
            with self._changed:
                target = self._targets[uuid]
                self._since[uuid] = time.monotonic()
            enforcement = self._enforce(uuid, target)
            if enforcement.problem and self._told.get(uuid) == "":
                # A busy node may be slow to answer once: a GPU that was well is asked again.
                enforcement = self._enforce(uuid, target)
            with self._changed:
                del self._since[uuid]
                kept = target != _NOTHING or target != self._targets[uuid] or enforcement.problem
                if kept:
                    self._publish(uuid, enforcement)
                else:
                    self._forget(uuid)
            self._outbox.deliver()
            if not kept:
                return
            with self._changed:
                self._changed.wait_for(
                    lambda: self._thread.stopped or self._targets[uuid] != target,  # noqa: B023
                    timeout=self._interval_s,
                )

    def _forget(self, uuid: str) -> None:
        """Ends with a GPU that is gone and has nothing left on it; the lock is held."""
        del self._targets[uuid]
        self._told.pop(uuid, None)
        self._outbox.put(partial(self._catalog.take_enforcement, uuid, None))

    def _publish(self, uuid: str, enforcement: Enforcement) -> None:
        """Puts into the outbox what the catalog, and the log if it is new, are told; the lock is held."""
        told, problem = self._told.get(uuid, ""), enforcement.problem
        self._told[uuid] = problem
        if problem != told:
            say = partial(_log.log, extra=fields(gpu=uuid))
            if problem:
                self._outbox.put(partial(say, logging.WARNING, "%s", problem))
            else:
                self._outbox.put(partial(say, logging.INFO, "%s can be shared again", uuid))
        self._outbox.put(partial(self._catalog.take_enforcement, uuid, enforcement))

    def _enforce(self, uuid: str, target: _Target) -> Enforcement:
        """One pass for one GPU: whatever goes wrong, the next pass comes."""
        try:
            for name, enforcer in self._enforcers.items():
                if name != target.sharing and enforcer.holds(uuid):
                    problem = enforcer.release(uuid)
                    if problem:
                        return Enforcement(problem=problem)
            if target.gpu is None or target.sharing not in self._enforcers:
                return IN_FORCE
            return self._enforcers[target.sharing].keep(
                target.gpu, target.vgpus, target.memory_percent
            )
        except Exception as error:  # noqa: BLE001  the thread must live
            _log.exception(
                "the upkeep of %s failed in an unforeseen way", uuid, extra=fields(gpu=uuid)
            )
            return Enforcement(
                problem=Problem(f"{uuid}: unforeseen ({error!r})", "report this as a bug")
            )


def _targets(plan: Plan) -> dict[str, _Target]:
    """How each GPU is to be shared; a GPU that cannot be shared as asked is left alone."""
    return {
        uuid: _Target(shared.gpu, shared.vgpus, shared.sharing, shared.memory_percent)
        for uuid, shared in plan.by_uuid().items()
        if shared.fit
    }
