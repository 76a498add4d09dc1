# SPDX-License-Identifier: MPL-2.0
"""A source of GPUs that answers, fails or hangs as a test says, and a sink that remembers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from nomad_nvidia_vgpu.errors import NoSuchGpuError
from nomad_nvidia_vgpu.gpu.model import Gpu, GpuProcess, GpuSample, Inventory, Look, XidEvent
from unit.example_gpus import FULL_SAMPLE
from unit.manual_clock import DEADLINE_S


class _Gate:
    """Where a call hangs."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()


class ScriptedSource:
    """A `GpuSource`; each GPU's answer can be changed while it is watched."""

    def __init__(self, *gpus: Gpu) -> None:
        """Answers with these GPUs, one per index."""
        self._changed = threading.Condition()
        self._answers: list[Look | Exception] = [Look(g.uuid, (g,)) for g in gpus]
        self._uuids = [g.uuid for g in gpus]
        """Whom each index holds: it fails under its own name, once it has one."""
        self._nameless: set[int] = set()
        self._driver: Exception | None = None
        self._sample_error: Exception | None = None
        self._gates: dict[str, _Gate] = {}
        self._events: list[XidEvent] = []
        self._ended = False
        self.modes: dict[str, str] = {}
        """The compute mode of each GPU whose mode was set."""
        self.listed: Mapping[str, Sequence[GpuProcess]] | Exception = {}
        """The processes by UUID, or what is raised instead."""
        self.calls: Counter[str] = Counter()
        """How often each call has begun: `open`, `look 0`, `sample 1`."""

    def answer(self, index: int, answer: Look | Exception) -> None:
        """Gives or raises `answer` at each further look at the GPU with this index."""
        self._answers[index] = answer
        if isinstance(answer, Look):
            self._uuids[index] = answer.physical_uuid
            self._nameless.discard(index)

    def hide(self, index: int, error: Exception) -> None:
        """Raises `error` before the GPU with this index says who it is."""
        self._answers[index] = error
        self._nameless.add(index)

    def driver(self, error: Exception | None) -> None:
        """Raises `error` at each further `open`; None: opens."""
        self._driver = error

    def fail_samples(self, error: Exception | None) -> None:
        """Raises `error` at each further sample."""
        self._sample_error = error

    def plug(self, *looks: Look) -> None:
        """Lists these GPUs and no others from now on."""
        self._answers, self._uuids = list(looks), [look.physical_uuid for look in looks]

    def hang(self, call: str) -> None:
        """Blocks each further call of this name, such as `look 0`, until released."""
        self._gates[call] = _Gate()

    def report(self, *events: XidEvent) -> None:
        """Hands these out to whoever waits for events."""
        with self._changed:
            self._events += events
            self._changed.notify_all()

    def wait_until_hanging(self, call: str) -> None:
        """Waits until a call of this name hangs."""
        assert self._gates[call].reached.wait(DEADLINE_S), f"{call} was not called"

    def release(self, *calls: str) -> None:
        """Lets these calls return, or all that hang, and ends all waiting for events."""
        for call in calls or list(self._gates):
            self._gates.pop(call).opened.set()
        if not calls:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def called(self, call: str, count: int, within_s: float) -> bool:
        """Says whether this call has begun `count` times before so many seconds are over."""
        with self._changed:
            return self._changed.wait_for(lambda: self.calls[call] >= count, within_s)

    def wait_for_calls(self, call: str, count: int) -> None:
        """Waits until this call has begun `count` times."""
        assert self.called(call, count, DEADLINE_S), f"{call}: {self.calls[call]} of {count}"

    def wait_for_more(self, call: str, more: int = 1) -> None:
        """Waits until this call has begun `more` times from now on."""
        self.wait_for_calls(call, self.calls[call] + more)

    # GpuSource

    def open(self) -> None:
        """As the script says."""
        self._begin("open")
        if self._driver is not None:
            raise self._driver

    def count(self) -> int:
        """How many are listed."""
        return len(self._answers)

    def find(self, index: int) -> str:
        """Who is at this index."""
        self._begin(f"find {index}")
        if index >= len(self._answers):
            raise NoSuchGpuError(f"no GPU {index}")
        if index in self._nameless and isinstance(error := self._answers[index], Exception):
            raise error
        return self._uuids[index]

    def look(self, uuid: str) -> Look:
        """As the script says."""
        answers, index = self._answers, self._index(uuid)
        self._begin(f"look {index}")
        answer = answers[index]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sample(self, uuid: str) -> Mapping[str, GpuSample]:
        """One and the same sample for each GPU."""
        index = self._index(uuid)
        answer = self._answers[index]
        self._begin(f"sample {index}")
        if self._sample_error is not None:
            raise self._sample_error
        assert isinstance(answer, Look)
        return {gpu.uuid: FULL_SAMPLE for gpu in answer.gpus}

    def processes(self, uuid: str) -> Mapping[str, Sequence[GpuProcess]]:
        """Those that the script lists, or none, of each GPU."""
        index = self._index(uuid)
        answer = self._answers[index]
        self._begin(f"processes {index}")
        if isinstance(self.listed, Exception):
            raise self.listed
        assert isinstance(answer, Look)
        return {gpu.uuid: self.listed.get(gpu.uuid, ()) for gpu in answer.gpus}

    def _index(self, uuid: str) -> int:
        if uuid not in self._uuids:
            raise NoSuchGpuError(f"no {uuid}")
        return self._uuids.index(uuid)

    def wait_for_events(self, timeout_s: float) -> Sequence[XidEvent]:
        """What was reported since the last call."""
        self._begin("events")
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._ended, timeout_s)
            found, self._events = self._events, []
        return found

    def compute_mode(self, uuid: str) -> str | None:
        """As it was set; DEFAULT before."""
        return self.modes.get(uuid, "DEFAULT")

    def set_compute_mode(self, uuid: str, mode: str) -> None:
        """Remembers it."""
        self.modes[uuid] = mode

    def _begin(self, call: str) -> None:
        with self._changed:
            self.calls[call] += 1
            self._changed.notify_all()
        if (gate := self._gates.get(call)) is not None:
            gate.reached.set()
            gate.opened.wait()


