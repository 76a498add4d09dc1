# SPDX-License-Identifier: MPL-2.0
"""The threads that look at the hardware, and the inventory and samples they keep up to date.

One thread per physical GPU looks at it each period; a round takes samples of all while somebody
wants stats; one opens the driver and counts GPUs, and has those asked for their names that it does not know;
one waits for the driver's events. Any of them may hang in the driver: a thread without NVML
watches them, gives up on a GPU whose call has taken too long, and the rest goes on. A hung thread
is not replaced; if its call returns after all, its GPU is on its way back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager

from nomad_nvidia_vgpu.errors import NOTHING, Problem
from nomad_nvidia_vgpu.gpu.answers import HUNG, NO_ANSWER, answer_of, count_of
from nomad_nvidia_vgpu.gpu.bulletin import Bulletin
from nomad_nvidia_vgpu.gpu.health import DEFAULT_POLICY, HealthPolicy
from nomad_nvidia_vgpu.gpu.inventory import MOST_GPUS, NO_GPU, Stock, too_many
from nomad_nvidia_vgpu.gpu.model import GpuSource
from nomad_nvidia_vgpu.gpu.roll_call import Finder, Keeper, RollCall, Worker
from nomad_nvidia_vgpu.gpu.sample_rounds import SampleRounds
from nomad_nvidia_vgpu.gpu.sink import Sink

GIVE_UP_S = 9.0
"""How long a call may take: just below the 10 s for which the first fingerprint waits for its GPU."""

EVENT_REST_S = 10.0
"""The least time between two looks because of events: a task can cause as many as it likes."""

_EVENT_WAIT_S = 1.0
_MAX_EVENT_PAUSE_S = 60.0
_MIN_CHECK_S = 1.0

_log = logging.getLogger(__name__)


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
        """Starts nothing yet; `period_s` is the time between two looks.

        `leave` is called when only a new process can use the driver.
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
        self._keepers: dict[str, Keeper] = {}
        self._roll_call = RollCall()
        self._counted = -1
        self._driver = Worker()
        self._count_due = False
        self._driver_answered = False
        self._driver_works = True
        self._left = False
        self._stopped = False
        self._bulletin = Bulletin(sink, clock)
        self._samples = SampleRounds(
            source, sink, clock, give_up_s=give_up_s, given_up=self._look_again
        )

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
        self._samples.stop()

    def sampling(self, interval_s: float) -> AbstractContextManager[None]:
        """Within it, every GPU is sampled at least every `interval_s`, once for all callers."""
        return self._samples.wanted(interval_s)

    def check_workers(self) -> None:
        """Gives up on every call that has taken too long; called each second."""
        self._samples.go_on_without_the_slow()
        with self._changed:
            now = self._clock()
            late = now - self._give_up_s
            stuck = self._driver.busy_longer_than(late)
            hung = [uuid for uuid, k in self._keepers.items() if k.busy_longer_than(late)]
            silent = self._roll_call.give_up(late)
            if stuck:
                self._driver_failed(NO_ANSWER)
            for uuid in hung:
                self._keepers[uuid].answered = True
                self._stock.failed(uuid, HUNG, now)
            for index in silent:
                self._stock.nameless(index, HUNG)
                self._called()
            if stuck or hung or silent or self._bulletin.holds_back:
                self._publish()
        self._bulletin.deliver()

    # What the threads run

    def _watch_driver(self) -> None:
        while not (self._stopped or self._left):
            self._count_due = False
            self._count()
            with self._changed:
                # However often GPUs ask for a count, the driver gets a rest between two.
                self._changed.wait_for(
                    lambda: self._stopped, timeout=min(self._period_s, _MIN_CHECK_S)
                )
                unsettled = self._stock.unsettled or not self._driver_works
                self._changed.wait_for(
                    lambda: self._stopped or self._count_due,
                    timeout=self._check_s if unsettled else self._period_s,
                )

    def _watch_workers(self) -> None:
        while not self._stopped:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, timeout=1.0)
            self.check_workers()

    def _watch_gpu(self, uuid: str, keeper: Keeper) -> None:
        next_look = self._clock()
        while not self._stopped:
            now = self._clock()
            if keeper.due or now >= min(next_look, keeper.look_at):
                with self._changed:
                    keeper.looks(now, EVENT_REST_S)
                self._look(uuid, keeper)
                # From the end of the call: a slow driver is not asked again at once.
                next_look = self._clock() + self._next_look_s(uuid)
            with self._changed:
                look_at = keeper.look_at
                self._changed.wait_for(
                    lambda: self._stopped or keeper.due or keeper.look_at != look_at,  # noqa: B023
                    timeout=max(0.0, min(next_look, look_at) - self._clock()),
                )

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
        with self._driver.busy(self._clock):
            counted = count_of(self._source)
        with self._changed:
            self._driver_answered = True
            self._bulletin.say("count", counted.uncounted)
            if counted.problem:
                self._driver_failed(counted.problem, away=True)
            else:
                self._driver_counted(counted.gpus)
            self._publish()
        self._bulletin.deliver()
        if counted.stale:
            self._left = True
            self._leave()

    def _find(self, index: int, finder: Finder) -> None:
        """Asks who is at this index, in a thread of its own."""
        with finder.busy(self._clock):
            answer = answer_of(lambda: self._source.find(index), f"GPU {index}")
        cause = answer.cause
        # As with a look: the driver's error is this one's only if it says so twice.
        if answer.blames_driver and not finder.suspects_driver:
            cause = None
            self._ask_for_a_count()
        finder.suspects_driver = answer.blames_driver
        with self._changed:
            if answer.value is not None:
                self._keep(answer.value, index)
            self._stock.nameless(index, cause)
            if self._roll_call.answered(finder):
                self._called()
            self._publish()
        self._bulletin.deliver()

    def _look(self, uuid: str, keeper: Keeper) -> None:
        began_in = self._roll_call.rounds
        with keeper.calling(self._clock):
            answer = answer_of(lambda: self._source.look(uuid), uuid)
        cause = answer.cause
        if answer.blames_driver:
            # Perhaps not this GPU's fault: the thread that opens the driver finds out. If it
            # finds nothing and the GPU says so again, it is.
            if not (self._driver_works and keeper.suspects_driver):
                cause = None
            if self._driver_works:
                keeper.suspects_driver = True
                self._ask_for_a_count()
        if answer.missing and keeper.missed_in is None:
            began_in = -1
            # It may be found again, by the roll call that comes with the next count.
            keeper.missed_in = self._roll_call.next_round
            self._ask_for_a_count()
        with self._changed:
            now = self._clock()
            if answer.value is not None:
                keeper.suspects_driver, keeper.missed_in = False, None
                self._stock.looked(answer.value, now)
            elif cause is not None:
                self._stock.failed(uuid, cause, now)
            elif answer.missing and began_in >= (keeper.missed_in or 0):
                self._stock.gone(uuid, now)
                keeper.answered = True
            keeper.answered |= answer.value is not None or cause is not None
            self._publish()
        self._bulletin.deliver()
        if answer.value is not None:
            self._samples.sample(uuid, keeper)
            self._samples.add(uuid, keeper)

    def _look_again(self, keeper: Keeper) -> None:
        """Only a look brings a GPU back that was given up."""
        with self._changed:
            keeper.due = True
            self._changed.notify_all()

    def _ask_for_a_count(self) -> None:
        with self._changed:
            self._count_due = True
            self._changed.notify_all()

    def _events(self) -> bool:
        """Whether any came."""
        try:
            events = self._source.wait_for_events(_EVENT_WAIT_S)
        except Exception as error:  # noqa: BLE001  polling finds what lasts
            _log.debug("no events: %r", error)
            return False
        if not events:
            return False
        for event in events:
            self._sink.take_event(event)
        with self._changed:
            now = self._clock()
            for event in events:
                self._stock.happened(event, now)
                # What lasts of it is in the driver by now, and the way back begins with a look.
                if (keeper := self._keepers.get(event.physical_uuid)) is not None:
                    keeper.heed(now)
            self._changed.notify_all()
            self._publish()
        self._bulletin.deliver()
        return True

    # State; the lock is held, so what is to be told waits in the bulletin

    def _driver_failed(self, problem: Problem, *, away: bool = False) -> None:
        self._driver_works = False
        self._stock.driver_failed(problem, self._clock(), away=away)

    def _driver_counted(self, count: int | None) -> None:
        """The driver works, and counts so many, or (None) fails to."""
        returned = not self._driver_works
        self._driver_works = True
        self._stock.driver_works()
        for keeper in self._keepers.values():
            keeper.due |= returned or keeper.suspects_driver
        self._changed.notify_all()
        count = self._counted if count is None else count
        if count < 0:
            return
        self._bulletin.say("most", too_many(count) if count > MOST_GPUS else NOTHING)
        self._bulletin.say("none", NO_GPU if count == 0 and not self._keepers else NOTHING)
        if count == self._counted and not (returned or self._stock.unsettled or self._missed()):
            return
        self._counted = count
        listed = min(count, MOST_GPUS)
        self._stock.listed(listed)
        for index, finder in self._roll_call.begin(listed):
            finder.busy_since = self._clock()
            self._spawn(f"gpu-at-{index}", self._find, index, finder)
        if not listed:
            self._called()

    def _keep(self, uuid: str, index: int) -> None:
        """There is this GPU: it is looked at from now on, wherever it may be listed later."""
        if uuid in self._keepers or len(self._keepers) >= MOST_GPUS:
            return
        keeper = self._keepers[uuid] = Keeper()
        self._spawn(f"gpu-{index}", self._watch_gpu, uuid, keeper)

    def _called(self) -> None:
        """A roll call has come to its end: who is missed looks whether it was found."""
        for keeper in self._missed():
            keeper.due = True
        self._changed.notify_all()

    def _missed(self) -> Sequence[Keeper]:
        return [keeper for keeper in self._keepers.values() if keeper.missed_in is not None]

    def _publish(self) -> None:
        answered = (
            self._driver_answered
            and self._roll_call.over
            and all(keeper.answered for keeper in self._keepers.values())
        )
        complete = answered or not self._driver_works
        self._bulletin.publish(self._stock, complete=complete, hurry=self._hurry)

    def _hurry(self, uuids: Collection[str]) -> None:
        """Looks at these GPUs at once."""
        for uuid in uuids:
            self._keepers[uuid].due = True
        self._changed.notify_all()

    def _next_look_s(self, uuid: str) -> float:
        with self._changed:
            return self._check_s if self._stock.waiting(uuid) else self._period_s

    def _spawn(self, name: str, work: Callable[..., None], *args: object) -> None:
        threading.Thread(target=work, args=args, name=name, daemon=True).start()
