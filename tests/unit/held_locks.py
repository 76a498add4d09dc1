# SPDX-License-Identifier: MPL-2.0
"""Finds log calls of our own code that are made while a lock of our own code is held.

Locks and conditions that our modules make are counted per thread. Each log call asks its logger first
whether its level is on, and there it is noticed, also when nothing is written in the end.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

OURS = "nomad_nvidia_vgpu"
HARMLESS = {
    "nomad_nvidia_vgpu.gpu.roll_call": "held during a call of the driver, for which all wait anyway",
}
"""Modules whose locks may be held during a log call, and why."""

_held = threading.local()
_new_lock, _new_rlock, _Condition = threading.Lock, threading.RLock, threading.Condition
_is_enabled = logging.Logger.isEnabledFor


class _Counted:
    """A lock that the holding thread knows of; the rest is the lock's."""

    def __init__(self, lock: Any, maker: str) -> None:
        self._lock = lock
        self._maker = maker

    def acquire(self, *args: Any, **options: Any) -> bool:
        taken = bool(self._lock.acquire(*args, **options))
        if taken:
            held().append(self._maker)
        return taken

    def release(self) -> None:
        held().remove(self._maker)
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    # What a condition asks of its lock, to let it go while it waits.

    def _release_save(self) -> Any:
        held().remove(self._maker)
        return self._lock._release_save()

    def _acquire_restore(self, state: Any) -> None:
        self._lock._acquire_restore(state)
        held().append(self._maker)

    def _is_owned(self) -> bool:
        return bool(self._lock._is_owned())


def held() -> list[str]:
    """The modules whose locks this thread holds; one name for each lock."""
    if not hasattr(_held, "makers"):
        _held.makers = []
    makers: list[str] = _held.makers
    return makers


def _maker() -> str:
    """The module that makes a lock, if it is ours and its locks are counted."""
    name = str(sys._getframe(2).f_globals.get("__name__", ""))
    return name if name.startswith(OURS) and name not in HARMLESS else ""


def _lock() -> Any:
    maker = _maker()
    return _Counted(_new_lock(), maker) if maker else _new_lock()


def _condition(lock: Any = None) -> Any:
    maker = _maker()
    counted: Any = _Counted(_new_rlock(), maker) if maker and lock is None else lock
    return _Condition(counted)


@contextlib.contextmanager
def log_calls_under_locks() -> Iterator[list[str]]:
    """Within it, the list gets one text for each such call: the locks, and where it was made."""
    found: list[str] = []

    def asked(logger: logging.Logger, level: int) -> bool:
        if logger.name.startswith(OURS) and held():
            found.append(f"with locks of {held()}:\n{''.join(traceback.format_stack(limit=8))}")
        return _is_enabled(logger, level)

    patched: list[tuple[Any, str, Any]] = [
        (threading, "Lock", _lock),
        (threading, "Condition", _condition),
        (logging.Logger, "isEnabledFor", asked),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patched]
    for owner, name, ours in patched:
        setattr(owner, name, ours)
    try:
        yield found
    finally:
        for owner, name, theirs in before:
            setattr(owner, name, theirs)
