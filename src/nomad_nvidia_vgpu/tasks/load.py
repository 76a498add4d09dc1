# SPDX-License-Identifier: MPL-2.0
"""Which vGPUs tasks have now, for jobs that choose a GPU by it.

Nomad tells of a task when it reserves, and of no end. So a vGPU counts as held from its reservation
on, then for as long as the environment of a process names it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.tasks.claims import Complaints
from nomad_nvidia_vgpu.tasks.holdings import holdings_of, said_by_tasks

UNSEEN_S = 600.0
"""How long a task may take from its reservation to its first process: an image is fetched first."""

_log = logging.getLogger(__name__)


class Load:
    """What is held, from reservations and looks; without I/O, and for one thread at a time."""

    def __init__(self, *, only_own: bool) -> None:
        """`only_own`: a vGPU that this process did not reserve is somebody else's of that name."""
        self._only_own = only_own
        self._own: set[VgpuId] = set()
        self._unseen: dict[VgpuId, float] = {}
        """Reserved and in no environment yet, with the time of the reservation."""
        self._seen: frozenset[VgpuId] = frozenset()

    def reserve(self, vgpus: Iterable[VgpuId], now_s: float) -> None:
        """They are given to a task, which has no process yet."""
        for vgpu in vgpus:
            self._own.add(vgpu)
            self._unseen[vgpu] = now_s

    def look(self, seen: Iterable[VgpuId], began_s: float) -> None:
        """These were in the environments of processes, in a look that began then."""
        self._seen = frozenset(seen)
        for vgpu, since_s in list(self._unseen.items()):
            # What a look met that is older than the reservation may be the task before.
            known = vgpu in self._seen and since_s < began_s
            if known or began_s - since_s > UNSEEN_S:
                del self._unseen[vgpu]

    @property
    def held(self) -> frozenset[VgpuId]:
        """What tasks have."""
        seen = self._seen & self._own if self._only_own else self._seen
        return seen | self._unseen.keys()


class LoadWatch:
    """Looks at the tasks each interval, and tells of a change at most once per interval."""

    def __init__(
        self,
        tell: Callable[[frozenset[VgpuId]], None],
        interval_s: float,
        proc: Proc,
        *,
        only_own: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` is called in a thread of its own, with all that tasks have."""
        self._tell = tell
        self._interval_s = interval_s
        self._proc = proc
        self._complaints = Complaints(proc)
        self._clock = clock
        self._changed = threading.Condition()  # guards what follows
        self._load = Load(only_own=only_own)
        self._reserved = False
        self._stopped = False
        self._problem = ""

    def start(self) -> None:
        """Starts the thread, a daemon."""
        threading.Thread(target=self._run, name="load", daemon=True).start()

    def stop(self) -> None:
        """Tells the thread to end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def reserved(self, ids: Iterable[str]) -> None:
        """These vGPUs are a task's from now on."""
        with self._changed:
            vgpus = [vgpu for id_ in ids if (vgpu := VgpuId.parse(id_))]
            self._load.reserve(vgpus, self._clock())
            self._reserved = True
            self._changed.notify_all()

    def _run(self) -> None:
        told: frozenset[VgpuId] | None = None
        while not self._stopped:
            held = self._look()
            # After a change nothing is told for an interval; else a reservation ends the wait.
            changed = held != told
            if changed:
                self._tell(held)
                told = held
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopped or (self._reserved and not changed),  # noqa: B023
                    self._interval_s,
                )

    def _look(self) -> frozenset[VgpuId]:
        began_s = self._clock()
        with self._changed:
            self._reserved = False
        try:
            holdings = holdings_of(said_by_tasks(self._proc), None, self._complaints)
            self._problem = ""
        except Exception as error:  # noqa: BLE001  the thread must live
            holdings = None
            if repr(error) != self._problem:
                self._problem = repr(error)
                _log.exception("cannot find out which vGPUs tasks have: report this as a bug")
        with self._changed:
            if holdings is not None:
                self._load.look((v for h in holdings for v in h.vgpus), began_s)
            return self._load.held
