# SPDX-License-Identifier: MPL-2.0
"""Puts 8 GPUs into random states over the fake driver, and compares what is said with the truth.

A value that a GPU does not tell makes it no worse. Each GPU has a task, a real process in a real
cgroup. The memory guard is at "kill" and `end_tasks` is on, and the tasks of some GPUs use too much.
Exactly those that are to blame may be ended.

`python -m random_states states seed library workspace`, with the fake library on LD_LIBRARY_PATH:
what the plugin runs behind Nomad's calls runs in this process, with less patience. It takes cgroups.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import psutil
import this_run
from contract.task_cgroups import RealTask, any_task
from libnvidia_ml.driver import FakeDriver

from nomad_nvidia_vgpu.config.blocks import HealthConfig, MemoryGuardConfig
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.device.background import policy_of, sink_of, tools_of
from nomad_nvidia_vgpu.gpu import sample_rounds
from nomad_nvidia_vgpu.gpu.nvml.source import NvmlSource
from nomad_nvidia_vgpu.gpu.watch import GpuWatch
from nomad_nvidia_vgpu.host.proc import Proc
from nomad_nvidia_vgpu.state.catalog import Catalog
from nomad_nvidia_vgpu.tasks.accountant import Accountant

GPUS = 8
GIVE_UP_S = 1.0
HOLD_S = 0.3
PATIENCE_S = 90.0
LIST_S = 0.2
PASS_S = 0.1
MODEST_MIB = 15_000
GREEDY_MIB = 40_000
"""Of a GPU with 80 GiB, where a task has a quarter."""
CONFIG = PluginConfig(
    vgpus=4,
    fingerprint_period_s=0.2,
    memory_guard=MemoryGuardConfig(action="kill", grace_s=0.0, tolerance_percent=0),
    health=HealthConfig(recovery_period_s=0.1, end_tasks=True),
)
_KINDS = (("removed",), ("lost",), ("failing",), ("hanging",))
_MIXES = (("removed", "lost"), ("removed", "failing"), ("removed", "hanging"), ("lost", "failing"))
_ERRORS = (11, 15, 16, 999)
_GRAVE = frozenset(("lost", "failing 11", "failing 15", "failing 16"))
"""What only a reset or a reboot heals."""
_GETTERS = ("nvmlDeviceGetUUID", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetIndex")
_OPTIONAL = tuple(
    f"nvmlDeviceGet{what}"
    for what in (
        *("MemoryInfo", "MemoryInfo_v2", "Name", "CudaComputeCapability", "Architecture"),
        *("MigMode", "FieldValues", "SupportedEventTypes", "PciInfo_v3", "MinorNumber"),
        *("Temperature", "UtilizationRates", "RemappedRows", "ComputeMode"),
    )
)
_NO_ANSWER = (2, 3, 999)
"""Invalid argument, not supported, unknown."""


class Cost(NamedTuple):
    """What a process has at one moment."""

    rss_kib: int
    threads: int
    descriptors: int
    cpu_s: float


class Outcome(NamedTuple):
    """What came of a run."""

    states: int
    faults: Counter[str]
    ended: Counter[str]
    """How many tasks ended, by what they are to blame for."""
    wrong: list[str]
    """One sentence for each state that was not told as it was, or GPU that was charged for it."""
    early: Cost
    late: Cost


class State(NamedTuple):
    """The truth, by UUIDs."""

    sick: frozenset[str] = frozenset()
    grave: frozenset[str] = frozenset()
    """Whose tasks must end."""
    removed: frozenset[str] = frozenset()
    """Whose tasks may: whether they left or were lost is known only to who pulled them out."""
    greedy: frozenset[str] = frozenset()
    """Whose tasks use too much, and must end if the driver lists them."""


class Tasks:
    """One task with a vGPU of each GPU, in a cgroup, with one process."""

    def __init__(self, uuids: list[str], stack: ExitStack) -> None:
        """All run until the end of `stack`."""
        self._tasks = {uuid: stack.enter_context(any_task()) for uuid in uuids}
        self.start_ended()

    def start_ended(self) -> frozenset[str]:
        """Starts each that has ended again in place, as Nomad does; the GPUs of these."""
        ended = self.ended()
        for uuid in ended:
            task = self._tasks[uuid]
            for process in task.processes:
                process.communicate()
            task.processes.clear()
            task.start({"NVIDIA_VGPU_IDS": f"{uuid}-0", "NOMAD_ALLOC_ID": task.allocation})
        return ended

    def pid(self, uuid: str) -> int:
        """Its process."""
        return self._tasks[uuid].processes[0].pid

    def ended(self) -> frozenset[str]:
        """The GPUs whose tasks do not run."""
        return frozenset(uuid for uuid, task in self._tasks.items() if not _runs(task))


def _runs(task: RealTask) -> bool:
    return any(process.poll() is None for process in task.processes)


class Node:
    """The fake machine, and the faults in force on it."""

    def __init__(self, driver: FakeDriver, dice: random.Random, stack: ExitStack) -> None:
        """All is well."""
        self.driver = driver
        self.uuids = [driver.get(f"gpu {i}", "uuid") or "" for i in range(GPUS)]
        self.tasks = Tasks(self.uuids, stack)
        self.faults: Counter[str] = Counter()
        self._dice = dice
        self._set: list[tuple[str, str]] = []
        self._use(frozenset())

    def change(self) -> State:
        """Puts every GPU into a state at the same moment."""
        kinds = self._dice.choice(_KINDS + _MIXES)
        places = self._dice.sample(range(GPUS), GPUS)
        renumbered = self._dice.random() < 0.3
        greedy = frozenset(uuid for uuid in self.uuids if self._dice.random() < 0.2)
        faults = {}
        with self.driver.at_once():
            for section, key in self._set:
                self.driver.clear(section, key)
            self._set = []
            for index, uuid in enumerate(self.uuids):
                if self._dice.random() < 0.3:
                    faults[uuid] = self._fail(f"gpu {index}", self._dice.choice(kinds))
                if self._dice.random() < 0.3:
                    getter = self._dice.choice(_OPTIONAL)
                    self._put(f"gpu {index}", f"fault.{getter}", self._dice.choice(_NO_ANSWER))
                    self.faults["mute"] += 1  # a value is missing: that makes no GPU sick
                if renumbered:
                    self._put(f"gpu {index}", "position", places[index])
            self._use(greedy)
        self.faults.update([*faults.values(), *["renumbered"] * renumbered])
        return State(
            frozenset(faults),
            frozenset(uuid for uuid, fault in faults.items() if fault in _GRAVE),
            frozenset(uuid for uuid, fault in faults.items() if fault == "removed"),
            greedy,
        )

    def _fail(self, section: str, kind: str) -> str:
        """What is wrong with it now."""
        if kind == "failing":
            error = self._dice.choice(_ERRORS)
            self._put(section, "fault.nvmlDeviceGetUUID", error)
            return f"failing {error}"
        key = f"hang.{self._dice.choice(_GETTERS)}" if kind == "hanging" else kind
        self._put(section, key, 1)
        return kind

    def _use(self, greedy: frozenset[str]) -> None:
        """Lists the process of each task."""
        for index, uuid in enumerate(self.uuids):
            used = GREEDY_MIB if uuid in greedy else MODEST_MIB
            self.driver.set(f"gpu {index}", "compute_processes", f"{self.tasks.pid(uuid)}:{used}")

    def _put(self, section: str, key: str, value: int) -> None:
        self.driver.set(section, key, value)
        self._set.append((section, key))


class Verdict(NamedTuple):
    """Whose tasks end in one state, by the UUIDs of their GPUs."""

    must: frozenset[str]
    may: frozenset[str]


class Blame:
    """Follows whose tasks may be ended: what is grave stays so until the GPU has been well again."""

    def __init__(self) -> None:
        """Nobody's."""
        self._before = State()
        self._grave = self._maybe_grave = frozenset[str]()

    def enter(self, now: State, started: frozenset[str]) -> Verdict:
        """The next state; what was so in the one before may still be acted upon.

        `started`: whose tasks have just started, so that the driver has not listed them yet.
        """
        # A GPU that was sick otherwise may be lost, or fail, before it says again who it is.
        grave = now.grave & (self._grave | (now.grave - self._before.sick - started))
        maybe_grave = now.sick & (now.grave | now.removed | self._maybe_grave)
        may = maybe_grave | self._maybe_grave | now.greedy | self._before.greedy
        self._before, self._grave, self._maybe_grave = now, grave, maybe_grave
        return Verdict(grave | (now.greedy - now.sick), may)


