# SPDX-License-Identifier: MPL-2.0
"""Who makes calls into the driver, and who answers at which of its indexes; state alone.

Each index is asked by a thread of its own because one may hang. Such a thread is not replaced, and
its index is asked again when it has come back.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


class Worker:
    """One thread that makes calls which may never return."""

    def __init__(self) -> None:
        """Idle."""
        self.busy_since: float | None = None
        """When its present call began, by the clock; None: it makes none."""

    def busy_longer_than(self, since: float) -> bool:
        """Whether its present call began before `since`; read once, because it may end meanwhile."""
        began = self.busy_since
        return began is not None and began <= since

    @contextlib.contextmanager
    def busy(self, clock: Callable[[], float]) -> Iterator[None]:
        """Within it, it makes a call."""
        self.busy_since = clock()
        try:
            yield
        finally:
            self.busy_since = None


class Keeper(Worker):
    """The calls for one physical GPU, known by its UUID: never two at once."""

    def __init__(self) -> None:
        """Is due."""
        super().__init__()
        self.due = True
        """Whether to look at once instead of at the end of the period."""
        self.look_at = float("inf")
        """When to look because of an event, by the clock."""
        self.rested_at = float("-inf")
        """When an event may make it look at once again."""
        self.lists_from = float("-inf")
        """When its processes may be listed again, by the clock."""
        self.answered = False
        self.suspects_driver = False
        """Whether its last look blamed the driver as a whole."""
        self.missed_in: int | None = None
        """By the end of which roll call it is to be found again; None: nobody misses it."""
        self._calling = threading.Lock()

    @contextlib.contextmanager
    def calling(self, clock: Callable[[], float], *, wait: bool = True) -> Iterator[bool]:
        """Within it, no other thread asks this GPU; False if one does and this shall not wait."""
        alone = self._calling.acquire(blocking=wait)
        try:
            with self.busy(clock) if alone else contextlib.nullcontext():
                yield alone
        finally:
            if alone:
                self._calling.release()

    def looks(self, now: float, rest_s: float) -> None:
        """Begins a look; if it is because of an event, the next such one comes after a rest."""
        self.due = False
        if now >= self.look_at:
            self.look_at, self.rested_at = float("inf"), now + rest_s

    def heed(self, now: float) -> None:
        """An event came: it looks now, or when it has rested from the last one."""
        self.look_at = min(self.look_at, max(now, self.rested_at))


class Finder(Worker):
    """Asks who is at one index."""

    def __init__(self) -> None:
        """Has not been asked yet."""
        super().__init__()
        self.asked = False
        """Whether an answer is owed to the present call."""
        self.given_up = False
        self.suspects_driver = False
        """Whether its last answer blamed the driver as a whole."""


class RollCall:
    """One round after the other through all indexes; not thread-safe."""

    def __init__(self) -> None:
        """Has asked nobody."""
        self._finders: dict[int, Finder] = {}
        self._listed = 0
        self.rounds = 0
        """How many have come to their end."""

    def begin(self, count: int) -> list[tuple[int, Finder]]:
        """The indexes to ask now; those whose thread still hangs are not asked."""
        self._listed = count
        due = []
        for index in range(count):
            finder = self._finders.setdefault(index, Finder())
            if finder.busy_since is None and not finder.asked:
                finder.asked, finder.given_up = True, False
                due.append((index, finder))
        if not count:
            self.rounds += 1
        return due

    def answered(self, finder: Finder) -> bool:
        """It said who is there, or failed; whether the round has come to its end by that."""
        finder.asked = False
        return self._ended()

    def give_up(self, since: float) -> list[int]:
        """The indexes that were asked before `since` and have just been given up."""
        late = [
            index
            for index, finder in self._present()
            if not finder.given_up and finder.busy_longer_than(since)
        ]
        for index in late:
            self._finders[index].given_up = True
        if late:
            self._ended()
        return late

    @property
    def next_round(self) -> int:
        """What `rounds` will be when one that begins from now on has come to its end."""
        return self.rounds + (1 if self.over else 2)

    @property
    def over(self) -> bool:
        """Whether everyone has answered, or was given up."""
        return all(finder.given_up or not finder.asked for _, finder in self._present())

    def _present(self) -> list[tuple[int, Finder]]:
        return [(i, finder) for i, finder in self._finders.items() if i < self._listed]

    def _ended(self) -> bool:
        if self.over:
            self.rounds += 1
        return self.over
