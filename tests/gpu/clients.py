# SPDX-License-Identifier: MPL-2.0
"""CUDA processes that an experiment starts, listens to, and ends by pid."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

CLIENT = (sys.executable, "-m", "gpu.cuda_client")

Event = Mapping[str, Any]
Log = Callable[[str], None]

_HERE = Path(__file__).parent
_REAP_S = 5.0


class Refused(Exception):  # noqa: N818  what the driver did, not what went wrong here
    """The driver refused a call of the client."""

    def __init__(self, event: Event) -> None:
        """`event` is what the client said last."""
        self.error: int | None = event.get("error")
        super().__init__(f"{event.get('call')}: error {self.error} {event.get('name')}")


class Silent(Exception):  # noqa: N818
    """The client did not say what was waited for."""


def client_environment(mark: str, given: Mapping[str, str]) -> dict[str, str]:
    """What a client gets: nothing of MPS but what is `given`, and `mark`, by which it is known."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CUDA_MPS_", "CUDA_VISIBLE", "NVIDIA_VISIBLE"))
    }
    return {
        **kept,
        "PYTHONPATH": str(_HERE.parent),
        "CUDA_CACHE_DISABLE": "1",  # leaves nothing in anybody's home
        "NVIDIA_VGPU_LAB": mark,
        **given,
    }


class Client:
    """One `cuda_client` process; a context manager that ends it."""

    def __init__(
        self,
        log: Log,
        mark: str,
        environment: Mapping[str, str],
        *words: object,
        through: Sequence[str] = (),
    ) -> None:
        """Starts it with `words` as its arguments; `environment` says which GPU and which MPS.

        `through` is a command that runs what is behind it, such as `unshare`.
        """
        self._log = log
        self._events: queue.Queue[Event | None] = queue.Queue()
        self.events: list[Event] = []
        """All that was taken from it so far."""
        arguments = [*through, *CLIENT, *(str(word) for word in words)]
        self.process = self._start(arguments, client_environment(mark, environment))

    def _start(self, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            arguments,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._log(f"client {process.pid}: {' '.join(arguments)}")
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()
        return process

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kills it if it still runs."""
        self.kill()

    @property
    def pid(self) -> int:
        """Its pid here, which is another where a command put it into a namespace."""
        return self.process.pid

    def until(self, event: str, timeout_s: float) -> Event:
        """Waits until it says `event`; Refused, or Silent when it ended or `timeout_s` is over."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                found = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise Silent(f"client {self.pid}: no {event!r} in {timeout_s:g} s") from None
            if found is None:
                self._events.put(None)
                raise Silent(f"client {self.pid} ended without {event!r}")
            self.events.append(found)
            if found["event"] == event:
                return found
            if found["event"] == "failed":
                raise Refused(found)

    def result(self, timeout_s: float) -> Event:
        """Waits for its result; Refused, Silent."""
        return self.until("result", timeout_s)

    def tell(self, line: str) -> None:
        """Writes one line to it; nothing happens when it has ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL, and waits for its end; one that hangs in the driver is left."""
        with contextlib.suppress(OSError):
            self.process.send_signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_REAP_S)
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def _read(self, stream: IO[str] | None) -> None:
        assert stream is not None
        for line in stream:
            self._log(f"client {self.pid}: {line.rstrip()}")
            event = _event(line)
            if event is not None:
                self._events.put(event)
        stream.close()
        self._events.put(None)


def _event(line: str) -> Event | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "event" in found else None
