# SPDX-License-Identifier: MPL-2.0
"""Runs functions that may hang, each in a child of this process that can be left behind.

A thread would not do: a process with a thread that hangs in the driver cannot end, and the
operator who looks for a hanging driver would not get the terminal back.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

_T = TypeVar("_T")
_CHUNK = 1 << 16
_REAP_S = 1.0
_POLL_S = 0.002


class OverTimeError(Exception):
    """The function has not returned in time."""


class ChildFailedError(Exception):
    """The function raised, or its process died; the text says which."""


class Child(Generic[_T]):
    """A function that runs, and what it returns."""

    def __init__(self, function: Callable[[], _T]) -> None:
        """Starts it; its result and arguments must be fit for pickle."""
        self._result_fd, told_fd = os.pipe()
        with warnings.catch_warnings():
            # Of threads that a fork does not take along: a command has none, a test runner may.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid == 0:
            os.close(self._result_fd)
            _answer(function, told_fd)
        os.close(told_fd)

    def __enter__(self) -> Child[_T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def result(self, deadline: float) -> _T:
        """What the function returns; waits until `deadline` of the monotonic clock.

        OverTimeError or ChildFailedError if there is nothing.
        """
        told = b""
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            if not select.select([self._result_fd], [], [], left_s)[0]:
                raise OverTimeError
            chunk = os.read(self._result_fd, _CHUNK)
            if not chunk:
                break
            told += chunk
        if not told:
            raise ChildFailedError("its process died")
        returned, value = pickle.loads(told)  # noqa: S301  our own child wrote it
        if not returned:
            raise ChildFailedError(value)
        result: _T = value
        return result

    def close(self) -> None:
        """Ends the process and all that it started; one that cannot be killed is left behind."""
        if self._result_fd < 0:
            return
        os.close(self._result_fd)
        self._result_fd = -1
        for kill in (os.killpg, os.kill):  # it may not lead its group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self._pid, signal.SIGKILL)
        until = time.monotonic() + _REAP_S
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(self._pid, os.WNOHANG) == (0, 0) and time.monotonic() < until:
                time.sleep(_POLL_S)  # a process that was killed ends at once, or never


def _answer(function: Callable[[], object], told_fd: int) -> None:
    """Runs in the child, and ends it."""
    try:
        os.setsid()
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):  # a library that prints must not spoil what the parent prints
            os.dup2(silent, stream)
        told = pickle.dumps((True, function()))
    except BaseException as error:  # noqa: BLE001  whatever it is, the parent has to hear of it
        told = pickle.dumps((False, f"{type(error).__name__}: {error}"))
    try:
        while told:
            told = told[os.write(told_fd, told) :]
    finally:
        os._exit(0)
