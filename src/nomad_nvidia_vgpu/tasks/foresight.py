# SPDX-License-Identifier: MPL-2.0
"""What the memory guard would do, without doing it: for `nvidia-vgpu top --explain`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from nomad_nvidia_vgpu.config.options import MemoryGuardConfig
from nomad_nvidia_vgpu.state.usage import Share, TaskProcess, Usage
from nomad_nvidia_vgpu.tasks.guard import Excess, excess, identity, limit_of, victims


class Forecast(NamedTuple):
    """What awaits one task on one GPU if it goes on like this."""

    share: Share
    limit_mib: int | None
    """What it may use and the tolerance; None: not known."""
    over_s: float | None
    """For how long it has been seen above that; None: it is not."""
    victims: tuple[TaskProcess, ...]
    """The processes that the guard would end, in this order."""
    verdict: str
    """What the guard would do and why, in one sentence."""


class Foresight:
    """Follows which tasks are above the limit, from one look to the next."""

    def __init__(
        self, config: MemoryGuardConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Has seen nobody yet."""
        self._config = config
        self._clock = clock
        self._since: dict[tuple[str, str], float] = {}

    def forecasts(self, usage: Usage) -> list[Forecast]:
        """For each task on each GPU, what the guard would do."""
        now = self._clock()
        since, found = {}, []
        for share in usage.shares:
            too_much = excess(share, self._config.tolerance_percent)
            over_s = None
            if too_much is not None:
                key = (share.task.key, share.gpu_uuid)
                since[key] = self._since.get(key, now)
                over_s = now - since[key]
            found.append(self._forecast(share, too_much, over_s))
        self._since = since
        return found

    def _forecast(self, share: Share, too_much: Excess | None, over_s: float | None) -> Forecast:
        limit = limit_of(share, self._config.tolerance_percent)
        if too_much is None:
            return Forecast(share, limit, None, (), _harmless(share, limit))
        known = {identity(process) for process in share.processes}
        chosen = victims(too_much, known)
        return Forecast(share, limit, over_s, chosen, self._verdict(too_much, chosen))

    def _verdict(self, too_much: Excess, chosen: tuple[TaskProcess, ...]) -> str:
        action, share = self._config.action, too_much.share
        above = f"{too_much.used_mib - too_much.limit_mib} MiB above its limit"
        ended = ", ".join(f"{p.pid} ({p.memory_mib} MiB)" for p in chosen)
        if action == "off":
            return f'{above}; nothing happens, because memory_guard is "off"'
        when = f"{above}; when that has lasted for {self._config.grace_s:g} s,"
        if action == "warn":
            also = f'; "kill" would end {ended}' if ended else ""
            return f"{when} the log has a warning{also}"
        if not share.certain:
            doubt = share.doubt or "no cgroup of a task proves whose processes these are"
            return f"{when} the log has a warning, but nobody is ended: {doubt}"
        if not ended:
            return f"{when} the log has a warning, but the driver tells no process's memory"
        rest = "" if len(chosen) == len(share.processes) else ", the rest lives"
        return f"{when} these are ended: {ended}{rest}"


def _harmless(share: Share, limit: int | None) -> str:
    if share.used_mib is None:
        return "nothing happens: the driver does not tell how much memory it uses"
    if limit is None:
        return "nothing happens: the memory of the GPU is not known"
    if (share.used_mib or 0) > (share.budget_mib or 0) and share.limit_mib is not None:
        return "nothing happens while the GPU has room: it is above its share and within its limit"
    return "nothing happens: it is within its limit"
