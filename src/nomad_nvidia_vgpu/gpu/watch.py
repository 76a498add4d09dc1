# SPDX-License-Identifier: MPL-2.0
"""The threads that look at the hardware, and the inventory and samples they keep up to date.

One thread per physical GPU looks at it each period and samples it while somebody wants stats;
one opens the driver and counts GPUs; one waits for the driver's events. Any of them may hang in
the driver: a thread without NVML watches them, gives up on a GPU whose call has taken too long,
and the rest goes on. A hung thread is not replaced; if its call returns after all, its GPU is on
its way back.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from nomad_nvidia_vgpu.errors import (
    DriverError,
    GpuError,
    NoSuchGpuError,
    Problem,
    StaleLibraryError,
)
from nomad_nvidia_vgpu.gpu.health import DEFAULT_POLICY, Cause, HealthPolicy
from nomad_nvidia_vgpu.gpu.inventory import Stock
from nomad_nvidia_vgpu.gpu.model import GpuProcess, GpuSample, GpuSource, Inventory, Look

GIVE_UP_S = 9.0
"""How long a call may take before its GPU counts as not answering.

Just below the 10 s after which the first fingerprint is sent with the GPUs that have answered.
"""

LIST_EVERY_S = 2.0
"""The least time between two lists of a GPU's processes, which cost more than all its figures."""

