# SPDX-License-Identifier: MPL-2.0
"""The thread that finds out who uses what, once per interval for all who want to know."""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager
from datetime import datetime, timezone

from nomad_nvidia_vgpu.device.attribution import Attributor
from nomad_nvidia_vgpu.device.catalog import Catalog
from nomad_nvidia_vgpu.device.guard import Guard
from nomad_nvidia_vgpu.device.usage import GpuUse

_log = logging.getLogger(__name__)


class Accountant:
    """Makes passes over the lists of processes in a catalog, and puts there what they find."""

    def __init__(
        self, catalog: Catalog, attributor: Attributor, guard: Guard, interval_s: float
    ) -> None:
        """`interval_s` is the time between two passes."""
        self._catalog = catalog
        self._attributor = attributor
        self._guard = guard
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._last: dict[str, GpuUse] = {}
        self._problem = ""

    def start(self, within: AbstractContextManager[None]) -> None:
        """Starts the thread, which makes its passes within this context; it is a daemon.

        A process whose memory the kernel has locked can block who reads its environment.
        """
        threading.Thread(target=self._run, args=(within,), name="usage", daemon=True).start()

    def stop(self) -> None:
        """Tells the thread to end."""
        self._stopped.set()

    def last_use(self, gpu_uuid: str) -> GpuUse | None:
        """The newest use of a GPU that is known, however old: a lost GPU lists no processes."""
        return self._last.get(gpu_uuid)

    def look(self) -> None:
        """Makes one pass."""
        usage = self._attributor.attribute(
            self._catalog.edition.plan,
            self._catalog.listings,
            self._catalog.now(),
            datetime.now(tz=timezone.utc),
        )
        self._last.update(usage.gpus)
        self._catalog.take_usage(usage)
        self._guard.look(usage)
        self._catalog.take_guard_counts(self._guard.counts)

    def _run(self, within: AbstractContextManager[None]) -> None:
        with within:
            while not self._stopped.wait(self._interval_s):
                try:
                    self.look()
                except Exception as error:  # noqa: BLE001  the thread must live
                    if repr(error) != self._problem:
                        self._problem = repr(error)
                        _log.exception("who uses what could not be found out: report this as a bug")
