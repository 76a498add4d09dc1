# SPDX-License-Identifier: MPL-2.0
"""A node whose GPUs are divided or grouped otherwise while tasks of the old division run."""

import uuid
from pathlib import Path

import pytest
from libnvidia_ml.driver import FakeDriver

from e2e.agent import Agent
from e2e.api import granted_ids
from e2e.conftest import T4, StartAgent, plugin_block
from e2e.jobs import device, staying_job
from e2e.waiting import wait_until

pytestmark = pytest.mark.nomad

MEMORY_MIB = 15360
QUICK = 'fingerprint_period = "1s"'


@pytest.fixture
def driver(nvml: Path, tmp_path: Path) -> FakeDriver:
    """A machine with one T4 whose UUID no other test has: tasks are known by it."""
    node = FakeDriver(nvml, tmp_path, "t4_old")
    node.set("gpu 0", "uuid", f"GPU-{uuid.uuid4()}")
    node.set("gpu 0", "memory_total_mib", MEMORY_MIB)
    return node


def start_tasks(agent: Agent, count: int, prefix: str = "old") -> dict[int, str]:
    """Starts tasks of one vGPU each, in jobs of their own; gives the jobs by number of the vGPU."""
    jobs = [agent.api.submit(staying_job(f"{prefix}-{n}", device())) for n in range(count)]
    return {number_of(agent, job): job for job in jobs}


def number_of(agent: Agent, job: str) -> int:
    """The number of the one vGPU of a job's one task, once it runs."""
    (allocation,) = agent.api.wait_for(job, "running")
    (vgpu,) = granted_ids(allocation)
    return int(vgpu.rpartition("-")[2])


def promised_mib(agent: Agent) -> int:
    """The memory that all running tasks were promised, by their own environments."""
    running = [
        a for a in agent.api.client.allocations.get_allocations() if a["ClientStatus"] == "running"
    ]
    return sum(int(agent.api.environment(a)["NVIDIA_VGPU_MEMORY_MIB"]) for a in running)


def healthy(agent: Agent) -> set[int]:
    """The numbers of the vGPUs that the node offers."""
    groups = agent.api.device_groups().values()
    return {int(i.rpartition("-")[2]) for g in groups for i, well in g.healthy.items() if well}


def test_nomad_forgets_ids_that_are_no_longer_published(start_agent: StartAgent) -> None:
    """What Nomad does if left alone, as with simulated GPUs: it gives the GPU away twice.

    Its scheduler counts an id only while the node publishes it, under the same group.
    """
    simulated = 'simulate = ["t4"]'
    agent = start_agent(plugin_block(f"vgpus = 4\n {simulated}"), dev=False)
    old = start_tasks(agent, 4)
    agent.restart_with(plugin_block(f"vgpus = 2\n {simulated}"))
    agent.api.stop([old[0], old[1]])
    start_tasks(agent, 2, "new")
    assert promised_mib(agent) == MEMORY_MIB * 3 // 2


def test_fewer_vgpus_are_not_given_away_over_tasks_that_run(
    driver: FakeDriver, start_agent: StartAgent
) -> None:
    """After `vgpus` was lowered, what old tasks hold is withheld until they have ended."""
    environment = driver.environment()
    agent = start_agent(plugin_block(f"vgpus = 4\n {QUICK}"), environment=environment, dev=False)
    old = start_tasks(agent, 4)
    agent.restart_with(plugin_block(f"vgpus = 2\n {QUICK}"))
    # A node is ready for a moment before its devices are known.
    wait_until("nothing is offered", lambda: agent.api.device_groups() and not healthy(agent))
    (group,) = agent.api.device_groups().values()
    assert {text[:14] for text in group.descriptions.values()} == {"held for tasks"}

    # Two quarters are left of the old tasks: one half may be given away, and no more.
    agent.api.stop([old[0], old[1]])
    wait_until("one vGPU is offered", lambda: len(healthy(agent)) == 1)
    first = agent.api.submit(staying_job("new-0", device()))
    agent.api.wait_for(first, "running")
    second = agent.api.submit(staying_job("new-1", device()))
    agent.api.wait_until_blocked(second)
    assert promised_mib(agent) == MEMORY_MIB

    agent.api.stop([old[2], old[3]])
    agent.api.wait_for(second, "running", timeout_s=120)
    wait_until("both are offered", lambda: healthy(agent) == {0, 1})
    assert promised_mib(agent) == MEMORY_MIB


def test_more_vgpus_in_another_group_leave_old_tasks_their_share(
    driver: FakeDriver, start_agent: StartAgent
) -> None:
    """After `vgpus` was raised and the group renamed, an old task keeps what it was promised."""
    environment = driver.environment()
    agent = start_agent(plugin_block(f"vgpus = 2\n {QUICK}"), environment=environment, dev=False)
    ((number, old),) = start_tasks(agent, 1).items()
    agent.restart_with(plugin_block(f'vgpus = 4\n group_by = "gpu"\n {QUICK}'))
    name = f"{T4}/{driver.get('gpu 0', 'uuid')}"
    wait_until("the group is renamed", lambda: list(agent.api.device_groups()) == [name])
    offered = healthy(agent)
    assert len(offered) == 2
    assert number not in offered
    new = start_tasks(agent, 2, "new")
    assert new.keys() == offered
    waiting = agent.api.submit(staying_job("waits", device()))
    agent.api.wait_until_blocked(waiting)
    assert promised_mib(agent) == MEMORY_MIB
    agent.api.stop([old])
    agent.api.wait_for(waiting, "running", timeout_s=120)


def test_an_agent_that_restarts_unchanged_withholds_nothing(
    driver: FakeDriver, start_agent: StartAgent
) -> None:
    """Nomad counts the tasks of the present division itself."""
    config = plugin_block(f"vgpus = 3\n {QUICK}")
    agent = start_agent(config, environment=driver.environment(), dev=False)
    old = start_tasks(agent, 2)
    agent.restart_with(config)
    wait_until("all are offered", lambda: healthy(agent) == {0, 1, 2})
    (left,) = start_tasks(agent, 1, "new")
    assert {left} | old.keys() == {0, 1, 2}
