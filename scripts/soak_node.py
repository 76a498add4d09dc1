# SPDX-License-Identifier: MPL-2.0
"""A real Nomad agent, its plugin and its MPS daemons, ended and frozen in random order beside five tasks.

GPUs and MPS are the fakes of the tests. The tasks are jobs of Nomad on the first GPU, clients of its
MPS server, and must live; on the second GPU each round places a task of its own. After each round the
truth is read from Nomad and from the processes. Run by `scripts/soak_rounds.py`. Needs root.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil
import this_run
from contract.hostile import crowd
from e2e import binaries
from e2e.agent import Agent
from e2e.api import DeviceGroup, FailedAllocationError
from e2e.conftest import plugin_block
from e2e.jobs import device, running_job
from e2e.waiting import NotInTimeError, wait_until
from libnvidia_ml.driver import FakeDriver, build
from mps_control.control import FakeMps, install

from scripts.soak_table import Table

VGPUS = 8
TASKS = 5
HOSTILE = 50
MOST_MIB = 64
SETTLED_S = 120.0
LONGEST_FREEZE_S = 3.0
BUSY, IDLE = "GPU-busy", "GPU-idle"
OPTIONS = f"""
vgpus = {VGPUS}
sharing = "mps"
group_by = "gpu"
fingerprint_period = "1s"
memory_guard {{
  action = "kill"
  grace = "0s"
  tolerance_percent = 0
}}
health {{
  end_tasks = true
  recovery_period = "1s"
}}
mps {{
  root = "%s"
}}
"""
FAULTS = (
    ("plugin", "SIGTERM"),
    ("plugin", "SIGKILL"),
    ("plugin", "SIGSTOP"),
    ("agent", "SIGTERM"),
    ("agent", "SIGKILL"),
    ("agent", "SIGSTOP"),
    ("idle daemon", "SIGTERM"),
    ("idle daemon", "SIGKILL"),
    ("idle daemon", "SIGSTOP"),
    ("busy daemon", "SIGSTOP"),
)
LAST_FAULT = ("busy daemon", "SIGKILL")
"""Once only, after three quarters of the rounds: the GPU stays unhealthy for as long as its tasks live."""

_T = TypeVar("_T")


class Met(NamedTuple):
    """A job of Nomad whose one task is a client of MPS."""

    job: str
    process: psutil.Process
    server: int
    memory_mib: int


class Node:
    """The agent, what it runs on, and the five tasks."""

    def __init__(self, agent: Agent, driver: FakeDriver, mps: FakeMps, root: Path) -> None:
        """No task yet; `root` is that of the MPS daemons."""
        self.agent = agent
        self.driver = driver
        self.mps = mps
        self.root = root
        self.tasks: list[Met] = []
        self._tries = 0
        self.severed = False
        """Whether the daemon of the busy GPU was killed, so that its server is without one."""

    def daemon(self, uuid: str) -> int | None:
        """The pid of this GPU's daemon, if there is exactly one."""
        found = self.mps.daemons(self.root / uuid / "pipe")
        return found[0].pid if len(found) == 1 else None

    def start_task(self, name: str, uuid: str) -> Met:
        """A task with one vGPU of this GPU, once it has met its server."""
        model = self.driver.get("gpu 0", "name")
        block = device(name=f"letmutx/gpu/{model}/{uuid}")
        job = self.agent.api.submit(running_job(name, block, f"{self.mps.client} --hold"))
        (allocation,) = self.agent.api.wait_for(job, "running", timeout_s=SETTLED_S)
        said = self.agent.api.output(allocation, '"percentage"').splitlines()
        facts = json.loads(next(line for line in said if line.startswith("{")))
        return Met(job, psutil.Process(facts["pid"]), facts["server"], facts["memory_mib"])

    def tried_task(self, name: str) -> Met | None:
        """A task on the idle GPU; None if it was refused.

        Nomad may not have heard yet that the daemon had ended, and a job without a `reschedule` block
        fails for good then.
        """
        self._tries += 1
        job = f"{name}-{self._tries}"
        try:
            return self.start_task(job, IDLE)
        except FailedAllocationError:
            self.agent.api.stop([job])
            return None

    def start_tasks(self) -> None:
        """The five, which use a little of the busy GPU."""
        self.tasks = [self.start_task(f"task-{number}", BUSY) for number in range(TASKS)]
        listed = " ".join(f"{task.process.pid}:100" for task in self.tasks)
        self.driver.set("gpu 0", "compute_processes", listed)

    def unhealthy(self) -> dict[str, str]:
        """What is said of each vGPU that is not healthy, or not there at all."""
        groups: list[DeviceGroup] = list(self.agent.api.device_groups().values())
        said = {i: g.descriptions[i] for g in groups for i, ok in g.healthy.items() if not ok}
        wanted = {f"{uuid}-{number}" for uuid in (BUSY, IDLE) for number in range(VGPUS)}
        return said | dict.fromkeys(wanted - {i for g in groups for i in g.healthy}, "missing")

    def as_it_should_be(self) -> bool:
        """Whether each GPU is offered, or refused, as its daemon deserves."""
        with suppress(Exception):  # the agent may not answer yet
            said = self.unhealthy()
            if self.severed:
                busy = [text for vgpu, text in said.items() if vgpu.startswith(BUSY)]
                right = len(said) == len(busy) == VGPUS
                return right and all("MPS daemon has died" in text for text in busy)
            return not said and self.daemon(BUSY) is not None
        return False


