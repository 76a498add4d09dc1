# SPDX-License-Identifier: MPL-2.0
"""Puts 8 GPUs into random states over the fake driver, and compares what is said with the truth.

`python -m random_states [states] [seed]`, with the fake library on LD_LIBRARY_PATH: the watch and
what ends tasks run in this process, over real `pynvml`, with less patience than in the plugin.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import psutil
from libnvidia_ml.driver import FakeDriver
from unit.gpu.scripted_source import RecordingSink

from nomad_nvidia_vgpu.gpu.health import HealthPolicy
from nomad_nvidia_vgpu.gpu.nvml.source import NvmlSource
from nomad_nvidia_vgpu.gpu.watch import GpuWatch
from nomad_nvidia_vgpu.state.usage import GpuUse, Share, Task, TaskProcess
from nomad_nvidia_vgpu.tasks.sick_gpu import TaskEnder

GPUS = 8
GIVE_UP_S = 1.0
HOLD_S = 0.3
PATIENCE_S = 90.0
_KINDS = (("removed",), ("lost",), ("failing",), ("hanging",))
_MIXES = (("removed", "lost"), ("removed", "failing"), ("removed", "hanging"), ("lost", "failing"))
_GETTERS = ("nvmlDeviceGetUUID", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetIndex")


class Cost(NamedTuple):
    """What this process has at one moment."""

    rss_kib: int
    threads: int
    descriptors: int
    cpu_s: float


class Outcome(NamedTuple):
    """What came of a run."""

    states: int
    faults: Counter[str]
    wrong: list[str]
    """One sentence for each state that was not told as it was, or GPU that was charged for it."""
    early: Cost
    late: Cost


class Node:
    """The fake machine, and the faults in force on it."""

    def __init__(self, driver: FakeDriver, dice: random.Random) -> None:
        """All is well."""
        self.driver = driver
        self.uuids = [driver.get(f"gpu {i}", "uuid") or "" for i in range(GPUS)]
        self.faults: Counter[str] = Counter()
        self._dice = dice
        self._set: list[tuple[str, str]] = []

    def change(self) -> frozenset[str]:
        """Puts every GPU into a state at the same moment; the UUIDs of those that are sick."""
        kinds = self._dice.choice(_KINDS + _MIXES)
        places = self._dice.sample(range(GPUS), GPUS)
        renumbered = self._dice.random() < 0.3
        sick = set()
        with self.driver.at_once():
            for section, key in self._set:
                self.driver.clear(section, key)
            self._set = []
            for index, uuid in enumerate(self.uuids):
                if self._dice.random() < 0.3:
                    kind = self._dice.choice(kinds)
                    self._fail(f"gpu {index}", kind)
                    self.faults[kind] += 1
                    sick.add(uuid)
                if renumbered:
                    self._put(f"gpu {index}", "position", places[index])
        self.faults["renumbered"] += renumbered
        return frozenset(sick)

    def _fail(self, section: str, kind: str) -> None:
        if kind in ("removed", "lost"):
            self._put(section, kind, 1)
        elif kind == "failing":
            self._put(section, "fault.nvmlDeviceGetUUID", self._dice.choice((11, 15, 16, 999)))
        else:
            self._put(section, f"hang.{self._dice.choice(_GETTERS)}", 1)

    def _put(self, section: str, key: str, value: int) -> None:
        self.driver.set(section, key, value)
        self._set.append((section, key))


class Signalled:
    """Whose processes would be ended; each GPU has one task with one process."""

    def __init__(self, uuids: list[str]) -> None:
        """Nobody's so far."""
        self.gpus: set[str] = set()
        self._uuids = uuids

    def last_use(self, uuid: str) -> GpuUse:
        """As an accountant."""
        task = Task(key=uuid, certain=True)
        process = TaskProcess(self._uuids.index(uuid) + 1, 1, 1, "compute")
        share = Share(task, uuid, (f"{uuid}_0",), (process,), 1, 1)
        return GpuUse(uuid, time.monotonic(), {}, (share,), ())

    def belongs(self, process: TaskProcess, _task: Task) -> bool:
        """Takes note; nobody is really there."""
        self.gpus.add(self._uuids[process.pid - 1])
        return False


def run(driver: FakeDriver, states: int, seed: int) -> Outcome:
    """Judges so many states."""
    node = Node(driver, random.Random(seed))
    sink, signalled = RecordingSink(), Signalled(node.uuids)
    watch = GpuWatch(
        NvmlSource(),
        TaskEnder(sink, signalled.last_use, signalled.belongs),
        period_s=0.2,
        policy=HealthPolicy(recovery_period_s=0.1),
        give_up_s=GIVE_UP_S,
    )
    watch.start()
    wrong: list[str] = []
    _settled(watch, sink, frozenset())
    early, before = _cost(), frozenset[str]()
    for number in range(states):
        signalled.gpus.clear()
        sick = node.change()
        if not _settled(watch, sink, sick):
            wrong.append(f"state {number}: {sorted(_told(sink))} instead of {sorted(sick)}")
        if innocent := signalled.gpus - sick - before:
            wrong.append(f"state {number}: tasks of {sorted(innocent)} would have been ended")
        before = sick
        if number == states // 5:
            early = _cost()
        if sys.stdout.isatty():
            _say(f"\r{number + 1} of {states} states, {len(wrong)} wrong")
    late = _cost()
    watch.stop()
    return Outcome(states, node.faults, wrong, early, late)


def _told(sink: RecordingSink) -> frozenset[str]:
    return frozenset(uuid for uuid, reason in sink.health().items() if reason)


def _settled(watch: GpuWatch, sink: RecordingSink, sick: frozenset[str]) -> bool:
    """Waits until the truth is told, and goes on being told."""
    until, since = time.monotonic() + PATIENCE_S, None
    while time.monotonic() < until:
        watch.check_workers()
        now = time.monotonic()
        right = len(sink.health()) == GPUS and _told(sink) == sick
        since = (since or now) if right else None
        if since is not None and now - since >= HOLD_S:
            return True
        time.sleep(0.02)  # between two looks at what other threads say
    return False


def _cost() -> Cost:
    process = psutil.Process()
    times = process.cpu_times()
    return Cost(
        process.memory_info().rss // 1024,
        threading.active_count(),
        process.num_fds(),
        times.user + times.system,
    )


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def run_apart(library: Path, workspace: Path, states: int, seed: int) -> str:
    """The same in a process of its own, on this library; what it prints, AssertionError if wrong."""
    driver = FakeDriver(library, workspace, "h100x8")
    environment = {**os.environ, **driver.environment()}
    environment.pop("FAKE_NVML_CALLS")  # hundreds of states are millions of calls
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "random_states",
            str(states),
            str(seed),
            str(library),
            str(workspace),
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


if __name__ == "__main__":
    wanted, chosen = int(sys.argv[1]), int(sys.argv[2])
    began = datetime.now(tz=timezone.utc)
    outcome = run(FakeDriver(Path(sys.argv[3]), Path(sys.argv[4]), "h100x8"), wanted, chosen)
    passed = (datetime.now(tz=timezone.utc) - began).total_seconds()
    _say(
        f"\n{outcome.states} states judged in {passed:.0f} s, seed {chosen}\n"
        f"faults injected: {dict(outcome.faults)}\n"
        f"before: {outcome.early}\nafter:  {outcome.late}\n"
    )
    _say("\n".join(outcome.wrong) or "none wrong, no process of an innocent GPU signalled")
    os._exit(bool(outcome.wrong))  # a thread may still hang in the driver
