# SPDX-License-Identifier: MPL-2.0
"""One verdict per GPU from what its driver says, with a way back. Pure: the clock is handed in.

States of a GPU, and what moves it:

    healthy ──(a bad signal)──► unhealthy ──(all signals good for the recovery period)──► healthy
                                    ▲  │
                                    └──┘ another bad signal starts the period again

What only a reset or a reboot heals does not heal by silence: the period begins when one is seen.
The driver says that none is needed (its recovery action), or its count of energy begins again, or
the GPU, or the whole driver, had gone and is back. A reboot of the node, and a restart of the
agent by its operator, begin with a new process that knows of no fault.

The text of a GPU is that of the gravest cause since it turned unhealthy, so that it does not
change while signals come and go: each change costs the cluster a round of evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu import xid as xids
from nomad_nvidia_vgpu.gpu.model import HEALTHY, Gpu, Health, Signals, XidEvent
from nomad_nvidia_vgpu.gpu.xid import Remedy

_RECOVERY_ACTIONS = {
    1: ("the driver asks for a reset", Remedy.RESET),
    2: ("the driver asks for a reboot", Remedy.REBOOT),
    3: ("the driver asks to drain peer-to-peer work", Remedy.RESET),
    4: ("the driver asks to drain and reset", Remedy.RESET),
    5: ("the driver asks to recover the IMEX domain", Remedy.SEE_LOG),
    6: ("the driver asks for a bus reset", Remedy.RESET),
    7: ("the driver asks for a system reboot", Remedy.REBOOT),
}
"""NVML's field 230; what it does not name yet counts as bad."""

GONE = Problem("the driver does not list this GPU any more", "drain the node and check the GPU")

MIN_GOOD_LOOKS = 2
"""One good answer may be luck."""


class HealthPolicy(NamedTuple):
    """What the operator decided."""

    fatal_xids: frozenset[int] = frozenset()
    ignored_xids: frozenset[int] = frozenset()
    recovery_period_s: float = 60.0


DEFAULT_POLICY = HealthPolicy()


class Cause(NamedTuple):
    """Why a GPU is unhealthy."""

    problem: Problem
    """Short and stable, shown to the operator."""
    signal: str
    """Which signal decided, for the log."""
    grave: bool = False
    """Whether nothing on this GPU will work again before a reset or a reboot."""


_Part = tuple[int, "int | None"]
"""GPU instance and compute instance; without the latter, all compute instances."""


class _Record:
    """What is known of one GPU, or of one MIG device."""

    def __init__(self, meant: frozenset[str] = frozenset()) -> None:
        self.cause: Cause | None = None
        self.bad_at = 0.0
        self.good_looks = 0
        self.lasts = False
        """Whether only a reset ends it."""
        self.meant = meant
        """For MIG devices, the UUIDs of those concerned."""

    def bad(self, cause: Cause, now: float, *, lasts: bool = False) -> None:
        if self.cause is None or (cause.grave and not self.cause.grave):
            self.cause = cause
        self.bad_at = now
        self.good_looks = 0
        self.lasts = self.lasts or lasts

    def good(self, now: float, recovery_period_s: float) -> None:
        if self.nearly_good(now, recovery_period_s):
            self.cause = None
        self.good_looks += 1

    def nearly_good(self, now: float, recovery_period_s: float) -> bool:
        """Whether one more good look ends it."""
        if self.lasts or self.good_looks < MIN_GOOD_LOOKS - 1:
            return False
        return now - self.bad_at >= recovery_period_s


