# SPDX-License-Identifier: MPL-2.0
"""SIGKILL to the plugin, and SIGKILL to the agent: tasks run on, and new ones can be placed."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import this_run

from e2e.agent import Agent
from e2e.cluster import CLIENT, LOOPBACK, SERVER
from e2e.conftest import StartAgent, every_nomad, plugin_block, stay
from e2e.jobs import device, printing_job
from e2e.waiting import wait_until

pytestmark = [pytest.mark.nomad, every_nomad]

CONFIG = plugin_block('vgpus = 4\n simulate = ["t4"]')


def _assert_places(agent: Agent, name: str) -> None:
    job = agent.api.submit(printing_job(name, device()))
    (allocation,) = agent.api.wait_for(job, "complete")
    assert agent.api.environment(allocation)["NVIDIA_VISIBLE_DEVICES"].startswith("GPU-")


def test_a_killed_plugin_comes_back(start_agent: StartAgent) -> None:
    """Nomad starts a killed plugin again; the task keeps its process and a new task is placed."""
    agent = start_agent(CONFIG)
    task = stay(agent)
    before = agent.the_plugin()
    before.kill()
    wait_until("another plugin process runs", lambda: agent.the_plugin().pid != before.pid)
    _assert_places(agent, "after-the-plugin")
    task.assert_untouched()
    groups = agent.api.wait_for_groups()
    assert [len(g.healthy) for g in groups.values()] == [4]
    # Nomad still shows those of the plugin that died.
    known = _taken_at(agent)
    wait_until("figures flow again", lambda: _taken_at(agent) - known)


def _taken_at(agent: Agent) -> set[str]:
    """When the figures that Nomad shows were taken."""
    groups = agent.api.device_stats(agent.api.node())
    return {vgpu["Timestamp"] for group in groups for vgpu in group["InstanceStats"].values()}


@pytest.fixture
def server(nomad: Path) -> Iterator[Agent]:
    """A server alone: Nomad 1.1 forgets its allocations where client and server start again as one."""
    with closing(
        Agent(nomad, this_run.new_folder("s"), "", dev=False, roles=LOOPBACK + SERVER)
    ) as made:
        made.launch()
        wait_until("the server has a leader", made.api.answers, seen=made.log_tail)
        yield made


@pytest.fixture
def client(server: Agent, nomad: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """Its one client."""
    roles = LOOPBACK + CLIENT.format(name="client", server_rpc=server.ports.rpc)
    root = this_run.new_folder("c")
    with closing(Agent(nomad, root, CONFIG, dev=False, roles=roles)) as made:
        made.start()
        yield made


def test_a_killed_agent_finds_its_task_again(client: Agent) -> None:
    """A killed agent starts again: its task ran on, a new one is placed, one plugin is left."""
    agent = client
    task = stay(agent)
    orphan = agent.the_plugin()
    agent.kill()
    assert orphan.is_running()

    agent.start()
    wait_until("the orphan is gone", lambda: not orphan.is_running())
    assert agent.the_plugin().ppid() == agent.pid
    task.assert_untouched()
    _assert_places(agent, "after-the-agent")
    assert len(agent.plugin_processes()) == 1
