# SPDX-License-Identifier: MPL-2.0
"""Jobs that spread over the GPUs of a node, or pack them, by what the plugin publishes of its load."""

import re
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from libnvidia_ml.driver import FakeDriver

from e2e import binaries
from e2e.agent import Agent
from e2e.api import granted_ids
from e2e.conftest import StartAgent, every_nomad, plugin_block
from e2e.waiting import wait_until

pytestmark = [pytest.mark.nomad, every_nomad, pytest.mark.timeout(900)]

GPUS = 8
VGPUS = 4
EXAMPLES = binaries.REPOSITORY / "examples"


@pytest.fixture
def agent(nvml: Path, tmp_path: Path, start_agent: StartAgent) -> Agent:
    """A node of eight GPUs, each its own group, that publishes its load once a second at most."""
    node = FakeDriver(nvml, tmp_path, "h100x8")
    for number in range(GPUS):  # what tasks have is known by the UUID
        node.set(f"gpu {number}", "uuid", f"GPU-{uuid.uuid4()}")
    options = f'vgpus = {VGPUS}\n group_by = "gpu"\n publish_load = true'
    started = start_agent(
        plugin_block(f'{options}\n publish_load_interval = "1s"'), environment=node.environment()
    )
    started.api.wait_for_groups(GPUS)
    return started


def free(agent: Agent) -> list[int]:
    """How many vGPUs each GPU says are free."""
    groups = agent.api.device_groups().values()
    return sorted(int(group.attributes["unique.free_vgpus"][0]) for group in groups)


def wait_for_free(agent: Agent, count: int) -> None:
    """Waits until the servers know that so many vGPUs are free."""
    what = f"{count} vGPUs are free"
    wait_until(what, lambda: sum(free(agent)) == count, seen=lambda: str(free(agent)))


def submitted(agent: Agent, example: str, count: int) -> list[str]:
    """Places so many copies of an example's job, each when the load of the one before is known."""
    text = (EXAMPLES / f"{example}.nomad.hcl").read_text()
    jobs = []
    for number in range(count):
        named = re.sub(rf'job "{example}"', f'job "{example}-{number}"', text)
        jobs.append(agent.api.submit(named))
        agent.api.wait_for(jobs[-1], "running")
        wait_for_free(agent, GPUS * VGPUS - number - 1)
    return jobs


def by_gpu(agent: Agent, jobs: list[str]) -> list[int]:
    """How many tasks the GPUs that have any have."""
    allocations: list[dict[str, Any]] = [a for job in jobs for a in agent.api.allocations(job)]
    held = [vgpu.rpartition("-")[0] for a in allocations for vgpu in granted_ids(a, "worker")]
    return sorted(Counter(held).values())


@pytest.mark.parametrize(("example", "tasks"), [("spread", [1] * 8), ("pack", [4, 4])])
def test_eight_tasks(agent: Agent, example: str, tasks: list[int]) -> None:
    """One on each of eight GPUs, or on the fewest that hold them; and free again when they end."""
    computed_class = agent.api.node()["ComputedClass"]
    jobs = submitted(agent, example, 8)
    assert by_gpu(agent, jobs) == tasks
    memory = {
        group.attributes["unique.free_memory"][0] / group.attributes["unique.free_vgpus"][0]
        for group in agent.api.device_groups().values()
        if group.attributes["unique.free_vgpus"][0]
    }
    assert len({round(share) for share in memory}) == 1
    assert agent.api.node()["ComputedClass"] == computed_class
    agent.api.stop(jobs)
    wait_for_free(agent, GPUS * VGPUS)
