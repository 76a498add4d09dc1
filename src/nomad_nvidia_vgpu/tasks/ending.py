# SPDX-License-Identifier: MPL-2.0
"""Ends processes of tasks: politely, then not, and never another one that got the same pid."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from nomad_nvidia_vgpu.goplugin.logs import fields
from nomad_nvidia_vgpu.state.usage import Task, TaskProcess

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

GRACE_S = 10.0
"""Between SIGTERM and SIGKILL."""

_LOOK_EVERY_S = 0.2

Belongs = Callable[[TaskProcess, Task], bool]
"""Whether this very process still runs, as part of this task; reads the kernel again."""

_log = logging.getLogger(__name__)


class Doomed:
    """A process of a task that is to be ended; a context manager."""

    def __init__(self, process: TaskProcess, task: Task, belongs: Belongs) -> None:
        """Holds on to it where the kernel can (Linux 5.3), so that its pid cannot be reused."""
        self.process = process
        self.task = task
        self._belongs = belongs
        self._pidfd: int | None = None
        with contextlib.suppress(OSError, AttributeError):
            self._pidfd = os.pidfd_open(process.pid)

    def signal(self, number: signal.Signals) -> bool:
        """Sends a signal if it is still the process that was meant; whether it was sent."""
        # After the descriptor was opened: what is found now is what the descriptor means.
        if not self._belongs(self.process, self.task):
            return False
        try:
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            else:
                os.kill(self.process.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError as error:
            _log.warning(
                "pid %d of %s cannot be ended (%s): run the Nomad agent as root",
                self.process.pid,
                self.task.label,
                error,
                extra=self._fields(),
            )
            return False
        return True

    def say(self, message: str, *more: str) -> None:
        """Logs what happens to it; `message` begins with the pid and the task."""
        _log.warning(message, self.process.pid, self.task.label, *more, extra=self._fields())

    def _fields(self) -> dict[str, dict[str, int | str]]:
        task = self.task
        return fields(pid=self.process.pid, job=task.job, alloc=task.allocation, task=task.name)

    def ended(self) -> bool:
        """Whether it has."""
        if self._pidfd is None:
            return not self._belongs(self.process, self.task)
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(0))

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Lets go of it."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def end(
    processes: Iterable[tuple[TaskProcess, Task]],
    belongs: Belongs,
    reason: str,
    grace_s: float = GRACE_S,
    sent: Callable[[signal.Signals], None] = lambda _: None,
) -> None:
    """Asks these processes to end, and kills those that have not after the grace.

    `reason` is for the log; `sent` is called for each signal that was sent. Blocks until all have
    ended or were killed.
    """
    with contextlib.ExitStack() as held:
        doomed = [held.enter_context(Doomed(p, task, belongs)) for p, task in processes]
        asked = []
        for victim in doomed:
            if victim.signal(signal.SIGTERM):
                victim.say("ending pid %d of %s: %s", reason)
                sent(signal.SIGTERM)
                asked.append(victim)
        for victim in _still_running(asked, grace_s):
            if victim.signal(signal.SIGKILL):
                victim.say("killing pid %d of %s")
                sent(signal.SIGKILL)


def _still_running(asked: Sequence[Doomed], grace_s: float) -> Sequence[Doomed]:
    """The processes that have not ended after the grace."""
    until = time.monotonic() + grace_s
    running = [victim for victim in asked if not victim.ended()]
    while running and time.monotonic() < until:
        time.sleep(min(_LOOK_EVERY_S, grace_s))
        running = [victim for victim in running if not victim.ended()]
    return running
