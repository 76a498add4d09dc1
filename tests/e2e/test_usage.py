# SPDX-License-Identifier: MPL-2.0
"""Real tasks that the driver says use a GPU: whose they are, what is shown, and what is done.

The kernel decides whether Nomad works with cgroup v1 or v2; the tests hold for both, and run with
the one that this machine has.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from libnvidia_ml.driver import FakeDriver

from e2e import binaries
from e2e.agent import Agent
from e2e.api import granted_ids
from e2e.conftest import StartAgent, every_nomad, plugin_block
from e2e.jobs import device, staying_job
from e2e.waiting import wait_until

pytestmark = pytest.mark.nomad

VGPUS = 4
MEMORY_MIB = 24564
BUDGET_MIB = MEMORY_MIB // VGPUS
FAR_TOO_MUCH_MIB = 3 * BUDGET_MIB
NO_CGROUPS = "enabled = true\n no_cgroups = true\n"

sure = pytest.mark.skipif(
    os.geteuid() != 0 or str(Path("/proc/self/ns/pid").readlink()) != "pid:[4026531836]",
    reason="only as root does Nomad make cgroups, and only the host's pids are those of the driver",
)

WARN, KILL = "warn", "kill"
"""What the guard does."""


class Node:
    """An agent over one GPU, whose processes a test chooses."""

    def __init__(self, agent: Agent, driver: FakeDriver) -> None:
        """Nobody uses the GPU."""
        self.agent = agent
        self.driver = driver
        self.use({})

    def use(self, mib: dict[int, int]) -> None:
        """Lets the driver list these processes with their MiB."""
        listed = " ".join(f"{pid}:{used}" for pid, used in mib.items())
        self.driver.set("gpu 0", "compute_processes", listed)

    def figures(self) -> dict[str, dict[str, tuple[int, int | None]]]:
        """What each vGPU shows of itself: numerator and denominator of each figure."""
        found: dict[str, dict[str, tuple[int, int | None]]] = {}
        for group in self.agent.api.device_stats(self.agent.api.node()):
            for vgpu, stats in group["InstanceStats"].items():
                figures: dict[str, Any] = {
                    **stats["Stats"]["Attributes"],
                    "summary": stats["Summary"],
                }
                found[vgpu] = {
                    name: (value.get("IntNumeratorVal"), value.get("IntDenominatorVal"))
                    for name, value in figures.items()
                }
        return found


class RunningTask:
    """The one task of a job, on the host."""

    def __init__(self, node: Node, name: str, driver: str = "raw_exec", as_if: str = "") -> None:
        """Starts it on one vGPU, and waits until it has done what it does before it stays."""
        job = node.agent.api.submit(staying_job(name, device(), driver=driver, as_if=as_if))
        (self.allocation,) = node.agent.api.wait_for(job, "running")
        (self.vgpu,) = granted_ids(self.allocation)
        self.job = job
        self.process = wait_until(f"{name} sleeps", self._sleeper)

    def _sleeper(self) -> psutil.Process | None:
        """Its process as the host numbers it: in an exec task it numbers itself otherwise."""
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("NOMAD_ALLOC_ID") == self.allocation["ID"]
                if ours and process.name() == "sleep":
                    return process
            except psutil.Error:
                continue
        return None


@pytest.fixture
def driver(nvml: Path, tmp_path: Path) -> FakeDriver:
    """A machine with one GPU."""
    made = FakeDriver(nvml, tmp_path, "t4_old")
    made.set("gpu 0", "memory_total_mib", MEMORY_MIB)
    return made


@pytest.fixture
def node(
    driver: FakeDriver, start_agent: StartAgent, request: pytest.FixtureRequest
) -> Iterator[Node]:
    """An agent on that machine, with the memory guard that a test asks for."""
    guard = f'memory_guard {{\n action = "{request.param}"\n grace = "1s"\n }}'
    block = plugin_block(f"vgpus = {VGPUS}\n    {guard}")
    made = Node(start_agent(block, environment=driver.environment()), driver)
    yield made
    made.agent.api.stop_all()


@pytest.mark.parametrize("node", [WARN], indirect=True)
@pytest.mark.parametrize("task_driver", ["raw_exec", "exec"])
def test_a_process_is_traced_to_its_allocation_and_vgpu(node: Node, task_driver: str) -> None:
    """What a task uses shows on its vGPU; using too much, it is named in the log and lives."""
    if task_driver == "exec" and not node.agent.api.node()["Drivers"]["exec"]["Healthy"]:
        pytest.skip("Nomad's exec driver is not healthy here: it needs root and cgroups")
    task = RunningTask(node, f"traced-{task_driver}", task_driver)
    node.use({task.process.pid: 100})
    expected = {"vGPU memory": (100, BUDGET_MIB), "vGPU processes": (1, None)}

    def shown() -> bool:
        figures = node.figures().get(task.vgpu, {})
        return {name: figures.get(name) for name in expected} == expected

    wait_until("the vGPU shows what its task uses", shown, seen=node.figures)
    figures = node.figures()
    assert figures[task.vgpu]["summary"] == (100, BUDGET_MIB)
    others = [own for vgpu, own in figures.items() if vgpu != task.vgpu]
    assert [own["summary"] for own in others] == [(0, BUDGET_MIB)] * (VGPUS - 1)

    node.use({task.process.pid: FAR_TOO_MUCH_MIB})
    allocation = task.allocation["ID"]
    line = (
        rf"\[WARN\].*task main of allocation {allocation} \(job [^)]+\) uses {FAR_TOO_MUCH_MIB} MiB"
    )
    wait_until("the log names the task", lambda: re.search(line, node.agent.log))
    assert task.process.is_running()


@sure
@every_nomad
@pytest.mark.parametrize("node", [KILL], indirect=True)
@pytest.mark.parametrize("task_driver", ["raw_exec", "exec"])
def test_a_task_that_takes_too_much_is_ended_and_its_neighbour_lives(
    node: Node, task_driver: str
) -> None:
    """Nomad sees the greedy task fail; the one beside it on the same GPU is not touched."""
    groups = node.agent.api.wait_for_groups()
    assert {g.attributes["memory_isolation"] for g in groups.values()} == {("guard", "")}
    greedy, modest = (RunningTask(node, name, task_driver) for name in ("greedy", "modest"))
    node.use({greedy.process.pid: FAR_TOO_MUCH_MIB, modest.process.pid: BUDGET_MIB})
    node.agent.api.wait_for(greedy.job, "failed")
    node.use({modest.process.pid: BUDGET_MIB})
    line = rf"ending pid {greedy.process.pid} of {greedy.allocation['ID']}/main"
    wait_until("the log says so", lambda: re.search(line, node.agent.log))
    assert modest.process.is_running()
    (allocation,) = node.agent.api.wait_for(modest.job, "running")
    assert allocation["TaskStates"]["main"]["Restarts"] == 0


@sure
@every_nomad
def test_overcommitted_tasks_are_promised_their_share_and_may_use_more(
    start_agent: StartAgent, driver: FakeDriver
) -> None:
    """Nomad sees share and limit; only when the GPU runs short the furthest above its share goes."""
    guard = 'memory_guard {\n action = "kill"\n grace = "1s"\n }'
    options = f"vgpus = {VGPUS}\n    memory_overcommit = 1.5\n    {guard}"
    agent = start_agent(plugin_block(options), environment=driver.environment())
    (group,) = agent.api.wait_for_groups().values()
    assert group.attributes["vgpu_memory"] == (BUDGET_MIB, "MiB")
    assert group.attributes["vgpu_memory_limit"] == (BUDGET_MIB * 3 // 2, "MiB")
    node = Node(agent, driver)
    greedy, modest = (RunningTask(node, name) for name in ("above", "within"))
    environment = agent.api.environment(greedy.allocation)
    assert environment["NVIDIA_VGPU_MEMORY_MIB"] == str(BUDGET_MIB)
    above = {greedy.process.pid: BUDGET_MIB + 2000, modest.process.pid: BUDGET_MIB}
    node.use(above)
    driver.forget_calls()
    looked = "nvmlDeviceGetComputeRunningProcesses_v3"
    wait_until("the guard looked several times", lambda: driver.calls()[looked] > 4)
    assert greedy.process.is_running()
    node.use({**above, os.getpid(): MEMORY_MIB - sum(above.values()) - 100})
    agent.api.wait_for(greedy.job, "failed")
    assert modest.process.is_running()
    agent.api.stop_all()


@sure
@pytest.mark.parametrize("node", [KILL], indirect=True)
def test_a_task_that_forges_its_neighbours_ids_gets_nobody_ended(node: Node) -> None:
    """Two tasks that claim one vGPU are both left alone, and the log says which they are."""
    honest = RunningTask(node, "honest")
    forger = RunningTask(node, "forger", as_if=f"NVIDIA_VGPU_IDS={honest.vgpu}")
    node.use({honest.process.pid: FAR_TOO_MUCH_MIB, forger.process.pid: FAR_TOO_MUCH_MIB})
    both = sorted(f"{task.allocation['ID']}/main" for task in (honest, forger))
    line = rf"{honest.vgpu}: claimed by {both[0]} and {both[1]} at once"
    wait_until("the log names both", lambda: re.search(line, node.agent.log))
    node.driver.forget_calls()
    looked = "nvmlDeviceGetComputeRunningProcesses_v3"
    wait_until("the guard looked several times", lambda: node.driver.calls()[looked] > 4)
    assert honest.process.is_running()
    assert forger.process.is_running()
    assert honest.vgpu not in {vgpu for vgpu, own in node.figures().items() if "vGPU memory" in own}


@sure
def test_without_cgroups_nobody_is_ended_and_doctor_says_why(
    start_agent: StartAgent, driver: FakeDriver
) -> None:
    """Nomad before 1.7 can be told to make none; a process is then known by its environment alone."""
    guard = 'vgpus = 4\n memory_guard {\n action = "kill"\n grace = "1s"\n }'
    agent = start_agent(plugin_block(guard), environment=driver.environment(), start=False)
    last = agent.configs[-1]  # which wins
    last.write_text(f'{last.read_text()}plugin "raw_exec" {{\n config {{\n {NO_CGROUPS} }}\n}}\n')
    if binaries.version_of(agent.binary) >= (1, 7):
        pytest.skip("Nomad from 1.7 on has no such option")
    agent.start()
    node = Node(agent, driver)
    task = RunningTask(node, "unproven")
    node.use({task.process.pid: FAR_TOO_MUCH_MIB})
    doubt = "no cgroup of a task proves whose processes these are"
    wait_until("the log says why", lambda: doubt in agent.log)
    assert task.process.is_running()
    said = subprocess.run(
        [binaries.plugin(), "doctor", "--json", *(f"--config={path}" for path in agent.configs)],
        env={**os.environ, **driver.environment()},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    (found,) = [
        finding for finding in json.loads(said)["findings"] if finding["check"] == "attribution"
    ]
    assert found["level"] == "warning"
    assert "leaves its tasks without a cgroup" in found["sentence"]
    agent.api.stop_all()
