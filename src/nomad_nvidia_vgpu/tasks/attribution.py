# SPDX-License-Identifier: MPL-2.0
"""From the processes on the GPUs to the tasks that they belong to, and their vGPUs.

What the plugin believes, and why. *Which task* a process belongs to: its cgroup says so, which Nomad or a container
engine made; nobody leaves his cgroup but root, and root needs none of this to do harm. *Which
vGPUs* a task holds: the environment of the oldest process of its cgroup, except for Nomad's executor, says it, because
nobody else knows - a reservation is not told which task it is for. A task can forge that. It can then

- claim nothing: its processes are strays, which are counted and left alone;
- claim vGPUs that nobody else claims: it is held to a larger share than it was given;
- claim what another live task claims: then both claims are in dispute as a whole. Neither is
  believed, because believing the rest of a claim would make its budget smaller. Their processes
  are strays, and the log says once who claims what.

So by what it claims no task can get the process of another ended, nor be made to seem to use what
another uses; it can at worst put both outside of the guard. A claim by a process without such a
cgroup, read from its environment or that of its nearest ancestor, is for display: it loses against
every claim with one, and nothing is ever done to its processes. A process whose task claims no
vGPU of the GPU it runs on is a stray there.

MPS servers are nobody's and no strays: they are there for the tasks, and what those use counts as
theirs. A process is one if its parent is one of our daemons, by the daemon's own pid file, which is
root's like the daemon. Names and environments prove nothing: any user can choose his own.

A pass reads one file per GPU process, to see that it is still the one that it was; all else is
remembered by pid and start time.
"""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from nomad_nvidia_vgpu.goplugin.logs import fields
from nomad_nvidia_vgpu.host.cgroups import Members, TaskCgroup, task_cgroup
from nomad_nvidia_vgpu.host.proc import Identity, Proc
from nomad_nvidia_vgpu.sharing.plan import Plan, SharedGpu
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.state.catalog import Listing
from nomad_nvidia_vgpu.state.usage import (
    GpuUse,
    MpsServer,
    Share,
    StrayProcess,
    Task,
    TaskProcess,
    Usage,
    VgpuUse,
    parts_of,
)
from nomad_nvidia_vgpu.tasks.claims import (
    MOST_CLAIMED,
    VARIABLES,
    Claim,
    Complaints,
    Room,
    TooLargeError,
    claim_of,
)
from nomad_nvidia_vgpu.tasks.restarts import Restarts

STALE_S = 30.0
"""After this, a list of processes says nothing any more."""

_PATIENCE = 5  # passes: a task that has just been started may not have its environment yet
_MOST_ANCESTORS = 64
_MOST_OUTSIDE = 1024
"""vGPUs that all processes together may claim that are in no task's cgroup."""

_log = logging.getLogger(__name__)


class _Tenant(NamedTuple):
    """What is remembered of the task in one cgroup."""

    oldest: Identity
    claim: Claim | None
    asked: int
    """In how many passes its oldest process was asked for its claim."""

    @property
    def settled(self) -> bool:
        """Whether its oldest process need not be asked again."""
        return self.claim is not None or self.asked >= _PATIENCE


_NOBODY = _Tenant(Identity(0, 0), None, 0)
"""The task in a cgroup that is empty, or cannot be read."""


class _Home(NamedTuple):
    """Where a process belongs: to a cgroup, or to the claim that it inherited."""

    cgroup: TaskCgroup | None = None
    inherited: Claim | None = None
    serves: bool = False
    """Whether it is the server of one of our MPS daemons."""


