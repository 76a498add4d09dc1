# SPDX-License-Identifier: MPL-2.0
"""When GPUs give their moving figures: one thread asks one after the other, at each interval.

A thread per GPU costs a second as much processor time for waking as for asking. But a call may
hang, or be slow, so a thread whose round is slow is split: it keeps the GPU at which it hangs, or
half of its GPUs, and a new thread goes on with the others. Rounds that have been quick for a while
become one again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from nomad_nvidia_vgpu.gpu.model import GpuSource
from nomad_nvidia_vgpu.gpu.roll_call import Keeper
from nomad_nvidia_vgpu.gpu.sink import Sink

LIST_EVERY_S = 2.0
"""The least time between two lists of a GPU's processes, which cost more than all its figures."""

SLOW_S = 0.5
"""How long a call may take before others go on without its GPU."""

QUICK_PART = 1 / 8
"""A round is quick that takes less than this part of its interval."""

QUICK_ROUNDS = 60
"""After so many quick rounds in a row a thread shares its round with another such one."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class _Round:
    """The GPUs that one thread asks, by UUID."""

    def __init__(self, gpus: dict[str, Keeper]) -> None:
        self.gpus = gpus  # replaced whole, because its thread reads it without the lock
        self.asked: str | None = None
        """Which of them is asked now; None: it rests."""
        self.quick = 0
        """How many rounds in a row were quick."""


class SampleRounds:
    """Samples the GPUs that it was given, while somebody wants figures."""

    def __init__(
        self,
        source: GpuSource,
        sink: Sink,
        clock: Callable[[], float],
        *,
        give_up_s: float,
        given_up: Callable[[Keeper], None],
    ) -> None:
        """Starts nothing yet. `given_up` is called when a call has returned after `give_up_s`."""
        self._source = source
        self._sink = sink
        self._clock = clock
        self._give_up_s = give_up_s
        self._given_up = given_up
        self._changed = threading.Condition()  # guards all that follows
        self._rounds: list[_Round] = []
        self._begun = 0
        self._intervals_s: list[float] = []
        self._stopped = False
        self._problem = ""

    def stop(self) -> None:
        """Tells the threads to end when their present calls return; waits for none."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @contextlib.contextmanager
    def wanted(self, interval_s: float) -> Iterator[None]:
        """Within it, every GPU is sampled at least every `interval_s`, once for all callers."""
        with self._changed:
            self._intervals_s.append(interval_s)
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._intervals_s.remove(interval_s)
                self._changed.notify_all()

    def add(self, uuid: str, keeper: Keeper) -> None:
        """Samples this GPU from the next interval on; does nothing if it does so already."""
        with self._changed:
            if any(uuid in known.gpus for known in self._rounds):
                return
            if self._rounds:
                self._rounds[-1].gpus = {**self._rounds[-1].gpus, uuid: keeper}
            else:
                self._begin({uuid: keeper})

    def go_on_without_the_slow(self) -> None:
        """Splits each round that is held up by one call; called each second."""
        late = self._clock() - SLOW_S
        with self._changed:
            for held_up in tuple(self._rounds):
                slow = held_up.asked or ""
                keeper = held_up.gpus.get(slow)
                if keeper is not None and keeper.busy_longer_than(late):
                    self._split(held_up, {slow})

    def sample(self, uuid: str, keeper: Keeper) -> None:
        """Takes the figures of one GPU now, and its processes if they were not listed lately."""
        samples = self._tried("no stats", uuid, keeper, self._source.sample)
        if samples is None:
            return
        self._sink.take_samples(samples)
        began = self._clock()
        if began >= keeper.lists_from:
            keeper.lists_from = began + LIST_EVERY_S
            processes = self._tried("no list of processes", uuid, keeper, self._source.processes)
            if processes is not None:
                self._sink.take_processes(processes)

    def _sample_safely(self, uuid: str, keeper: Keeper) -> None:
        """The same, for a thread on which the samples of all GPUs depend."""
        try:
            self.sample(uuid, keeper)
        except Exception as error:  # noqa: BLE001  see above
            if repr(error) != self._problem:
                self._problem = repr(error)
                _log.exception("%s: its figures were lost: report this as a bug", uuid)

    def _tried(
        self, lacking: str, uuid: str, keeper: Keeper, query: Callable[[str], _T]
    ) -> _T | None:
        """The answer, or None: the next look says what is wrong, or another thread asks it now."""
        began = self._clock()
        try:
            with keeper.calling(self._clock, wait=False) as alone:
                return query(uuid) if alone else None
        except Exception as error:  # noqa: BLE001  see above
            _log.debug("%s: %s: %r", uuid, lacking, error)
            return None
        finally:
            if self._clock() - began >= self._give_up_s:
                self._given_up(keeper)

    def _run(self, own: _Round) -> None:
        began = self._clock()
        while not self._stopped:
            with self._changed:
                interval_s = min(self._intervals_s, default=None)
                at = None if interval_s is None else next_beat(began, interval_s)
                self._changed.wait_for(
                    lambda: self._stopped or min(self._intervals_s, default=None) != interval_s,  # noqa: B023
                    timeout=None if at is None else max(0.0, at - self._clock()),
                )
            if at is None or interval_s is None or self._clock() < at or self._stopped:
                continue
            began = self._clock()
            for uuid, keeper in tuple(own.gpus.items()):
                if uuid in own.gpus and not self._stopped:  # not split off meanwhile
                    own.asked = uuid
                    self._sample_safely(uuid, keeper)
                    own.asked = None
            with self._changed:
                took_s = self._clock() - began
                own.quick = own.quick + 1 if took_s < interval_s * QUICK_PART else 0
                if len(own.gpus) > 1 and took_s > interval_s / 2:
                    self._split(own, set(tuple(own.gpus)[::2]))
                elif self._joined(own):
                    return

    # The lock is held

    def _joined(self, own: _Round) -> bool:
        """Whether another thread asks the GPUs of this round from now on."""
        if own.quick < QUICK_ROUNDS:
            return False
        for other in self._rounds:
            if other is not own and other.asked is None and other.quick >= QUICK_ROUNDS:
                other.gpus = {**other.gpus, **own.gpus}
                other.quick = 0
                self._rounds.remove(own)
                return True
        return False

    def _split(self, slow: _Round, keeps: set[str]) -> None:
        others = {uuid: keeper for uuid, keeper in slow.gpus.items() if uuid not in keeps}
        if others:
            slow.gpus = {uuid: keeper for uuid, keeper in slow.gpus.items() if uuid in keeps}
            slow.quick = 0
            self._begin(others)

    def _begin(self, gpus: dict[str, Keeper]) -> None:
        new = _Round(gpus)
        self._rounds.append(new)
        name = f"gpu-samples-{self._begun}"
        self._begun += 1
        threading.Thread(target=self._run, args=(new,), name=name, daemon=True).start()


def next_beat(after: float, interval_s: float) -> float:
    """The next multiple of `interval_s`: all rounds come to the same, at most an interval away."""
    beat = (after // interval_s + 1) * interval_s
    return beat if beat > after else beat + interval_s  # quotients of floats are rounded