class RecordingSink:
    """A `Sink` that keeps all it is told."""

    def __init__(self) -> None:
        """Knows nothing yet."""
        self._changed = threading.Condition()
        self.told: list[tuple[Inventory, bool]] = []
        self.samples: Counter[str] = Counter()
        """How many samples came of each UUID."""
        self.processes: dict[str, Sequence[GpuProcess]] = {}
        """The newest list of each UUID."""
        self.events: list[XidEvent] = []

    @property
    def inventory(self) -> Inventory:
        """The newest."""
        return self.told[-1][0] if self.told else Inventory()

    @property
    def complete(self) -> bool:
        """Whether the newest was said to be complete."""
        return bool(self.told) and self.told[-1][1]

    def health(self) -> dict[str, str]:
        """The reason why each GPU cannot be used, by UUID; empty where it can."""
        return {seen.gpu.uuid: seen.health.reason for seen in self.inventory.gpus}

    def wait_until(self, claim: Callable[[], bool]) -> None:
        """Waits until `claim` holds of what was told."""
        with self._changed:
            assert self._changed.wait_for(claim, DEADLINE_S), f"never came: last was {self.told}"

    def wait_until_told(self, claim: Callable[[Inventory], bool]) -> None:
        """Waits for an inventory of which `claim` holds, be it the newest or one before."""
        self.wait_until(lambda: any(claim(inventory) for inventory, _ in self.told))

    def expect_health(self, health: Mapping[str, str]) -> None:
        """Waits until the inventory holds these GPUs with these reasons, and no others."""
        self.wait_until(lambda: self.health() == health)

    # Sink

    def take_inventory(self, inventory: Inventory, *, complete: bool) -> None:
        """Keeps it."""
        with self._changed:
            self.told.append((inventory, complete))
            self._changed.notify_all()

    def take_samples(self, samples: Mapping[str, GpuSample]) -> None:
        """Counts them."""
        with self._changed:
            self.samples.update(samples.keys())
            self._changed.notify_all()

    def take_processes(self, processes: Mapping[str, Sequence[GpuProcess]]) -> None:
        """Keeps them."""
        with self._changed:
            self.processes.update(processes)
            self._changed.notify_all()

    def take_event(self, event: XidEvent) -> None:
        """Keeps it."""
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()
