# SPDX-License-Identifier: MPL-2.0
"""The XIDs since the start: counted for Prometheus, and told to the log at a bearable rate.

A task can cause as many as it likes, so neither the lines nor the series grow with their number.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping

from nomad_nvidia_vgpu.gpu.model import XidEvent

LINE_EVERY_S = 600.0
"""The least time between two lines of one XID on one GPU."""
OTHER = "other"
"""The XID of all those that come after so many kinds on one GPU that they cannot be real."""

_MOST_KINDS = 64
_MOST_NAMED = 8

_log = logging.getLogger(__name__)


class XidLog:
    """Not thread-safe, except for `counts`: the thread that waits for events is the only one here."""

    def __init__(self) -> None:
        """None has come."""
        self._counts: Counter[tuple[str, str]] = Counter()
        self._told_at: dict[tuple[str, str], float] = {}

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """How many came since the start, by physical GPU and XID; a copy."""
        return dict(self._counts)

    def take(self, event: XidEvent, tasks: Iterable[str], now: float) -> None:
        """Counts it; `tasks` are those known to use what it names, `now` is in seconds."""
        key = (event.physical_uuid, str(event.xid))
        if key not in self._counts:
            kinds = sum(uuid == event.physical_uuid for uuid, _ in self._counts)
            if kinds >= _MOST_KINDS:
                key = (event.physical_uuid, OTHER)
        self._counts[key] += 1
        if now - self._told_at.get(key, float("-inf")) < LINE_EVERY_S:
            return
        self._told_at[key] = now
        names = sorted(set(tasks))
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        _log.info(
            "XID %s on %s, %d since the start; used by %s",
            key[1],
            event.physical_uuid,
            self._counts[key],
            ", ".join(names[:_MOST_NAMED]) + more if names else "no task that is known",
        )