class Attributor:
    """Makes the passes; not thread-safe."""

    def __init__(self, proc: Proc, mps_root: str) -> None:
        """Reads nothing of any task yet; `mps_root` is where our MPS daemons have their directories."""
        self._proc = proc
        self._mps_root = mps_root
        self._members = Members(proc)
        self._own = proc.cgroups("self") or ""
        # The driver numbers processes as the host does: elsewhere its pids may mean others.
        self._certain = proc.sees_host_pids()
        self._complaints = Complaints(proc)
        self._known: frozenset[str] = frozenset()
        self._room = self._outside_room = Room()
        self._homes: dict[Identity, _Home] = {}
        self._tenants: dict[TaskCgroup, _Tenant] = {}
        self._restarts = Restarts(proc, self._members)
        self._disputes: frozenset[tuple[str, ...]] = frozenset()
        self._strays: frozenset[tuple[int, str]] = frozenset()

    def attribute(
        self, plan: Plan, listings: Mapping[str, Listing], now: float, taken_at: datetime
    ) -> Usage:
        """One pass over all GPUs of `plan`; `now` is by the clock of the listings."""
        gpus = {
            uuid: (shared, listings[uuid])
            for uuid, shared in plan.by_uuid().items()
            if uuid in listings and now - listings[uuid].taken_at <= STALE_S
        }
        self._prepare(frozenset(plan.by_uuid()))
        listed: dict[int, float] = {}
        for _, listing in sorted(gpus.values(), key=lambda found: found[1].taken_at):
            listed.update((process.pid, now - listing.taken_at) for process in listing.processes)
        runs = self._running(listed)
        self._refresh_tenants({home.cgroup for _, home in runs.values() if home.cgroup})
        judged = _Judged(
            [tenant.claim for tenant in self._tenants.values() if tenant.claim],
            [home.inherited for _, home in runs.values() if home.inherited],
        )
        found = {
            uuid: self._gpu_use(shared, listing, runs, judged)
            for uuid, (shared, listing) in gpus.items()
        }
        self._log_changes(judged, found)
        return Usage(taken_at, found)

    def first_process(self, task: Task, gpu_uuid: str) -> TaskProcess | None:
        """The oldest process of a task seen before, if that still claims a vGPU of this GPU."""
        process = self._restarts.first_process(task, gpu_uuid) if self._certain else None
        return process if process and self.still_belongs(process, task) else None

    def still_belongs(self, process: TaskProcess, task: Task) -> bool:
        """Whether this very process still runs, in the cgroup of this task; reads both again."""
        who = Identity(process.pid, process.started)
        lines = self._proc.cgroups(process.pid)
        cgroup = None if lines is None else task_cgroup(lines, self._own)
        return cgroup is not None and cgroup.key == task.key and self._proc.lives(who)

    def _prepare(self, known: frozenset[str]) -> None:
        """Sees which GPUs there are, and how much more may be remembered of what is claimed."""
        if known != self._known:
            # What was left out of a claim may matter now.
            self._known = known
            self._homes.clear()
            self._tenants.clear()
        tenants = (tenant.claim for tenant in self._tenants.values())
        homes = (home.inherited for home in self._homes.values())
        self._room = Room(MOST_CLAIMED - sum(len(c.vgpus) for c in tenants if c))
        # Any user can have a process outside of a task's cgroup.
        self._outside_room = Room(_MOST_OUTSIDE - sum(len(c.vgpus) for c in homes if c))

    def _claim(
        self, pid: int, environment: Mapping[str, str], cgroup: TaskCgroup | None = None
    ) -> Claim | None:
        room = self._outside_room if cgroup is None else self._room
        try:
            claim = claim_of(
                environment, cgroup, certain=self._certain, known=self._known, most=room.most
            )
        except TooLargeError:
            self._complaints.tell(pid)
            return None
        if claim is not None:
            room.take(len(claim.vgpus))
        return claim

    # Who runs, and where

    def _running(self, listed: Mapping[int, float]) -> dict[int, tuple[Identity, _Home]]:
        """The processes that run, each with where it belongs; `listed`: their pids, and how long ago."""
        found, uptime_s = {}, self._proc.uptime_s() or math.inf
        for pid, ago_s in listed.items():
            standing = self._proc.standing(pid)
            if standing is None or standing.identity.started_s > uptime_s - ago_s:
                continue  # ended, and the pid may be that of a process which is younger than the list
            who = standing.identity
            home = self._homes.get(who)
            if home is None:
                home = self._find_home(pid)
                if home is None or not self._proc.lives(who):
                    continue  # ended, so what was read may be of the next with this pid; or stuck
            found[pid] = (who, home)
        self._homes = dict(found.values())
        return found

    def _find_home(self, pid: int) -> _Home | None:
        lines = self._proc.cgroups(pid)
        if lines is None:
            return None
        cgroup = task_cgroup(lines, self._own)
        if cgroup is not None:
            return _Home(cgroup)
        if self._is_server(pid):
            return _Home(serves=True)
        for _ in range(_MOST_ANCESTORS):
            environment = self._proc.environment(pid, VARIABLES) or {}
            if self._proc.stuck(pid):
                return None  # it may still say
            claim = self._claim(pid, environment)
            standing = self._proc.standing(pid)
            if claim is not None or standing is None or standing.parent <= 1:
                return _Home(inherited=claim)
            pid = standing.parent
        return _Home()

    def _is_server(self, pid: int) -> bool:
        """Whether one of our MPS daemons has started this process, which is in no task's cgroup."""
        # Not pathlib, nor what knows MPS: a node that shares by time-slicing pays for neither.
        if not os.path.isdir(self._mps_root):  # noqa: PTH112
            return False
        from nomad_nvidia_vgpu.sharing.mps.daemon import daemon_pids  # noqa: PLC0415

        standing = self._proc.standing(pid)
        return standing is not None and standing.parent in daemon_pids(
            self._mps_root, self._proc.root
        )

    def _refresh_tenants(self, present: set[TaskCgroup]) -> None:
        """The tasks whose processes use a GPU, and those that did and still live."""
        self._restarts.saw(present)
        self._tenants = {
            cgroup: tenant
            for cgroup in present | self._tenants.keys()
            if (tenant := self._tenant(cgroup)).claim or cgroup in present
        }

    def _tenant(self, cgroup: TaskCgroup) -> _Tenant:
        known = self._tenants.get(cgroup)
        if known is not None and known.settled and self._proc.lives(known.oldest):
            return known
        oldest = self._members.oldest(cgroup)
        if oldest is None:
            return _NOBODY
        asked = known.asked if known is not None and known.oldest == oldest else 0
        environment = self._proc.environment(oldest.pid, VARIABLES) or {}
        claim = self._claim(oldest.pid, environment, cgroup)
        if not self._proc.lives(oldest):
            return _NOBODY
        return _Tenant(oldest, claim, asked if self._proc.stuck(oldest.pid) else asked + 1)

    # Who has what

    def _gpu_use(
        self,
        shared: SharedGpu,
        listing: Listing,
        runs: Mapping[int, tuple[Identity, _Home]],
        judged: _Judged,
    ) -> GpuUse:
        by_key: dict[str, tuple[Claim, list[TaskProcess]]] = {}
        strays, servers = [], []
        for process in listing.processes:
            if process.pid not in runs:
                continue  # it has ended since
            who, home = runs[process.pid]
            if home.serves:
                servers.append(MpsServer(process.pid, process.memory_mib))
                continue
            claim = self._tenants[home.cgroup].claim if home.cgroup else home.inherited
            reason = judged.objection(home.cgroup, claim, shared)
            if claim is None or reason:
                strays.append(StrayProcess(process.pid, process.memory_mib, process.kind, reason))
                continue
            _, own = by_key.setdefault(claim.task.key, (claim, []))
            own.append(TaskProcess(process.pid, who.started, process.memory_mib, process.kind))
        shares = tuple(_share(shared, *by_key[key]) for key in sorted(by_key))
        return GpuUse(
            uuid=shared.gpu.uuid,
            taken_at=listing.taken_at,
            vgpus=_vgpus(shared, shares, judged),
            shares=shares,
            strays=tuple(sorted(strays)),
            servers=tuple(sorted(servers)),
            disputed=tuple(
                str(v) for v in sorted(judged.disputed) if v.gpu_uuid == shared.gpu.uuid
            ),
            memory_mib=shared.gpu.own_memory_mib,
        )

    def _log_changes(self, judged: _Judged, found: Mapping[str, GpuUse]) -> None:
        disputes = frozenset(judged.disputes())
        for vgpus, tasks in sorted(disputes - self._disputes):
            _log.warning(
                "%s: claimed by %s at once, so none of them is believed or guarded: find out"
                " which of them changes its NVIDIA_VGPU_IDS",
                vgpus,
                tasks,
            )
        self._disputes = disputes
        strays = frozenset((s.pid, s.reason) for use in found.values() for s in use.strays)
        for pid, reason in sorted(strays - self._strays):
            _log.info(
                "GPU process %d is not attributed to a task: %s", pid, reason, extra=fields(pid=pid)
            )
        self._strays = strays


