# SPDX-License-Identifier: MPL-2.0
"""What happens to a task that uses more GPU memory than its share: nothing, a warning, or its end.

`excess`, `victims` and `ExcessWatch` decide, without side effects; `Guard` acts. Time is that of the
driver's lists of processes, so that an old list proves nothing.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple

from nomad_nvidia_vgpu.config.options import MemoryGuardConfig
from nomad_nvidia_vgpu.goplugin.logs import fields
from nomad_nvidia_vgpu.host.proc import Identity
from nomad_nvidia_vgpu.state.usage import GpuUse, Share, TaskProcess, Usage
from nomad_nvidia_vgpu.tasks.ending import GRACE_S, Belongs, end

SHORT_PERCENT = 5
"""A GPU of whose memory its processes leave less runs short: the driver itself needs some of that."""

_log = logging.getLogger(__name__)


class Excess(NamedTuple):
    """A share of which more is used than the guard lets pass."""

    share: Share
    used_mib: int
    budget_mib: int
    limit_mib: int
    """What it may use and the tolerance."""
    short: bool = False
    """Whether it is too much only because the GPU itself runs short of memory."""


class Response(NamedTuple):
    """An excess that has lasted for the grace period, and what the guard does about it."""

    excess: Excess
    victims: tuple[TaskProcess, ...]
    """The processes to end; none in "warn", or where not all is beyond doubt."""
    new: bool
    """Whether it is the first one of this excess."""


def excess(share: Share, tolerance_percent: int) -> Excess | None:
    """How much too much a task uses now, at least; None: nothing, or it is not known."""
    budget, limit = share.budget_mib, limit_of(share, tolerance_percent)
    if budget is None or limit is None:
        return None
    # Where the driver does not tell it of each process, the rest may be proof enough.
    used = sum(process.memory_mib or 0 for process in share.processes)
    used = used if share.used_mib is None else share.used_mib
    return Excess(share, used, budget, limit) if used > limit else None


def limit_of(share: Share, tolerance_percent: int) -> int | None:
    """From where on a task uses too much though the GPU has room; None: not known."""
    may_use = share.budget_mib if share.limit_mib is None else share.limit_mib
    return None if may_use is None else may_use * (100 + tolerance_percent) // 100


def furthest(use: GpuUse, tolerance_percent: int) -> Excess | None:
    """On an overcommitted GPU that runs short: the task that is furthest above its promise.

    Its limit is what makes room again, and never below the promise and the tolerance. None: the
    GPU has room, nobody is above, or not all of that is known.
    """
    free = use.free_mib
    if free is None or use.memory_mib is None:
        return None
    needed = use.memory_mib * SHORT_PERCENT // 100 - free
    if needed <= 0:
        return None
    above = []
    for share in use.shares:
        used, budget = share.used_mib, share.budget_mib
        if share.limit_mib is None or used is None or budget is None:
            continue
        promised = budget * (100 + tolerance_percent) // 100
        if used > promised and excess(share, tolerance_percent) is None:
            limit = max(promised, used - needed)
            above.append(
                (used - budget, share.task.key, Excess(share, used, budget, limit, short=True))
            )
    return max(above, key=lambda entry: entry[:2])[2] if above else None


def victims(
    too_much: Excess, known: Collection[Identity], doomed: Collection[Identity] = ()
) -> tuple[TaskProcess, ...]:
    """The processes to end so that the rest stays within the limit: the youngest, as few as will do.

    Only processes in `known` come into question: those that an earlier list had, too, because the pid
    of one that ended after a list was made may be another's by now. The `doomed` are being ended
    already.
    """
    if not too_much.share.certain:
        return ()
    left = too_much.used_mib
    chosen = []
    young_first = sorted(too_much.share.processes, key=lambda p: (p.started, p.pid), reverse=True)
    for process in young_first:
        if identity(process) in doomed:
            left -= process.memory_mib or 0
    for process in young_first:
        who = identity(process)
        if left > too_much.limit_mib and process.memory_mib and who in known and who not in doomed:
            chosen.append(process)
            left -= process.memory_mib
    return tuple(chosen)


def identity(process: TaskProcess) -> Identity:
    """The process beyond the reuse of its pid."""
    return Identity(process.pid, process.started)


class _State(NamedTuple):
    """What is remembered of a share in excess."""

    since: float
    listed_at: float
    known: frozenset[Identity]
    told: bool


class ExcessWatch:
    """Follows how long each task uses too much; not thread-safe."""

    def __init__(self, config: MemoryGuardConfig) -> None:
        """Nobody is in excess yet."""
        self._config = config
        self._states: dict[tuple[str, str], _State] = {}

    def responses(self, usage: Usage, doomed: Collection[Identity] = ()) -> list[Response]:
        """What is to be done after one pass."""
        if self._config.action == "off":
            return []
        states, found = {}, []
        tolerance = self._config.tolerance_percent
        for use in usage.gpus.values():
            in_excess = [excess(share, tolerance) for share in use.shares]
            for too_much in (*in_excess, furthest(use, tolerance)):
                if too_much is None:
                    continue
                # Who is furthest may change from pass to pass; that the GPU runs short does not.
                key = ("" if too_much.short else too_much.share.task.key, use.uuid)
                states[key], response = self._follow(too_much, use, self._states.get(key), doomed)
                if response is not None:
                    found.append(response)
        self._states = states
        return found

    def _follow(
        self,
        too_much: Excess,
        use: GpuUse,
        before: _State | None,
        doomed: Collection[Identity],
    ) -> tuple[_State, Response | None]:
        now = frozenset(identity(process) for process in too_much.share.processes)
        if before is None:
            before = _State(use.taken_at, use.taken_at, frozenset(), told=False)
        elif before.listed_at == use.taken_at:
            return before, None  # the same list: it says nothing new
        state = before._replace(listed_at=use.taken_at, known=now)
        if use.taken_at - before.since < self._config.grace_s:
            return state, None
        chosen: tuple[TaskProcess, ...] = ()
        if self._config.action == "kill":
            chosen = victims(too_much, before.known, doomed)
        if before.told and not chosen:
            return state, None
        if chosen:
            state = state._replace(since=use.taken_at)  # those that remain get the grace again
        response = Response(too_much, chosen, new=not before.told)
        return state._replace(told=True), response


class Guard:
    """Carries out what an `ExcessWatch` decides."""

    def __init__(
        self, config: MemoryGuardConfig, belongs: Belongs, kill_grace_s: float = GRACE_S
    ) -> None:
        """`kill_grace_s`: between SIGTERM and SIGKILL."""
        self._config = config
        self._watch = ExcessWatch(config)
        self._belongs = belongs
        self._kill_grace_s = kill_grace_s
        self._lock = threading.Lock()  # guards what follows
        self._counts: Counter[tuple[str, str]] = Counter()
        self._doomed: Counter[Identity] = Counter()

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """How often what was done since the start, by act and GPU.

        The acts are `warned` (one excess that has lasted), `terminated` and `killed` (one process
        that was sent SIGTERM, SIGKILL).
        """
        with self._lock:
            return dict(self._counts)

    def look(self, usage: Usage) -> None:
        """Does what has to be done after one pass; waits for no process to end."""
        with self._lock:
            doomed = frozenset(self._doomed)
        for response in self._watch.responses(usage, doomed):
            if response.new:
                self._tell(response)
            if response.victims:
                self._end(response)

    def _tell(self, response: Response) -> None:
        too_much, share = response.excess, response.excess.share
        self._count("warned", share.gpu_uuid)
        pids = ", ".join(
            f"{p.pid} ({'?' if p.memory_mib is None else p.memory_mib} MiB)"
            for p in share.processes
        )
        spared = "; the GPU itself runs short of memory" if too_much.short else ""
        if self._config.action == "kill" and not share.certain:
            doubt = share.doubt or "no cgroup of a task proves whose processes these are"
            spared += f"; none of them is ended: {doubt}"
        _log.warning(
            "task %s of allocation %s%s uses %d MiB of %s, its budget is %d MiB: pids %s%s",
            share.task.name or "?",
            share.task.allocation or share.task.label,
            f" (job {share.task.job})" if share.task.job else "",
            too_much.used_mib,
            share.gpu_uuid,
            too_much.budget_mib,
            pids,
            spared,
            extra=fields(
                gpu=share.gpu_uuid,
                job=share.task.job,
                alloc=share.task.allocation,
                task=share.task.name,
                used_mib=too_much.used_mib,
                budget_mib=too_much.budget_mib,
            ),
        )

    def _end(self, response: Response) -> None:
        too_much, share = response.excess, response.excess.share
        chosen = [(process, share.task) for process in response.victims]
        identities = [identity(process) for process in response.victims]
        reason = (
            f"its task uses {too_much.used_mib} MiB of {share.gpu_uuid}, its budget is"
            f" {too_much.budget_mib} MiB"
        )
        if too_much.short:
            reason += ", and the GPU itself runs short of memory"

        def sent(number: signal.Signals) -> None:
            act = "killed" if number == signal.SIGKILL else "terminated"
            self._count(act, share.gpu_uuid)

        def work() -> None:
            try:
                end(chosen, self._belongs, reason, self._kill_grace_s, sent)
            finally:
                with self._lock:
                    self._doomed.subtract(identities)
                    self._doomed += Counter()  # drops those at zero

        with self._lock:
            self._doomed.update(identities)
        # A task that takes its time must not hold up the next pass.
        threading.Thread(target=work, name="guard", daemon=True).start()

    def _count(self, act: str, gpu_uuid: str) -> None:
        with self._lock:
            self._counts[act, gpu_uuid] += 1