class Plugin:
    """What runs behind Nomad's calls, in this process."""

    def __init__(self) -> None:
        """Starts all of it."""
        sample_rounds.LIST_EVERY_S = LIST_S
        self._catalog = Catalog(CONFIG)
        accountant = Accountant(self._catalog, lambda: tools_of(CONFIG, Proc()), PASS_S)
        self.watch = GpuWatch(
            NvmlSource(),
            sink_of(CONFIG, self._catalog, accountant),
            period_s=CONFIG.fingerprint_period_s,
            policy=policy_of(CONFIG),
            give_up_s=GIVE_UP_S,
        )
        self.watch.start()
        accountant.start(self.watch.sampling(LIST_S))

    def sick(self) -> frozenset[str] | None:
        """The GPUs that are told to be; None: not all are told of."""
        gpus = self._catalog.edition.plan.by_uuid()
        if len(gpus) != GPUS:
            return None
        return frozenset(uuid for uuid, shared in gpus.items() if not shared.health.healthy)


def run(driver: FakeDriver, states: int, seed: int) -> Outcome:
    """Judges so many states."""
    with ExitStack() as stack:
        node = Node(driver, random.Random(seed), stack)
        plugin, blame, ours = Plugin(), Blame(), psutil.Process()
        wrong, ended = list[str](), Counter[str]()
        _settled(plugin, node, State(), frozenset())
        early = cost_of(ours)
        for number in range(states):
            started = node.tasks.start_ended()
            state = node.change()
            must, may = blame.enter(state, started)
            if not _settled(plugin, node, state, must):
                told = sorted(plugin.sick() or ())
                spared = sorted(must - node.tasks.ended())
                wrong.append(
                    f"state {number}: sick are {told} instead of {sorted(state.sick)}, and of"
                    f" {spared} the tasks still run"
                )
            gone = node.tasks.ended()
            if innocent := gone - may:
                wrong.append(f"state {number}: tasks of {sorted(innocent)} were ended")
            ended["of a grave GPU"] += len(gone & state.grave)
            ended["greedy"] += len((gone & state.greedy) - state.sick)
            if number == states // 5:
                early = cost_of(ours)
            if sys.stdout.isatty():
                _say(f"\r{number + 1} of {states} states, {len(wrong)} wrong")
        return Outcome(states, node.faults, ended, wrong, early, cost_of(ours))