class _Judged:
    """The claims of one pass, each weighed against all others."""

    def __init__(self, claims: Sequence[Claim], inherited: Sequence[Claim]) -> None:
        """`claims` are those of cgroups; `inherited` those of processes without one."""
        self._holders = _holders(claims)
        self._pretenders = _holders(inherited)
        self.disputed = frozenset(v for v, held in self._holders.items() if len(held) > 1)
        """What more than one task claims."""
        self.doubtful = frozenset(
            vgpu for claim in claims if claim.vgpus & self.disputed for vgpu in claim.vgpus
        )
        """What is claimed together with something in dispute, too."""

    def objection(self, cgroup: TaskCgroup | None, claim: Claim | None, shared: SharedGpu) -> str:
        """Why a process with this claim has no share of this GPU; empty: it has one."""
        if claim is None:
            return "its task claims no vGPU" if cgroup else "it is in no task's cgroup"
        own = claim.on(shared.gpu.uuid)
        if cgroup is not None and claim.vgpus & self.disputed:
            return "another task claims a vGPU of its task, too"
        if cgroup is None and any(
            vgpu in self._holders or len(self._pretenders[vgpu]) > 1 for vgpu in claim.vgpus
        ):
            return "it is in no task's cgroup and claims what others claim"
        if not own:
            return "its task has no vGPU of this GPU"
        if all(vgpu.number >= shared.published for vgpu in own):
            return "the vGPUs of its task are not published any more"
        return ""

    def disputes(self) -> Iterable[tuple[str, str]]:
        """The ids in dispute with who claims them, in words, grouped by the latter."""
        by_tasks: dict[str, list[str]] = defaultdict(list)
        for vgpu in sorted(self.disputed):
            by_tasks[" and ".join(sorted(self._holders[vgpu].values()))].append(str(vgpu))
        return ((", ".join(vgpus), tasks) for tasks, vgpus in by_tasks.items())


