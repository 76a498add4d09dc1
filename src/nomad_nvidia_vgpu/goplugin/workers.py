# SPDX-License-Identifier: MPL-2.0
"""The threads for calls, of which one is there even when the system gives no more."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

SPARE = "rpc-spare"
"""The name of the thread that is there from the start: it is for calls that end."""


class Workers(Executor):
    """Threads as they are needed, and a spare one from the start.

    Under a limit of memory, or of processes, no further thread can be started. Shutdown, which has
    no deadline on the host's side, would then wait for a stream to end.
    """

    def __init__(self, most: int) -> None:
        """At most so many threads, and the spare one, which is started at once."""
        self._most = most
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._needed = threading.Semaphore(0)
        self._threads = 0  # for one thread at a time: grpc's, which submits
        self._start(self._spare, SPARE)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Has a thread call it, once there is a free one."""
        future: Future[Any] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  as every executor does
                future.set_exception(error)
            else:
                future.set_result(result)

        self._calls.put(call)
        if self._idle.acquire(blocking=False) or self._threads == self._most:
            return future
        try:
            self._start(self._work, f"rpc-{self._threads}")
            self._threads += 1
        except (RuntimeError, MemoryError):  # can't start new thread
            self._needed.release()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002  the base's
        """Nothing: the threads are daemons, and the process ends."""

    def _start(self, target: Callable[[], None], name: str) -> None:
        threading.Thread(target=target, name=name, daemon=True).start()

    def _work(self) -> None:
        while True:
            self._calls.get()()
            self._idle.release()

    def _spare(self) -> None:
        while True:
            self._needed.acquire()
            with contextlib.suppress(queue.Empty):  # another thread has become free
                self._calls.get_nowait()()
