# SPDX-License-Identifier: MPL-2.0
"""Sharing by MPS in real Nomad: tasks and their limits, over restarts of plugin and agent.

GPU and MPS are fakes, and so is what the tasks run: it meets the daemon, and tells its limits.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from libnvidia_ml.driver import FakeDriver
from mps_control.control import FakeMps, install

from e2e.agent import Agent
from e2e.conftest import StartAgent, plugin_block
from e2e.jobs import PID, constraint, device, running_job
from e2e.waiting import wait_until

pytestmark = pytest.mark.nomad

VGPUS = 4
EXCLUSIVE = 3
ISOLATED = constraint("device.attr.memory_isolation", "=", "mps")


class Machine(NamedTuple):
    """One H100 and the tools to share it."""

    driver: FakeDriver
    mps: FakeMps
    root: Path

    @property
    def uuid(self) -> str:
        """The GPU's."""
        return str(self.driver.get("gpu 0", "uuid"))

    @property
    def memory_mib(self) -> int:
        """The GPU's."""
        return int(self.driver.get("gpu 0", "memory_total_mib") or 0)

    @property
    def pipe(self) -> Path:
        """Where its daemon is met."""
        return self.root / self.uuid / "pipe"

    def daemon(self) -> int:
        """The pid of its only daemon."""
        (found,) = self.mps.daemons(self.pipe)
        return found.pid

    def environment(self) -> dict[str, str]:
        """What puts an agent on this machine."""
        return {**self.driver.environment(), **self.mps.environment()}

    def config(self) -> str:
        """Shares the GPU by 4."""
        return plugin_block(
            f'vgpus = {VGPUS}\n sharing = "mps"\n fingerprint_period = "1s"\n'
            ' visible_devices_envs = ["NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"]\n'
            f' mps {{\n root = "{self.root}"\n max_vgpus_per_task = 3\n }}'
        )


@pytest.fixture
def machine(nvml: Path, tmp_path: Path, mps_root: Path) -> Iterator[Machine]:
    """That machine; nothing of its MPS is left afterwards.

    Tests ask for it before an agent, so that it goes after it: a plugin starts daemons again.
    """
    driver = FakeDriver(nvml, tmp_path, "h100x8")
    for index in range(1, 8):
        driver.remove_section(f"gpu {index}")
    mps = install(tmp_path / "bin")
    yield Machine(driver, mps, mps_root)
    mps.stop_all()


class Task(NamedTuple):
    """A job whose one task is a process on the GPU."""

    agent: Agent
    job: str
    process: psutil.Process
    facts: dict[str, Any]
    """What it met: `server`, `memory_mib`, `percentage`, `error`."""
    environment: dict[str, str]

    def assert_untouched(self) -> None:
        """It is the same process still, and Nomad sees no restart."""
        (allocation,) = self.agent.api.wait_for(self.job, "running")
        assert allocation["TaskStates"]["main"]["Restarts"] == 0
        assert self.process.is_running()


def _met(agent: Agent, allocation: dict[str, Any], starts: int = 1) -> list[dict[str, Any]]:
    """What the task met at each of its starts, once there are so many."""

    def look() -> list[dict[str, Any]] | None:
        lines = agent.api.output(allocation, '"percentage"').splitlines(keepends=True)
        # The last line may be half written still.
        said = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
        # One that loses its server says a second thing: the first counts.
        found = {facts["pid"]: facts for facts in reversed(said)}
        return [*reversed(found.values())] if len(found) >= starts else None

    return wait_until(f"the task has met its server {starts} times", look)


def run(agent: Agent, machine: Machine, name: str, vgpus: int, *, restarts: int = 0) -> Task:
    """Starts a task with so many vGPUs, once it has met its server."""
    block = device(ISOLATED, count=vgpus)
    program = f"{machine.mps.client} --hold"
    job = agent.api.submit(running_job(name, block, program, restarts=restarts))
    (allocation,) = agent.api.wait_for(job, "running")
    (facts,) = _met(agent, allocation)
    environment = agent.api.environment(allocation)
    return Task(agent, job, psutil.Process(int(environment[PID])), facts, environment)