def _holders(claims: Iterable[Claim]) -> Mapping[VgpuId, Mapping[str, str]]:
    """For each vGPU who claims it: the labels of the tasks by their keys."""
    found: dict[VgpuId, dict[str, str]] = defaultdict(dict)
    for claim in claims:
        for vgpu in claim.vgpus:
            found[vgpu][claim.task.key] = claim.task.label
    return found


def _share(shared: SharedGpu, claim: Claim, processes: list[TaskProcess]) -> Share:
    own = claim.on(shared.gpu.uuid)
    published = [vgpu for vgpu in own if vgpu.number < shared.published]
    memory = [process.memory_mib for process in processes]
    budget_mib = shared.memory_mib(len(published))
    promised_mib = claim.promised_mib.get(shared.gpu.uuid, budget_mib)
    doubt = ""
    if len(published) < len(own):
        doubt = "some of its vGPUs are not published any more"
    elif promised_mib != budget_mib:
        doubt = f"it was promised {promised_mib} MiB under another config"
    return Share(
        task=claim.task,
        gpu_uuid=shared.gpu.uuid,
        vgpu_ids=tuple(str(vgpu) for vgpu in published),
        processes=tuple(sorted(processes)),
        used_mib=None if None in memory else sum(mib for mib in memory if mib is not None),
        budget_mib=budget_mib,
        limit_mib=shared.limit_mib(len(published)) if shared.overcommitted else None,
        doubt=doubt,
    )


def _vgpus(shared: SharedGpu, shares: Iterable[Share], judged: _Judged) -> dict[str, VgpuUse]:
    """What each vGPU shows; those of claims in dispute are left out."""
    unused = VgpuUse(0, shared.memory_mib(1), 0)
    found = {str(vgpu): unused for vgpu in shared.ids() if vgpu not in judged.doubtful}
    for share in shares:
        found.update(parts_of(share, unused.budget_mib))
    return found
