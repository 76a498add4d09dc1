# SPDX-License-Identifier: MPL-2.0
"""Containers whose processes the driver says use a GPU: whose they are, and what is done to them."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import psutil
import pytest

from e2e.agent import Agent
from e2e.api import granted_ids
from e2e.conftest import GpuMachine, StartAgent, plugin_block
from e2e.docker_host import DockerHost, device_files
from e2e.docker_jobs import STAY, docker_job, docker_plugin
from e2e.jobs import END_OF_ENVIRONMENT, constraint, device
from e2e.waiting import wait_until

pytestmark = pytest.mark.nomad

A100 = "NVIDIA A100-SXM4-40GB"
VGPUS = 4
BUDGET_MIB = 40960 // VGPUS
FAR_TOO_MUCH_MIB = 3 * BUDGET_MIB
IGNORES_SIGTERM = STAY.replace("trap exit TERM; sleep 3600 & wait", "exec sleep 3600")
"""The first process of a container has no default for signals."""
KILLED = 137


class Node(NamedTuple):
    """An agent over GPU 1 alone, whose processes a test chooses."""

    agent: Agent
    docker: DockerHost
    machine: GpuMachine

    def use(self, mib: dict[int, int]) -> None:
        """Lets the driver list these processes on GPU 1 with their MiB."""
        listed = " ".join(f"{pid}:{used}" for pid, used in mib.items())
        self.machine.driver.set("gpu 1", "compute_processes", listed)

    def used_mib(self) -> dict[str, int | None]:
        """What each vGPU shows of its memory."""
        groups = self.agent.api.device_stats(self.agent.api.node())
        return {
            vgpu: stats["Summary"].get("IntNumeratorVal")
            for group in groups
            for vgpu, stats in group["InstanceStats"].items()
        }

    def run(self, name: str, script: str = STAY) -> "Container":
        """Starts a task with one vGPU, once its container runs."""
        self.agent.api.submit(docker_job(name, device(), script))
        (allocation,) = self.agent.api.wait_for(name, "running")
        (vgpu,) = granted_ids(allocation)
        return Container(name, allocation, vgpu, psutil.Process(self.docker.pid(allocation)))


class Container(NamedTuple):
    """A task's."""

    job: str
    allocation: dict[str, Any]
    vgpu: str
    process: psutil.Process


def _config(machine: GpuMachine, *options: str) -> str:
    others = ", ".join(f'"{machine.uuid(s)}"' for s in ("gpu 2", "mig 0.0", "mig 0.2"))
    return plugin_block("\n ".join((f"vgpus = {VGPUS}", f"ignored_gpu_ids = [{others}]", *options)))


@pytest.fixture
def node(
    gpu_machine: GpuMachine, docker_host: DockerHost, start_agent: StartAgent
) -> Iterator[Node]:
    """One agent with all that acts on tasks; it keeps its state over a restart."""
    config = _config(
        gpu_machine,
        'fingerprint_period = "1s"',
        'memory_guard {\n action = "kill"\n grace = "1s"\n }',
    )
    agent = start_agent(
        config + docker_plugin(docker_host.socket),
        environment=gpu_machine.driver.environment(),
        dev=False,
    )
    agent.api.wait_for_groups()
    yield Node(agent, docker_host, gpu_machine)
    gpu_machine.driver.clear("gpu 1", "compute_processes")


def test_a_container_is_known_by_its_cgroup_and_ended_alone(node: Node) -> None:
    """What it uses shows on its vGPU; the one that takes too much is killed, its neighbour lives."""
    greedy, modest = node.run("greedy", IGNORES_SIGTERM), node.run("modest")
    node.use({greedy.process.pid: 100, modest.process.pid: BUDGET_MIB})
    expected = {greedy.vgpu: 100, modest.vgpu: BUDGET_MIB}
    wait_until(
        "the vGPUs show what their containers use",
        lambda: expected.items() <= node.used_mib().items(),
        seen=node.used_mib,
    )
    node.use({greedy.process.pid: FAR_TOO_MUCH_MIB, modest.process.pid: BUDGET_MIB})
    wait_until("the greedy one is gone", lambda: not greedy.process.is_running())
    node.use({modest.process.pid: BUDGET_MIB})

    def exit_code() -> int | None:
        (allocation,) = node.agent.api.allocations("greedy")
        events = allocation["TaskStates"]["main"]["Events"]
        return next((e["ExitCode"] for e in events if e["Type"] == "Terminated"), None)

    assert wait_until("Nomad sees it end", exit_code) == KILLED
    line = rf"ending pid {greedy.process.pid} of {greedy.allocation['ID']}/main"
    assert re.search(line, node.agent.log)
    assert modest.process.is_running()