class Judge:
    """The verdicts over one physical GPU and its MIG devices."""

    def __init__(self, policy: HealthPolicy) -> None:
        """Healthy until told otherwise."""
        self._policy = policy
        self._whole = _Record()
        self._instances: dict[_Part, _Record] = {}
        self._was_away = False
        self._energy_mj: int | None = None

    def failed(self, cause: Cause, now: float, *, away: bool = False) -> None:
        """A look failed: the GPU is lost, wants a reset, does not answer, or the like.

        `away`: if it is there again later, it, or its driver, has begun from the start.
        """
        self._whole.bad(cause, now)
        self._was_away |= away

    def looked(self, name: str, signals: Signals, now: float, parts: Sequence[Gpu] = ()) -> None:
        """A look succeeded; `name` is the GPU's in the text, `parts` what is published of it."""
        if self._reset_seen(signals):
            for record in (self._whole, *self._instances.values()):
                record.lasts = False
        cause = _lasting_cause(name, signals)
        if cause is not None:
            self._whole.bad(cause, now)
            return
        self._whole.good(now, self._policy.recovery_period_s)
        there = {gpu.uuid for gpu in parts}
        for key, record in list(self._instances.items()):
            record.good(now, self._policy.recovery_period_s)
            # To destroy a MIG device and to make another is a reset of that part.
            if record.cause is None or not record.meant & there:
                del self._instances[key]

    def _reset_seen(self, signals: Signals) -> bool:
        before, self._energy_mj = self._energy_mj, signals.energy_mj
        away, self._was_away = self._was_away, False
        restarted = (
            before is not None and signals.energy_mj is not None and signals.energy_mj < before
        )
        return away or restarted or signals.recovery_action == 0

    def happened(self, event: XidEvent, now: float, parts: Sequence[Gpu] = ()) -> bool:
        """An XID came; whether it makes the GPU, or a MIG device of it, unhealthy.

        `parts` is what is published of the GPU: an event that means none of it means all of it.
        """
        policy = self._policy
        fault = xids.fault(event.xid, policy.fatal_xids, policy.ignored_xids)
        if fault is None:
            return False
        grave = fault.remedy in (Remedy.RESET, Remedy.REBOOT)
        cause = Cause(fault.problem.about(event.physical_uuid), f"XID {event.xid}", grave)
        record = self._whole
        if event.gpu_instance is not None and event.xid not in xids.WHOLE_GPU:
            key = (event.gpu_instance, event.compute_instance)
            meant = frozenset(gpu.uuid for gpu in parts if _concerns(key, gpu))
            if meant:
                record = self._instances.setdefault(key, _Record(meant))
        record.bad(cause, now, lasts=grave)
        return True

    def cause(self, gpu: Gpu | None = None) -> Cause | None:
        """Why this GPU of ours is unhealthy, or None; without one, the physical GPU as a whole."""
        if self._whole.cause is not None or gpu is None:
            return self._whole.cause
        return next((cause for key, cause in self._parts() if _concerns(key, gpu)), None)

    def health(self, gpu: Gpu) -> Health:
        """The verdict over one GPU of ours: the physical one, or a MIG device."""
        cause = self.cause(gpu)
        return HEALTHY if cause is None else Health(False, cause.problem, cause.grave)

    def causes(self) -> dict[str, Cause]:
        """Every cause in force, by the part of the GPU it concerns: `` for all of it."""
        found = {f" GPU instance {key[0]}": cause for key, cause in self._parts()}
        return {**found, **({"": self._whole.cause} if self._whole.cause else {})}

    def _parts(self) -> list[tuple[_Part, Cause]]:
        return [(key, record.cause) for key, record in self._instances.items() if record.cause]

    def nearly_good(self, now: float) -> bool:
        """Whether one more good look makes the GPU, or a MIG device of it, healthy."""
        return any(
            record.cause is not None and record.nearly_good(now, self._policy.recovery_period_s)
            for record in (self._whole, *self._instances.values())
        )

    @property
    def waiting(self) -> bool:
        """Whether something is bad or on its way back, so that looks should come more often."""
        return self._whole.cause is not None or bool(self._instances)


def _concerns(part: _Part, gpu: Gpu) -> bool:
    gpu_instance, compute_instance = part
    return gpu.gpu_instance_id == gpu_instance and compute_instance in (
        None,
        gpu.compute_instance_id,
    )


def _lasting_cause(name: str, signals: Signals) -> Cause | None:
    if signals.recovery_action:
        action = signals.recovery_action
        meaning, remedy = _RECOVERY_ACTIONS.get(
            action, (f"the driver asks for recovery action {action}", Remedy.SEE_LOG)
        )
        return Cause(Problem(f"{name}: {meaning}", remedy.value), "the recovery action", grave=True)
    if signals.row_remap_failed:
        text = Problem(f"{name}: the memory has a row that cannot be replaced", "replace the GPU")
        return Cause(text, "row remapping")
    return None
