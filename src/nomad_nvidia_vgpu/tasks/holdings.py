# SPDX-License-Identifier: MPL-2.0
"""Finds out what running tasks hold, from the environment that Nomad started them with.

Nomad tells a device plugin of no task and of no end of one. A task may say less than it holds, or
more; the worst that comes of it is that vGPUs of its GPU are not given away while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.periodic import PeriodicThread
from nomad_nvidia_vgpu.sharing.task_env import GROUP_ENV, IDS_ENV
from nomad_nvidia_vgpu.sharing.withheld import Holding
from nomad_nvidia_vgpu.tasks.claims import VARIABLES, claim_of

MIN_INTERVAL_S = 1.0


class HoldingsWatch:
    """Looks at the tasks each period, in a thread of its own."""

    def __init__(
        self, tell: Callable[[frozenset[Holding]], None], period_s: float, proc: Proc
    ) -> None:
        """`tell` is called after each look, in the thread: with what was found last.

        That is nothing until a look succeeds.
        """
        self._tell = tell
        self._proc = proc
        self._found: frozenset[Holding] = frozenset()
        self._thread = PeriodicThread(
            "holdings",
            self._look,
            max(period_s, MIN_INTERVAL_S),
            failing="cannot find out which vGPUs running tasks hold",
        )

    def start(self) -> None:
        """Starts the thread, a daemon."""
        self._thread.start()

    def stop(self) -> None:
        """Tells the thread to end."""
        self._thread.stop()

    def _look(self) -> None:
        try:
            self._found = holdings_of(environments(self._proc))
        finally:
            self._tell(self._found)  # the first fingerprint waits for it


def environments(proc: Proc) -> Iterator[Mapping[str, str]]:
    """The environments of all processes that were started with vGPUs, as far as we may read them."""
    return proc.environments(proc.pids(), VARIABLES, IDS_ENV)


def holdings_of(found: Iterable[Mapping[str, str]]) -> frozenset[Holding]:
    """What the tasks with these environments hold, each once however many processes it has."""
    by_task: dict[str, Holding] = {}
    for environment in found:
        claim = claim_of(environment, None, certain=False)
        if claim is None or claim.task.allocation is None:
            continue
        task = f"{claim.task.allocation}/{claim.task.name or ''}"
        vgpus, budgets = claim.vgpus, dict(claim.promised_mib)
        group = environment.get(GROUP_ENV)
        other = by_task.get(task)
        if other is not None:
            vgpus |= other.vgpus
            budgets = {**dict(other.budgets), **budgets}
            group = group or other.group
        by_task[task] = Holding(task, group or None, vgpus, tuple(sorted(budgets.items())))
    return frozenset(by_task.values())