def test_containers_outlive_agent_and_plugin(node: Node) -> None:
    """They run on, are attributed as before, and their vGPUs are not given out again."""
    first, second = node.run("first"), node.run("second")
    node.use({first.process.pid: 100, second.process.pid: 200})
    expected = {first.vgpu: 100, second.vgpu: 200}

    def attributed() -> bool:
        return expected.items() <= node.used_mib().items()

    node.agent.kill()
    node.agent.start()
    wait_until("they are attributed after a crash of the agent", attributed, seen=node.used_mib)
    before = node.agent.the_plugin()
    before.kill()
    wait_until(
        "another plugin runs",
        lambda: node.agent.the_plugin().pid != before.pid,
    )
    wait_until("they are attributed after one of the plugin", attributed, seen=node.used_mib)
    third = node.run("third")
    assert third.vgpu not in expected
    for container in (first, second):
        assert container.process.is_running()
        (allocation,) = node.agent.api.wait_for(container.job, "running")
        assert allocation["TaskStates"]["main"]["Restarts"] == 0


@pytest.fixture
def cdi_node(
    gpu_machine: GpuMachine,
    docker_host: DockerHost,
    start_agent: StartAgent,
    tmp_path_factory: pytest.TempPathFactory,
) -> Node:
    """Gives device files from the specification of `nvidia-ctk`, and has a host volume."""
    docker_host.generate_cdi()
    volume = tmp_path_factory.mktemp("volume")
    agent = start_agent(
        _config(gpu_machine, 'device_nodes = "cdi"', f'cdi_spec_dirs = ["{docker_host.cdi}"]')
        + f'client {{\n host_volume "data" {{\n path = "{volume}"\n }}\n}}\n'
        + docker_plugin(docker_host.socket),
        environment=gpu_machine.driver.environment(),
        dev=False,
    )
    agent.api.wait_for_groups()
    return Node(agent, docker_host, gpu_machine)


def test_nomads_bugs_with_mounts_and_device_files(cdi_node: Node) -> None:
    """A volume is lost beside them; they are lost when first the agent restarts and then the task.

    A failure is good news: Nomad has fixed one, and docs/containers.md can say since when.
    """
    agent, docker = cdi_node.agent, cdi_node.docker
    look = f"[ -d /vol ] && echo volume; [ -e /usr/lib/x86_64-linux-gnu/libcuda.so.1 ] || ls /usr; {STAY}"
    group = 'volume "data" {\n type = "host"\n source = "data"\n }'
    task = 'volume_mount {\n volume = "data"\n destination = "/vol"\n }'
    found = {}
    for name, block in (("plain", ""), ("gpu", device())):
        agent.api.submit(docker_job(name, block, look, group=group, task=task))
        (allocation,) = agent.api.wait_for(name, "running")
        found[name] = docker.output(allocation, END_OF_ENVIRONMENT)
    assert "volume" in found["plain"].splitlines()
    assert "volume" not in found["gpu"].splitlines()
    assert device_files(found["gpu"]) == {"/dev/nvidia1"}

    agent.stop()
    agent.start()
    (allocation,) = agent.api.wait_for("gpu", "running")
    done = agent.cli("alloc", "restart", str(allocation["ID"]))
    assert done.returncode == 0, done.stderr
    again = wait_until("the task runs again", lambda: _restarted(agent, "gpu"))
    second = docker.output(again, END_OF_ENVIRONMENT)
    assert f"CUDA_VISIBLE_DEVICES={cdi_node.machine.uuid('gpu 1')}" in second.splitlines()
    assert device_files(second) == set()


def _restarted(agent: Agent, job: str) -> dict[str, Any] | None:
    (allocation,) = agent.api.allocations(job)
    state = allocation["TaskStates"]["main"]
    return allocation if state["State"] == "running" and state["Restarts"] == 1 else None


def test_a_container_opens_what_its_reservation_brings(cdi_node: Node) -> None:
    """By device files of the specification on plain runc: its GPU may be opened, and libcuda is there."""
    tries = "cat /dev/nvidia1 2>&1; ls /usr/local/nvidia/lib64 2>&1"
    cdi_node.agent.api.submit(
        docker_job("opens", device(constraint("device.model", "=", A100)), f"{tries}; {STAY}")
    )
    (allocation,) = cdi_node.agent.api.wait_for("opens", "running")
    output = cdi_node.docker.output(allocation, END_OF_ENVIRONMENT)
    assert "No such device" in output
    assert "libcuda.so.1" in output
    assert "NVIDIA_VGPU_IDS=" + granted_ids(allocation)[0] in output
