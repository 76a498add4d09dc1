# SPDX-License-Identifier: MPL-2.0
"""Finds out what running tasks hold, from the environment that Nomad started them with.

Nomad tells a device plugin of no task and of no end of one. A task may say less than it holds, or
more; the worst that comes of it is that vGPUs of its GPU are not given away while it runs.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from nomad_nvidia_vgpu.host.cgroups import TaskCgroup, task_cgroup
from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.sharing.task_env import BUDGETS_ENV, GROUP_ENV, IDS_ENV
from nomad_nvidia_vgpu.sharing.withheld import Holding
from nomad_nvidia_vgpu.state.catalog import Catalog
from nomad_nvidia_vgpu.tasks.claims import VARIABLES, Complaints, Room, TooLargeError, claim_of

MIN_INTERVAL_S = 1.0
_MOST_PROCESSES = 64
"""Of one task, those with the lowest pids: the others have inherited what they say."""
_MOST_LETTERS = 1024  # of the name of a group
_MOST_CLAIMS = 8
"""Different ones, of the processes of one task."""

_log = logging.getLogger(__name__)


class HoldingsWatch:
    """Looks at the tasks each period, and when there is a new GPU, in a thread of its own."""

    def __init__(self, catalog: Catalog, period_s: float, proc: Proc) -> None:
        """The catalog is told what was found last after each look: nothing until a look succeeds."""
        self._catalog = catalog
        self._period_s = max(period_s, MIN_INTERVAL_S)
        self._proc = proc
        self._complaints = Complaints(proc)
        self._stopped = threading.Event()

    def start(self) -> None:
        """Starts the thread, a daemon."""
        threading.Thread(target=self._run, name="holdings", daemon=True).start()

    def stop(self) -> None:
        """Tells the thread to end."""
        self._stopped.set()
        self._catalog.wake()

    def _run(self) -> None:
        found: frozenset[Holding] = frozenset()
        while not self._stopped.is_set():
            gpus = self._catalog.edition.seen
            try:
                found = self.look(gpus)
            except Exception:  # noqa: BLE001  the thread must live: its first finding is waited for
                _log.exception("what tasks hold cannot be found out")
            self._catalog.take_holdings(found, gpus)
            self._wait(gpus)

    def _wait(self, known: frozenset[str]) -> None:
        """Returns when there is another GPU, when the period is over, or to end."""
        self._catalog.wait(
            lambda edition: bool(edition.seen - known) or self._stopped.is_set(), self._period_s
        )

    def look(self, gpus: Collection[str]) -> frozenset[Holding]:
        """What the tasks hold of the GPUs with these UUIDs; OSError without a `/proc`."""
        return (
            holdings_of(said_by_tasks(self._proc), gpus, self._complaints) if gpus else frozenset()
        )


class Said(NamedTuple):
    """What one process of a task has in its environment."""

    cgroup: TaskCgroup
    pid: int
    environment: Mapping[str, str]


def said_by_tasks(proc: Proc) -> Iterator[Said]:
    """The environments of processes that a task driver has put into a cgroup.

    Of no others, because any user can start a process that says what it likes.
    """
    cgroups: dict[int, TaskCgroup] = {}
    processes: defaultdict[TaskCgroup, int] = defaultdict(int)
    own = proc.cgroups("self") or ""
    for pid in proc.pids():
        cgroup = task_cgroup(proc.cgroups(pid) or "", own)
        if cgroup is not None and processes[cgroup] < _MOST_PROCESSES:
            processes[cgroup] += 1
            cgroups[pid] = cgroup
    for pid, environment in proc.environments(cgroups, VARIABLES, IDS_ENV):
        yield Said(cgroups[pid], pid, environment)


def holdings_of(
    found: Iterable[Said], gpus: Collection[str] | None, complaints: Complaints
) -> frozenset[Holding]:
    """What the tasks that say this hold, each once however many processes it has.

    Of the GPUs with these UUIDs; None: of all.
    """
    by_task: dict[str, Holding] = {}
    known: defaultdict[TaskCgroup, set[int]] = defaultdict(set)
    room = Room()
    for said in found:
        texts = tuple(said.environment.get(name) for name in (IDS_ENV, BUDGETS_ENV, GROUP_ENV))
        if hash(texts) in known[said.cgroup]:
            continue  # a child's, as a rule
        if len(known[said.cgroup]) >= _MOST_CLAIMS:
            complaints.tell(said.pid)
            continue
        known[said.cgroup].add(hash(texts))
        try:
            claim = claim_of(
                said.environment, said.cgroup, certain=False, known=gpus, most=room.most
            )
        except TooLargeError:
            complaints.tell(said.pid)
            continue
        if claim is None or claim.task.allocation is None:
            continue
        vgpus, budgets = claim.vgpus, dict(claim.promised_mib)
        group = (said.environment.get(GROUP_ENV) or "")[:_MOST_LETTERS] or None
        other = by_task.get(said.cgroup.key)
        room.take(len(vgpus))
        if other is not None:
            vgpus |= other.vgpus
            budgets = {**dict(other.budgets), **budgets}
            group = group or other.group
        by_task[said.cgroup.key] = Holding(
            said.cgroup.key, group, vgpus, tuple(sorted(budgets.items()))
        )
    return frozenset(by_task.values())
