# SPDX-License-Identifier: MPL-2.0
"""From what each physical GPU answers to the inventory of the node, without any I/O.

A GPU that was seen once stays in the inventory, unhealthy with a reason while it fails, because
tasks may still run on it and the operator must see it. Only a MIG device that was destroyed on
purpose, or a GPU that was cut into MIG devices, leaves.
"""

from __future__ import annotations

from typing import NamedTuple

from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.health import Cause, HealthPolicy, Judge
from nomad_nvidia_vgpu.gpu.model import Gpu, Health, Inventory, Look, SeenGpu, XidEvent

GONE = Problem("the driver does not list this GPU any more", "drain the node and check the GPU")
DRIVER = "the driver"
"""The signal of a cause that is the whole driver's, not one GPU's."""


class _Slot(NamedTuple):
    """What is known of the physical GPU at one of the driver's indexes."""

    look: Look | None = None
    """The last look that succeeded."""
    cause: Cause | None = None
    """Why the look after it did not."""
    fresh: bool = False
    """Whether it has answered, well or badly, since the GPUs were last renumbered."""


class Stock:
    """Takes in what the driver says, and says what the node has; not thread-safe."""

    def __init__(self, policy: HealthPolicy) -> None:
        """Knows nothing yet."""
        self._policy = policy
        self._slots: dict[int, _Slot] = {}
        self._judges: dict[str, Judge] = {}
        self._known: dict[str, Gpu] = {}
        self._driver_problem: Problem | None = None
        self.numbering = 0
        """Grows when GPUs have moved to other indexes; what was asked before says nothing then."""

    def counted(self, count: int, now: float) -> None:
        """The driver works and lists `count` GPUs."""
        self._driver_problem = None
        if count == len(self._slots):
            return
        # A GPU that left moves those behind it to other indexes.
        before = self._slots
        self._slots = {i: before.get(i, _Slot()) for i in range(count)}
        self._renumber()
        self._miss_gone(now)

    def driver_failed(self, problem: Problem, now: float) -> None:
        """The driver as a whole cannot be used; that holds for every GPU."""
        self._driver_problem = problem
        for judge in self._judges.values():
            judge.failed(Cause(problem, DRIVER), now)

    def looked(self, index: int, look: Look, now: float) -> None:
        """A look at one GPU succeeded; it began after the last change of `numbering`."""
        before = self._slots.get(index, _Slot()).look
        if before is not None and before.physical_uuid != look.physical_uuid:
            self._renumber()
        self._slots[index] = _Slot(look, fresh=True)
        judge = self._judges.setdefault(look.physical_uuid, Judge(self._policy))
        judge.looked(look.physical_uuid, look.signals, now)
        for gpu in self._parts_of(look.physical_uuid):
            del self._known[gpu.uuid]
        self._known.update((gpu.uuid, gpu) for gpu in look.gpus)
        self._miss_gone(now)

    def failed(self, index: int, cause: Cause, now: float) -> None:
        """A look at one GPU failed; it began after the last change of `numbering`."""
        slot = self._slots.get(index, _Slot())
        self._slots[index] = slot._replace(cause=cause, fresh=True)
        if slot.look is not None:
            self._judges[slot.look.physical_uuid].failed(cause, now)
        self._miss_gone(now)

    def happened(self, event: XidEvent, now: float) -> bool:
        """The driver reported an XID; whether it makes a GPU unhealthy."""
        judge = self._judges.get(event.physical_uuid)
        return judge is not None and judge.happened(event, now)

    def inventory(self) -> Inventory:
        """All GPUs seen so far, by UUID."""
        return Inventory(
            tuple(SeenGpu(gpu, self._health(gpu)) for _, gpu in sorted(self._known.items()))
        )

    @property
    def answered(self) -> bool:
        """Whether every GPU has said something, good or bad."""
        return all(slot.look or slot.cause for slot in self._slots.values())

    def index_of(self, physical_uuid: str) -> int:
        """Where the driver lists this GPU now, or -1."""
        for index, slot in self._slots.items():
            if slot.look is not None and slot.look.physical_uuid == physical_uuid:
                return index
        return -1

    def waiting(self, index: int) -> bool:
        """Whether this GPU is bad or on its way back, so that it should be looked at more often."""
        slot = self._slots.get(index, _Slot())
        return slot.look is None or self._judges[slot.look.physical_uuid].waiting

    def causes(self) -> dict[str, Cause]:
        """Every cause in force, by the GPU or part that it concerns; for the log."""
        found = {
            f"{uuid}{part}": cause
            for uuid, judge in self._judges.items()
            for part, cause in judge.causes().items()
        }
        nameless = {
            f"GPU {index}": slot.cause
            for index, slot in self._slots.items()
            if slot.look is None and slot.cause is not None
        }
        found = {name: c for name, c in {**found, **nameless}.items() if c.signal != DRIVER}
        if self._driver_problem is not None:
            found["the GPUs of this node"] = Cause(self._driver_problem, DRIVER)
        return found

    def _health(self, gpu: Gpu) -> Health:
        return self._judges[gpu.parent_uuid or gpu.uuid].health(gpu)

    def _parts_of(self, physical_uuid: str) -> list[Gpu]:
        return [g for g in self._known.values() if physical_uuid in (g.uuid, g.parent_uuid)]

    def _renumber(self) -> None:
        self.numbering += 1
        self._slots = {i: slot._replace(fresh=False) for i, slot in self._slots.items()}

    def _miss_gone(self, now: float) -> None:
        """Marks the GPUs that no index holds any more, once every index has answered.

        Before that a GPU may only have moved to an index that has not been looked at yet.
        """
        if not all(slot.fresh for slot in self._slots.values()):
            return
        listed = {slot.look.physical_uuid for slot in self._slots.values() if slot.look}
        for uuid, judge in self._judges.items():
            if uuid not in listed:
                judge.failed(Cause(GONE.about(uuid), "the driver's list"), now)
