# SPDX-License-Identifier: MPL-2.0
"""A watch over a scripted source, stopped with all its threads when a test is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import pytest
from typing_extensions import Self

from nomad_nvidia_vgpu.gpu.health import HealthPolicy
from nomad_nvidia_vgpu.gpu.model import Gpu, GpuProcess
from nomad_nvidia_vgpu.gpu.watch import GpuWatch
from unit.example_gpus import gpu
from unit.gpu.scripted_source import RecordingSink, ScriptedSource
from unit.manual_clock import DEADLINE_S, ManualClock

AT_ONCE = HealthPolicy(recovery_period_s=0.0)
"""Two good looks, and a GPU is back."""
A, B, C = gpu("GPU-a"), gpu("GPU-b"), gpu("GPU-c")


class Watching:
    """A context manager around a `GpuWatch` that looks every few milliseconds."""

    def __init__(
        self,
        *gpus: Gpu,
        period_s: float = 1 / 64,
        give_up_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
        policy: HealthPolicy = AT_ONCE,
        listed: Mapping[str, Sequence[GpuProcess]] | Exception | None = None,
    ) -> None:
        """Starts nothing yet; `listed` are the processes by UUID, or why they cannot be listed."""
        self.left = 0
        """How often it was asked to leave."""
        self.source = ScriptedSource(*gpus)
        self.source.listed = {} if listed is None else listed
        self.sink = RecordingSink()
        self.watch = GpuWatch(
            self.source,
            self.sink,
            period_s=period_s,
            policy=policy,
            leave=self._leave,
            give_up_s=give_up_s,
            clock=clock,
        )

    def _leave(self) -> None:
        self.left += 1

    def __enter__(self) -> Self:
        """Begins to watch."""
        self._others = set(threading.enumerate())
        self.watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops watching, and waits for the threads: each must end."""
        self.watch.stop()
        self.source.release()
        for thread in self.threads():
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), f"{thread.name} did not end"

    def threads(self) -> list[threading.Thread]:
        """The threads of the watch that run now."""
        return [
            t for t in threading.enumerate() if t not in self._others and t.name.startswith("gpu-")
        ]

    def until_called(
        self, call: str, clock: ManualClock, step_s: float, within_s: float = 0.2
    ) -> None:
        """Moves the clock on, step by step, until this call is made once more.

        One step may not be enough: the thread may read the clock only after it. Each is given
        `within_s` of real time.
        """
        wanted = self.source.calls[call] + 1
        for _ in range(int(DEADLINE_S / within_s)):
            clock.advance(step_s)
            if self.source.called(call, wanted, within_s):
                return
        pytest.fail(f"{call} was not called again")

    def until_at_rest(self, index: int, clock: ManualClock) -> None:
        """Waits until this GPU's thread has ended what it was at: it begins no more by itself.

        A clock that is moved on under a look or a sample makes it one that hangs.
        """
        clock.wait_for_reads(f"gpu-{index}", 16)  # a look with its sample reads it half as often
