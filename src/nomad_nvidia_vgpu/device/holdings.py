# SPDX-License-Identifier: MPL-2.0
"""Finds out what running tasks hold, from the environment that Nomad started them with.

Nomad tells a device plugin of no task and of no end of one. A task may say less than it holds, or
more; the worst that comes of it is that vGPUs of its GPU are not given away while it runs.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping

from nomad_nvidia_vgpu.device.reserve import BUDGETS_ENV, GROUP_ENV, IDS_ENV
from nomad_nvidia_vgpu.sharing.holding import Holding
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId

MIN_INTERVAL_S = 1.0

_MAX_ENVIRON_BYTES = 1 << 20
_MAX_IDS = 4096
_MAX_DIGITS = 12

_log = logging.getLogger(__name__)


class HoldingsWatch:
    """Looks at the tasks each period; one thread, for a look at a process may hang."""

    def __init__(
        self,
        tell: Callable[[frozenset[Holding]], None],
        period_s: float,
        proc: str = "/proc",
    ) -> None:
        """`tell` is called with each finding, in the thread."""
        self._tell = tell
        self._period_s = max(period_s, MIN_INTERVAL_S)
        self._proc = proc
        self._stopped = threading.Event()

    def start(self) -> None:
        """Starts the thread, a daemon."""
        threading.Thread(target=self._look, name="holdings", daemon=True).start()

    def stop(self) -> None:
        """Tells the thread to end."""
        self._stopped.set()

    def _look(self) -> None:
        while not self._stopped.is_set():
            try:
                found = holdings_of(environments(self._proc))
            except Exception:  # noqa: BLE001  the thread must live: its first finding is waited for
                _log.exception("what tasks hold cannot be found out")
                found = frozenset()
            self._tell(found)
            self._stopped.wait(self._period_s)


def environments(proc: str = "/proc") -> Iterator[Mapping[str, str]]:
    """The environments of all processes that were started with vGPUs, as far as we may read them."""
    wanted = f"{IDS_ENV}=".encode()
    for name in os.listdir(proc):  # noqa: PTH208  some hundred names, no more
        if not name.isdecimal():
            continue
        try:
            with open(f"{proc}/{name}/environ", "rb") as file:  # noqa: PTH123  some hundred times
                data = file.read(_MAX_ENVIRON_BYTES)
        except OSError:
            continue  # it has ended, or is none of our business
        if wanted in data:
            yield _parsed(data)


def holdings_of(found: Iterable[Mapping[str, str]]) -> frozenset[Holding]:
    """What the tasks with these environments hold, each once however many processes it has."""
    by_task: dict[str, Holding] = {}
    for environment in found:
        allocation = environment.get("NOMAD_ALLOC_ID")
        vgpus = frozenset(_ids(environment.get(IDS_ENV, "")))
        if not allocation or not vgpus:
            continue
        task = f"{allocation}/{environment.get('NOMAD_TASK_NAME', '')}"
        budgets = dict(_budgets(environment.get(BUDGETS_ENV, "")))
        other = by_task.get(task)
        if other is not None:
            vgpus |= other.vgpus
            budgets = {**dict(other.budgets), **budgets}
        group = environment.get(GROUP_ENV) or (other.group if other else None)
        by_task[task] = Holding(task, group, vgpus, tuple(sorted(budgets.items())))
    return frozenset(by_task.values())


def _parsed(data: bytes) -> dict[str, str]:
    variables: dict[str, str] = {}
    for entry in data.decode("utf-8", "replace").split("\0"):
        name, equals, value = entry.partition("=")
        if equals:
            variables.setdefault(name, value)
    return variables


def _ids(text: str) -> Iterator[VgpuId]:
    for part in text.split(",", _MAX_IDS)[:_MAX_IDS]:
        vgpu = VgpuId.parse(part)
        if vgpu is not None:
            yield vgpu


def _budgets(text: str) -> Iterator[tuple[str, int]]:
    for part in text.split(",", _MAX_IDS)[:_MAX_IDS]:
        uuid, _, mib = part.rpartition("=")
        if uuid and mib.isascii() and mib.isdecimal() and len(mib) <= _MAX_DIGITS:
            yield uuid, int(mib)
