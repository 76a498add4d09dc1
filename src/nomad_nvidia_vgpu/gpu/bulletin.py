# SPDX-License-Identifier: MPL-2.0
"""What was told of the GPUs last, to the sink and to the log, and what is worth telling now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from functools import partial

from nomad_nvidia_vgpu.errors import Problem
from nomad_nvidia_vgpu.gpu.health import Cause
from nomad_nvidia_vgpu.gpu.inventory import Stock
from nomad_nvidia_vgpu.gpu.model import Inventory
from nomad_nvidia_vgpu.gpu.sink import Sink
from nomad_nvidia_vgpu.outbox import Outbox

TOGETHER_S = 2.0
"""How long a GPU that is well again waits for others that are about to be."""

_log = logging.getLogger(__name__)


class Bulletin:
    """Finds what is new, and tells it when `deliver` is called; except for that not thread-safe.

    The lock under which it finds that is not held while a sink or the log takes its time.
    """

    def __init__(self, sink: Sink, clock: Callable[[], float]) -> None:
        """Has told nothing yet."""
        self._sink = sink
        self._clock = clock
        self._inventory = Inventory()
        self._complete = False
        self._causes: dict[str, Cause] = {}
        self._problems: dict[str, Problem] = {}
        self._held_since: float | None = None
        self._outbox = Outbox()
        self.deliver = self._outbox.deliver

    def publish(
        self, stock: Stock, *, complete: bool, hurry: Callable[[Collection[str]], None]
    ) -> None:
        """Finds what is new; `hurry` has these GPUs looked at, for whose good news others wait."""
        inventory, complete = stock.inventory(), complete or self._complete
        if self._waits_for_others(stock, inventory, hurry):
            return
        self._log_causes(stock.causes())
        if inventory != self._inventory or complete != self._complete:
            self._inventory, self._complete = inventory, complete
            self._outbox.put(partial(self._sink.take_inventory, inventory, complete=complete))

    @property
    def holds_back(self) -> bool:
        """Whether good news waits for that of other GPUs: it is to be told when its time is up."""
        return self._held_since is not None

    def say(self, about: str, problem: Problem) -> None:
        """Logs a problem once; NOTHING: it is none (any more)."""
        if problem and self._problems.get(about) != problem:
            self._outbox.put(partial(_log.warning, "%s", problem))
        self._problems[about] = problem

    def _waits_for_others(
        self, stock: Stock, inventory: Inventory, hurry: Callable[[Collection[str]], None]
    ) -> bool:
        """Whether to hold back good news until it is that of all GPUs that come back now.

        Each message costs the cluster a round of evaluations.
        """
        now = self._clock()
        coming = stock.nearly_good(now) if self._is_good_news(inventory) else ()
        if not coming:
            self._held_since = None
            return False
        if self._held_since is None:
            self._held_since = now
            hurry(coming)
        return now - self._held_since < TOGETHER_S

    def _is_good_news(self, inventory: Inventory) -> bool:
        """Whether nothing has changed except for GPUs that are healthy again."""
        before = {seen.gpu: seen.health for seen in self._inventory.gpus}
        after = {seen.gpu: seen.health for seen in inventory.gpus}
        changed = [gpu for gpu, health in after.items() if health != before.get(gpu)]
        return (
            before.keys() == after.keys()
            and all(after[gpu].healthy for gpu in changed)
            and bool(changed)
        )

    def _log_causes(self, causes: dict[str, Cause]) -> None:
        """One line for each change of a cause, never one per look."""
        for name, cause in causes.items():
            if self._causes.get(name) != cause:
                text = "%s cannot be used (says %s): %s"
                told = partial(_log.warning, text, name, cause.signal, cause.problem)
                self._outbox.put(told)
        if well := sorted(self._causes.keys() - causes.keys()):
            self._outbox.put(partial(_log.info, "%s can be used again", ", ".join(well)))
        self._causes = causes