def assert_share(machine: Machine, facts: dict[str, Any], vgpus: int) -> None:
    """It has met the server, and has vgpus/4 of all."""
    assert facts["error"] == 0
    assert facts["device"] == machine.uuid
    assert facts["memory_mib"] == machine.memory_mib * vgpus // VGPUS
    assert facts["percentage"] == 100 * vgpus // VGPUS


def test_tasks_are_held_to_what_they_were_granted(
    machine: Machine, start_agent: StartAgent
) -> None:
    """One vGPU and three, side by side on one server; a job can demand that it is so."""
    agent = start_agent(machine.config(), environment=machine.environment())
    small, large = run(agent, machine, "small", 1), run(agent, machine, "large", 3)
    assert_share(machine, small.facts, 1)
    assert_share(machine, large.facts, 3)
    assert small.facts["server"] == large.facts["server"]
    for task, vgpus in ((small, 1), (large, 3)):
        memory_mib = machine.memory_mib * vgpus // VGPUS
        assert task.environment["CUDA_MPS_PIPE_DIRECTORY"] == str(machine.pipe)
        assert task.environment["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == f"0={memory_mib}M"
        assert task.environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == str(25 * vgpus)
        assert task.environment["NVIDIA_VGPU_MEMORY_MIB"] == str(memory_mib)
    (group,) = agent.api.device_groups().values()
    assert group.attributes["sharing"] == ("mps", "")


def test_a_killed_plugin_takes_nothing_along(machine: Machine, start_agent: StartAgent) -> None:
    """Daemon, server and tasks stay; the next task meets the same server."""
    agent = start_agent(machine.config(), environment=machine.environment())
    task, daemon = run(agent, machine, "first", 1), machine.daemon()
    before = agent.the_plugin()
    before.kill()
    wait_until("another plugin process runs", lambda: agent.the_plugin().pid != before.pid)
    later = run(agent, machine, "later", 3)
    assert_share(machine, later.facts, 3)
    assert later.facts["server"] == task.facts["server"]
    assert machine.daemon() == daemon
    task.assert_untouched()


@pytest.mark.parametrize("crash", [True, False], ids=["crash", "stop"])
def test_a_task_that_restarts_after_its_agent_still_has_its_limits(
    machine: Machine, start_agent: StartAgent, *, crash: bool
) -> None:
    """Nomad restores its environment without asking us; it meets the same server as before."""
    agent = start_agent(machine.config(), environment=machine.environment(), dev=False)
    task, daemon = run(agent, machine, "task", 3), machine.daemon()
    if crash:
        agent.kill()
    else:
        agent.stop()
    assert task.process.is_running()
    assert machine.daemon() == daemon
    agent.start()
    task.assert_untouched()
    assert machine.daemon() == daemon

    (allocation,) = agent.api.wait_for(task.job, "running")
    done = agent.cli("alloc", "restart", allocation["ID"])
    assert done.returncode == 0, done.stderr
    (allocation,) = agent.api.wait_for(task.job, "running")
    _, again = _met(agent, allocation, starts=2)
    assert_share(machine, again, 3)
    assert again["server"] == task.facts["server"]
    assert again["pid"] != task.facts["pid"]
    assert machine.daemon() == daemon


def test_after_a_reboot_a_task_meets_its_server_again(
    machine: Machine, start_agent: StartAgent
) -> None:
    """Daemon, server, task and compute mode are gone; Nomad starts the task without asking us.

    It waits for the first fingerprint before that, and the daemon is there by then.
    """
    agent = start_agent(machine.config(), environment=machine.environment(), dev=False)
    task = run(agent, machine, "task", 1, restarts=1)
    agent.kill()
    wait_until("the plugin has ended", lambda: _end_plugins(agent))
    machine.mps.stop_all()
    shutil.rmtree(machine.root)
    machine.driver.reload_driver()
    machine.driver.set("driver", "slow.nvmlInitWithFlags", 1000)
    wait_until("the task is gone", lambda: not task.process.is_running())
    agent.start()
    (allocation,) = agent.api.wait_for(task.job, "running")
    _, again = _met(agent, allocation, starts=2)
    assert_share(machine, again, 1)
    assert [server.pid for server in machine.mps.servers()] == [again["server"]]
    assert machine.driver.compute_mode("gpu 0") == EXCLUSIVE


def _end_plugins(agent: Agent) -> bool:
    for process in agent.plugin_processes():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return not agent.plugin_processes()