NO_ANSWER = Problem("the driver does not answer", "check dmesg, drain the node and reboot it")
_EVENT_WAIT_S = 1.0
_MAX_EVENT_PAUSE_S = 60.0
_MIN_CHECK_S = 1.0

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes what the watch finds. Called from its threads; must not block."""

    def take_inventory(self, inventory: Inventory, *, complete: bool) -> None:
        """The inventory has changed, or has become `complete`: every GPU has answered once."""

    def take_samples(self, samples: Mapping[str, GpuSample]) -> None:
        """New samples by UUID; those of other GPUs stay as they are."""

    def take_processes(self, processes: Mapping[str, Sequence[GpuProcess]]) -> None:
        """New lists of processes by UUID; those of other GPUs stay as they are."""


class _Worker:
    """One thread that makes calls which may never return."""

    def __init__(self) -> None:
        self.busy_since: float | None = None
        self.due = True
        """Whether to look at once instead of at the end of the period."""
        self.retired = False
        self.lists_from = float("-inf")
        """When its processes may be listed again, by the clock."""
        self.suspects_driver = False
        """Whether its last look blamed the driver as a whole."""

    def busy_longer_than(self, since: float) -> bool:
        """Whether its present call began before `since`; read once, because it may end meanwhile."""
        began = self.busy_since
        return began is not None and began <= since


class GpuWatch:
    """Watches one source of GPUs for one sink."""

    def __init__(  # noqa: PLR0913  each is one decision of the caller
        self,
        source: GpuSource,
        sink: Sink,
        *,
        period_s: float,
        policy: HealthPolicy = DEFAULT_POLICY,
        leave: Callable[[], None] = lambda: None,
        give_up_s: float = GIVE_UP_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts nothing yet.

        `period_s` is the time between two looks; `leave` is called when only a new process can
        use the driver.
        """
        self._source = source
        self._sink = sink
        self._period_s = period_s
        # A GPU on its way back is looked at more often, so that it is not late by a period.
        self._check_s = min(period_s, max(_MIN_CHECK_S, policy.recovery_period_s / 2))
        self._leave = leave
        self._give_up_s = give_up_s
        self._clock = clock
        self._changed = threading.Condition()  # guards all that follows
        self._stock = Stock(policy)
        self._workers: dict[int, _Worker] = {}
        self._driver = _Worker()
        self._driver_answered = False
        self._driver_works = True
        self._left = False
        self._intervals_s: list[float] = []
        self._stopped = False
        self._inventory = Inventory()
        self._complete = False
        self._logged: dict[str, Cause] = {}

    def start(self) -> None:
        """Starts the threads; they are daemons, because a hung thread can never be joined."""
        self._spawn("gpu-driver", self._watch_driver)
        self._spawn("gpu-events", self._watch_events)
        self._spawn("gpu-watchdog", self._watch_workers)

    def stop(self) -> None:
        """Tells the threads to end when their present calls return; waits for none."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @contextlib.contextmanager
    def sampling(self, interval_s: float) -> Iterator[None]:
        """Within it, every GPU is sampled at least every `interval_s`, once for all callers."""
        with self._changed:
            self._intervals_s.append(interval_s)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._intervals_s.remove(interval_s)

    def check_workers(self) -> None:
        """Gives up on every call that has taken too long; called each second."""
        with self._changed:
            now = self._clock()
            late = now - self._give_up_s
            if self._driver.busy_longer_than(late):
                self._driver_failed(NO_ANSWER)
            for index, worker in self._workers.items():
                if worker.busy_longer_than(late):
                    self._stock.failed(index, Cause(NO_ANSWER, "the time of a call"), now)
            self._publish()

    # What the threads run

    def _watch_driver(self) -> None:
        while not (self._stopped or self._left):
            self._driver.due = False
            self._count()
            with self._changed:
                # However often GPUs ask for a count, the driver gets a rest between two.
                self._changed.wait_for(
                    lambda: self._stopped, timeout=min(self._period_s, _MIN_CHECK_S)
                )
                self._changed.wait_for(
                    lambda: self._stopped or self._driver.due, timeout=self._period_s
                )

    def _watch_workers(self) -> None:
        while not self._stopped:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, timeout=1.0)
            self.check_workers()

    def _watch_gpu(self, index: int, worker: _Worker) -> None:
        next_look = sampled_at = self._clock()
        while not (self._stopped or worker.retired):
            if worker.due or self._clock() >= next_look:
                worker.due = False
                self._look(index, worker)
                sampled_at = self._clock()
                # From the end of the call: a slow driver is not asked again at once.
                next_look = sampled_at + self._next_look_s(index)
            with self._changed:
                interval_s = self._interval_s()
                next_sample = next_look if interval_s is None else sampled_at + interval_s
                self._changed.wait_for(
                    lambda: (
                        self._stopped
                        or worker.retired
                        or worker.due
                        or self._interval_s() != interval_s  # noqa: B023  used in this turn only
                    ),
                    timeout=max(0.0, min(next_look, next_sample) - self._clock()),
                )
            if interval_s is not None and next_sample <= self._clock() < next_look:
                sampled_at = self._clock()
                self._sample(index, worker)

    def _watch_events(self) -> None:
        pause_s = _EVENT_WAIT_S
        while not self._stopped:
            began = self._clock()
            found = self._events()
            if found or self._clock() - began >= _EVENT_WAIT_S / 2:
                pause_s = _EVENT_WAIT_S
                continue
            # Nothing, and at once: no GPU has events, or waiting fails, as it does for ever
            # with a lost GPU. Polling goes on meanwhile.
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, timeout=pause_s)
            pause_s = min(2 * pause_s, _MAX_EVENT_PAUSE_S)

    # One call each

    def _count(self) -> None:
        problem: Problem | None = None
        stale = False
        count = 0
        with self._busy(self._driver):
            try:
                self._source.open()
                try:
                    count = self._source.count()
                except DriverError:
                    # The session has ended: a new one may be better, or knows why not.
                    self._source.open()
                    count = self._source.count()
            except DriverError as error:
                problem, stale = error.problem, isinstance(error, StaleLibraryError)
            except Exception as error:  # noqa: BLE001  a thread that dies would blind the node
                text = f"the driver failed in an unforeseen way ({error!r})"
                problem = Problem(text, "report this as a bug")
        with self._changed:
            self._driver_answered = True
            if problem is not None:
                self._driver_failed(problem)
            else:
                self._driver_counted(count)
            self._publish()
        if stale:
            self._left = True
            self._leave()

    def _look(self, index: int, worker: _Worker) -> None:
        numbering = self._stock.numbering
        with self._busy(worker):
            look, cause = self._ask(index, worker)
        with self._changed:
            if worker.retired:
                return
            if numbering != self._stock.numbering:
                worker.due = True  # the answer may be another GPU's
                return
            if look is not None:
                worker.suspects_driver = False
                self._stock.looked(index, look, self._clock())
            elif cause is not None:
                self._stock.failed(index, cause, self._clock())
            if numbering != self._stock.numbering:
                self._look_again(apart_from=worker)
            self._publish()
        if look is not None:
            self._sample(index, worker)

    def _ask(  # noqa: PLR0911  one way out per kind of answer
        self, index: int, worker: _Worker
    ) -> tuple[Look | None, Cause | None]:
        """What the GPU says, or why it cannot be used; neither if that is not its own fault."""
        try:
            return self._source.look(index), None
        except NoSuchGpuError:
            # The GPU that was here may stand at another index: nothing is known against it.
            self._ask_for_a_count()
            return None, None
        except DriverError as error:
            # Perhaps not this GPU's fault: the thread that opens the driver finds out. If it
            # finds nothing and the GPU says so again, it is.
            if not self._driver_works:
                return None, None
            if not worker.suspects_driver:
                worker.suspects_driver = True
                self._ask_for_a_count()
                return None, None
            return None, Cause(error.problem, "a getter's error")
        except GpuError as error:
            return None, Cause(error.problem, "a getter's error", error.grave)
        except Exception as error:  # noqa: BLE001  a thread that dies would blind us
            text = f"GPU {index} failed in an unforeseen way ({error!r})"
            return None, Cause(Problem(text, "report this as a bug"), "a getter's error")

    def _ask_for_a_count(self) -> None:
        with self._changed:
            self._driver.due = True
            self._changed.notify_all()

    def _sample(self, index: int, worker: _Worker) -> None:
        began = self._clock()
        with self._busy(worker):
            try:
                samples = self._source.sample(index)
            except Exception as error:  # noqa: BLE001  the next look says what is wrong
                _log.debug("no stats of GPU %d: %r", index, error)
                return
        if self._clock() - began >= self._give_up_s:
            worker.due = True  # it was given up meanwhile: only a look brings it back
        self._sink.take_samples(samples)
        if began >= worker.lists_from:
            worker.lists_from = began + LIST_EVERY_S
            self._list_processes(index, worker)

    def _list_processes(self, index: int, worker: _Worker) -> None:
        with self._busy(worker):
            try:
                processes = self._source.processes(index)
            except Exception as error:  # noqa: BLE001  the next look says what is wrong
                _log.debug("no list of the processes on GPU %d: %r", index, error)
                return
        self._sink.take_processes(processes)

    def _events(self) -> bool:
        """Whether any came."""
        try:
            events = self._source.wait_for_events(_EVENT_WAIT_S)
        except Exception as error:  # noqa: BLE001  polling finds what lasts
            _log.debug("no events: %r", error)
            return False
        if not events:
            return False
        with self._changed:
            for event in events:
                if not self._stock.happened(event, self._clock()):
                    _log.debug("XID %d on %s takes no GPU away", event.xid, event.physical_uuid)
                # What lasts of it is in the driver by now, and the way back begins with a look.
                worker = self._workers.get(self._stock.index_of(event.physical_uuid))
                if worker is not None:
                    worker.due = True
            self._changed.notify_all()
            self._publish()
        return True

    # State; the lock is held

    def _driver_failed(self, problem: Problem) -> None:
        self._driver_works = False
        self._stock.driver_failed(problem, self._clock())

    def _driver_counted(self, count: int) -> None:
        renumbered = count != len(self._workers)
        for index in [i for i in self._workers if i >= count]:
            self._workers.pop(index).retired = True
        self._stock.counted(count, self._clock())
        for worker in self._workers.values():
            if renumbered or not self._driver_works or worker.suspects_driver:
                worker.due = True
        self._changed.notify_all()
        self._driver_works = True
        for index in range(count):
            if index not in self._workers:
                worker = self._workers[index] = _Worker()
                self._spawn(f"gpu-{index}", self._watch_gpu, index, worker)

    def _look_again(self, *, apart_from: _Worker) -> None:
        for worker in self._workers.values():
            worker.due = worker.due or worker is not apart_from
        self._changed.notify_all()

    def _publish(self) -> None:
        self._log_causes()
        answered = self._driver_answered and self._stock.answered
        complete = self._complete or answered or not self._driver_works
        inventory = self._stock.inventory()
        if inventory != self._inventory or complete != self._complete:
            self._inventory, self._complete = inventory, complete
            self._sink.take_inventory(inventory, complete=complete)

    def _log_causes(self) -> None:
        """One line for each change of a cause, never one per look."""
        causes = self._stock.causes()
        for name, cause in causes.items():
            if self._logged.get(name) != cause:
                _log.warning("%s cannot be used (says %s): %s", name, cause.signal, cause.problem)
        for name in self._logged.keys() - causes.keys():
            _log.info("%s can be used again", name)
        self._logged = causes

    def _next_look_s(self, index: int) -> float:
        with self._changed:
            return self._check_s if self._stock.waiting(index) else self._period_s

    def _interval_s(self) -> float | None:
        return min(self._intervals_s, default=None)

    @contextlib.contextmanager
    def _busy(self, worker: _Worker) -> Iterator[None]:
        worker.busy_since = self._clock()
        try:
            yield
        finally:
            worker.busy_since = None

    def _spawn(self, name: str, work: Callable[..., None], *args: object) -> None:
        threading.Thread(target=work, args=args, name=name, daemon=True).start()