def _settled(plugin: Plugin, node: Node, state: State, must: frozenset[str]) -> bool:
    """Waits until the truth is told, and goes on being told, and who must end has."""
    until, since = time.monotonic() + PATIENCE_S, None
    while time.monotonic() < until:
        plugin.watch.check_workers()
        now = time.monotonic()
        right = plugin.sick() == state.sick and must <= node.tasks.ended()
        since = (since or now) if right else None
        if since is not None and now - since >= HOLD_S:
            return True
        time.sleep(0.02)  # between two looks at what other threads say
    return False


def cost_of(process: psutil.Process) -> Cost:
    """What it has now."""
    times = process.cpu_times()
    return Cost(
        process.memory_info().rss // 1024,
        process.num_threads(),
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
    this_run.join()
    wanted, chosen = int(sys.argv[1]), int(sys.argv[2])
    began = datetime.now(tz=timezone.utc)
    outcome = run(FakeDriver(Path(sys.argv[3]), Path(sys.argv[4]), "h100x8"), wanted, chosen)
    passed = (datetime.now(tz=timezone.utc) - began).total_seconds()
    _say(
        f"\n{outcome.states} states judged in {passed:.0f} s, seed {chosen}\n"
        f"faults injected: {dict(outcome.faults)}\n"
        f"tasks ended: {dict(outcome.ended)}\n"
        f"before: {outcome.early}\nafter:  {outcome.late}\n"
    )
    _say(
        "\n".join(outcome.wrong) or "none wrong, no task of an innocent GPU ended, all of bad ones"
    )
    os._exit(bool(outcome.wrong))  # a thread may still hang in the driver
