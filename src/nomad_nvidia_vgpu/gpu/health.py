# SPDX-License-Identifier: MPL-2.0
"""One verdict per GPU from what its driver says, with a way back. Pure: the clock is handed in.

States of a GPU, and what moves it:

    healthy ──(a bad signal)──► unhealthy ──(all signals good for the recovery period)──► healthy
                                    ▲  │
                                    └──┘ another bad signal starts the period again

The text of a GPU is that of the gravest cause since it turned unhealthy, so that it does not
change while signals come and go: each change costs the cluster a round of evaluations.
"""

from __future__ import annotations

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

    def __init__(self) -> None:
        self.cause: Cause | None = None
        self.bad_at = 0.0
        self.good_looks = 0

    def bad(self, cause: Cause, now: float) -> None:
        if self.cause is None or (cause.grave and not self.cause.grave):
            self.cause = cause
        self.bad_at = now
        self.good_looks = 0

    def good(self, now: float, recovery_period_s: float) -> None:
        self.good_looks += 1
        if self.good_looks >= MIN_GOOD_LOOKS and now - self.bad_at >= recovery_period_s:
            self.cause = None


class Judge:
    """The verdicts over one physical GPU and its MIG devices."""

    def __init__(self, policy: HealthPolicy) -> None:
        """Healthy until told otherwise."""
        self._policy = policy
        self._whole = _Record()
        self._instances: dict[_Part, _Record] = {}

    def failed(self, cause: Cause, now: float) -> None:
        """A look failed: the GPU is lost, wants a reset, does not answer, or the like."""
        self._whole.bad(cause, now)

    def looked(self, name: str, signals: Signals, now: float) -> None:
        """A look succeeded; `name` is the GPU's in the text."""
        cause = _lasting_cause(name, signals)
        if cause is not None:
            self._whole.bad(cause, now)
            return
        self._whole.good(now, self._policy.recovery_period_s)
        for key, record in list(self._instances.items()):
            record.good(now, self._policy.recovery_period_s)
            if record.cause is None:
                del self._instances[key]

    def happened(self, event: XidEvent, now: float) -> bool:
        """An XID came; whether it makes the GPU, or a MIG device of it, unhealthy."""
        policy = self._policy
        fault = xids.fault(event.xid, policy.fatal_xids, policy.ignored_xids)
        if fault is None:
            return False
        grave = fault.remedy in (Remedy.RESET, Remedy.REBOOT)
        cause = Cause(fault.problem.about(event.physical_uuid), f"XID {event.xid}", grave)
        if event.gpu_instance is None:
            self._whole.bad(cause, now)
        else:
            key = (event.gpu_instance, event.compute_instance)
            self._instances.setdefault(key, _Record()).bad(cause, now)
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