def _held(table: Table, promise: str, look: Callable[[], _T | None]) -> _T | None:
    """Counts whether this comes true in time, and gives what it is then."""
    try:
        found = wait_until(promise, look, SETTLED_S)
    except NotInTimeError as error:
        print(f"broken: {error}")
        found = None
    table.check(promise, held=found is not None)
    return found


def _plugin_of(agent: Agent) -> psutil.Process | None:
    """The only plugin process, if it is the child of the agent that runs."""
    with suppress(psutil.Error):
        found = agent.plugin_processes()
        if len(found) == 1 and found[0].ppid() == agent.pid:
            return found[0]
    return None


def _freeze(pid: int, dice: random.Random) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(dice.uniform(0.05, LONGEST_FREEZE_S))  # the fault itself: for so long nobody answers
    os.kill(pid, signal.SIGCONT)


def strike(node: Node, subject: str, how: str, dice: random.Random, table: Table) -> None:
    """Does this to one of the programs, and waits until it runs again."""
    agent = node.agent
    if subject == "agent" and how != "SIGSTOP":
        agent.stop() if how == "SIGTERM" else agent.kill()
        alive = all(task.process.is_running() for task in node.tasks)
        table.check("the five tasks live while no agent runs", alive)
        agent.start()
        return
    gpu = BUSY if subject == "busy daemon" else IDLE
    pid = {"agent": agent.pid, "plugin": agent.the_plugin().pid}.get(subject) or node.daemon(gpu)
    assert pid is not None, f"there is no {subject}"
    if how == "SIGSTOP":
        _freeze(pid, dice)
        return
    os.kill(pid, signal.Signals[how])
    if subject == "busy daemon":
        node.severed = True
    elif subject == "plugin":
        _held(
            table,
            "the agent starts a plugin that has ended",
            lambda: (now := _plugin_of(agent)) is not None and now.pid != pid,
        )
    else:
        _held(
            table,
            "the plugin starts a daemon that has ended",
            lambda: node.daemon(gpu) not in (None, pid),
        )


def check(node: Node, number: int, table: Table) -> None:
    """Waits until all has settled, and compares it with what was promised."""
    _held(table, "one plugin runs, of the agent that runs", lambda: _plugin_of(node.agent))
    _held(
        table,
        "every GPU is offered, unless tasks use a server without daemon",
        node.as_it_should_be,
    )
    fresh = _held(table, "a new task runs", lambda: node.tried_task(f"round-{number}"))
    if fresh is not None:
        total = int(node.driver.get("gpu 1", "memory_total_mib") or 0)
        table.check("a new task gets its share", fresh.memory_mib == total // VGPUS)
        node.agent.api.stop([fresh.job])
    running = [task.process.is_running() for task in node.tasks]
    table.check("the five tasks live", all(running))
    states = [
        a["TaskStates"]["main"] for t in node.tasks for a in node.agent.api.allocations(t.job)
    ]
    once = len(states) == TASKS and all(
        s["State"] == "running" and not s["Restarts"] for s in states
    )
    table.check("Nomad has started each of them once", once)
    servers = {server.pid for server in node.mps.servers()}
    table.check("the server of the five tasks lives", {t.server for t in node.tasks} <= servers)
    size = sum(p.memory_info().rss for p in node.agent.plugin_processes()) >> 20
    table.check(f"the plugin is no larger than {MOST_MIB} MiB", size <= MOST_MIB)


def soak_node(rounds: int, seconds: float, seed: int, table: Table) -> int:
    """Counts into `table`; the number of rounds, which is smaller if `seconds` are over before."""
    dice = random.Random(seed)
    with ExitStack() as stack:
        place = this_run.new_folder("n")
        driver = FakeDriver(build(place / "lib"), place, "h100x8")
        for index in range(2, 8):
            driver.remove_section(f"gpu {index}")
        for index, uuid in enumerate((BUSY, IDLE)):
            driver.set(f"gpu {index}", "uuid", uuid)
        mps = install(place / "bin")
        stack.callback(mps.stop_all)
        mps.follow_compute_modes(driver.modes_path)
        root = this_run.short_folder() / "mps"
        environment = {**driver.environment(), **mps.environment()}
        environment.pop("FAKE_NVML_CALLS", None)
        agent = Agent(
            binaries.nomad(),
            this_run.new_folder("a"),
            plugin_block(OPTIONS % root),
            environment=environment,
            dev=False,
        )
        stack.enter_context(closing(agent))
        agent.start()
        node = Node(agent, driver, mps, root)
        agent.api.wait_for_groups(2)
        wait_until(
            "both GPUs are offered", node.as_it_should_be, seen=lambda: str(node.unhealthy())
        )
        node.start_tasks()
        stack.enter_context(crowd(HOSTILE, [BUSY, IDLE]))
        began = time.monotonic()
        for number in range(rounds):
            spent = max(number / rounds, (time.monotonic() - began) / seconds)
            if spent >= 1:
                return number
            faults = [fault for fault in FAULTS if not (node.severed and fault[0] == "busy daemon")]
            fault = LAST_FAULT if spent > 3 / 4 and not node.severed else dice.choice(faults)
            print(f"round {number + 1}: {' '.join(fault)}", flush=True)
            try:
                strike(node, *fault, dice, table)
                check(node, number, table)
            except Exception:  # noqa: BLE001  whatever it is, the table is to be seen
                traceback.print_exc()
                table.check("a round comes to its end", held=False)
                return number + 1
            table.check("a round comes to its end", held=True)
    return rounds
