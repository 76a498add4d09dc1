# SPDX-License-Identifier: MPL-2.0
"""From what each physical GPU answers to the inventory of the node, without any I/O.

A GPU that was seen once stays in the inventory, unhealthy with a reason while it fails, because
tasks may still run on it and the operator must see it. Only a MIG device that was destroyed on
purpose, or a GPU that was cut into MIG devices, leaves.

GPUs are known by UUID. What fails at one of the driver's indexes is nobody until it says who it
is: any GPU that leaves moves those behind it to other indexes.
"""

from __future__ import annotations

from collections.abc import Collection

from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.health import GONE, Cause, HealthPolicy, Judge
from nomad_nvidia_vgpu.gpu.model import Gpu, Health, Inventory, Look, SeenGpu, XidEvent

DRIVER = "the driver"
"""The signal of a cause that is the whole driver's, not one GPU's."""
MOST_GPUS = 256
"""How many GPUs are asked; drivers that have lost their wits have counted millions."""
NO_GPU = Problem(
    "the driver lists no GPU, so none is offered", "see lspci and dmesg if this node has one"
)


def too_many(count: int) -> Problem:
    """What is said of a count that cannot be."""
    return Problem(
        f"the driver counts {count} GPUs, which cannot be, so the first {MOST_GPUS} of its list"
        " are asked",
        "see dmesg and nvidia-smi -L, reload the driver",
    )


class Stock:
    """Takes in what the driver says, and says what the node has; not thread-safe."""

    def __init__(self, policy: HealthPolicy) -> None:
        """Knows nothing yet."""
        self._policy = policy
        self._judges: dict[str, Judge] = {}
        self._known: dict[str, Gpu] = {}
        self._unseen: dict[int | str, Cause] = {}
        """What fails before it was ever looked at, by its index, or by its UUID if it has one."""
        self._driver_problem: Problem | None = None

    def driver_works(self) -> None:
        """The driver can be used."""
        self._driver_problem = None

    def driver_failed(self, problem: Problem, now: float, *, away: bool = False) -> None:
        """The driver as a whole cannot be used; that holds for every GPU.

        `away`: it is not loaded, so that it will begin from the start.
        """
        self._driver_problem = problem
        for judge in self._judges.values():
            judge.failed(Cause(problem, DRIVER), now, away=away)

    def looked(self, look: Look, now: float) -> None:
        """A look at one GPU succeeded."""
        self._unseen.pop(look.physical_uuid, None)
        judge = self._judges.setdefault(look.physical_uuid, Judge(self._policy))
        judge.looked(look.physical_uuid, look.signals, now, look.gpus)
        for gpu in self._parts_of(look.physical_uuid):
            del self._known[gpu.uuid]
        self._known.update((gpu.uuid, gpu) for gpu in look.gpus)

    def failed(self, uuid: str, cause: Cause, now: float) -> None:
        """A look at this physical GPU failed, by its own fault."""
        self._failed(uuid, cause, now, away=cause.grave)

    def gone(self, uuid: str, now: float) -> None:
        """The driver lists this physical GPU nowhere."""
        cause = Cause(GONE.about(uuid), "the driver's list")
        self._failed(uuid, cause, now, away=True)

    def nameless(self, index: int, cause: Cause | None) -> None:
        """What is at this index does not say who it is, or (None) is known by its UUID now."""
        self._unseen.pop(index, None)
        if cause is not None:
            self._unseen[index] = cause

    def listed(self, count: int) -> None:
        """The driver lists so many GPUs, and nothing at the indexes beyond."""
        self._unseen = {
            who: cause for who, cause in self._unseen.items() if isinstance(who, str) or who < count
        }

    def happened(self, event: XidEvent, now: float) -> bool:
        """The driver reported an XID; whether it makes a GPU unhealthy."""
        judge = self._judges.get(event.physical_uuid)
        return judge is not None and judge.happened(event, now, self._parts_of(event.physical_uuid))

    def inventory(self) -> Inventory:
        """All GPUs seen so far, by UUID."""
        return Inventory(
            tuple(SeenGpu(gpu, self._health(gpu)) for _, gpu in sorted(self._known.items()))
        )

    def waiting(self, uuid: str) -> bool:
        """Whether this GPU is bad or on its way back, so that it should be looked at more often."""
        judge = self._judges.get(uuid)
        return judge is None or judge.waiting

    def nearly_good(self, now: float) -> Collection[str]:
        """The physical GPUs that one more good look makes healthy."""
        return [uuid for uuid, judge in self._judges.items() if judge.nearly_good(now)]

    @property
    def unsettled(self) -> bool:
        """Whether some GPU is bad, on its way back, or has not said who it is."""
        return bool(self._unseen) or any(judge.waiting for judge in self._judges.values())

    def causes(self) -> dict[str, Cause]:
        """Every cause in force, by the GPU or part that it concerns; for the log."""
        found = {
            f"{uuid}{part}": cause
            for uuid, judge in self._judges.items()
            for part, cause in judge.causes().items()
        }
        unseen = {
            who if isinstance(who, str) else f"GPU {who}": cause
            for who, cause in self._unseen.items()
        }
        found = {name: c for name, c in {**found, **unseen}.items() if c.signal != DRIVER}
        if self._driver_problem is not None:
            found["the GPUs of this node"] = Cause(self._driver_problem, DRIVER)
        return found

    def _failed(self, uuid: str, cause: Cause, now: float, *, away: bool) -> None:
        if uuid in self._judges:
            self._judges[uuid].failed(cause, now, away=away)
        else:
            self._unseen[uuid] = cause

    def _health(self, gpu: Gpu) -> Health:
        return self._judges[gpu.parent_uuid or gpu.uuid].health(gpu)

    def _parts_of(self, physical_uuid: str) -> list[Gpu]:
        return [g for g in self._known.values() if physical_uuid in (g.uuid, g.parent_uuid)]
