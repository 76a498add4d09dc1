# SPDX-License-Identifier: MPL-2.0
"""A thread that does the same thing again and again, and that no error ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

_log = logging.getLogger(__name__)


class PeriodicThread:
    """Calls `work` each period until told to stop; logs each new problem once."""

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        period_s: float,
        *,
        failing: str,
        at_once: bool = True,
    ) -> None:
        """`failing`: what the log says when `work` raises; `at_once`: do not wait a period first."""
        self._name = name
        self._work = work
        self._period_s = period_s
        self._failing = failing
        self._at_once = at_once
        self._stopped = threading.Event()
        self._problem = ""

    def start(self, within: AbstractContextManager[None] | None = None) -> None:
        """Starts the thread, a daemon, which works within this context."""
        threading.Thread(
            target=self._run, args=(within or nullcontext(),), name=self._name, daemon=True
        ).start()

    def stop(self) -> None:
        """Tells the thread to end; does not wait for it."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether the thread was told to end."""
        return self._stopped.is_set()

    def _run(self, within: AbstractContextManager[None]) -> None:
        with within:
            if not self._at_once:
                self._stopped.wait(self._period_s)
            while not self._stopped.is_set():
                self._turn()
                self._stopped.wait(self._period_s)

    def _turn(self) -> None:
        try:
            self._work()
            self._problem = ""
        except Exception as error:  # noqa: BLE001  the thread must live
            if repr(error) != self._problem:
                self._problem = repr(error)
                _log.exception("%s: report this as a bug", self._failing)
