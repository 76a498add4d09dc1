# SPDX-License-Identifier: MPL-2.0
"""`group_by = "gpu"`: all vGPUs of one request are of one GPU."""

import pytest

from e2e.api import granted_ids
from e2e.conftest import T4, StartAgent, plugin_block
from e2e.jobs import device, printing_job, staying_job

pytestmark = pytest.mark.nomad


def test_two_vgpus_come_from_one_gpu(start_agent: StartAgent) -> None:
    """With one group per GPU, `count = 2` never spans GPUs, until every pair is taken."""
    agent = start_agent(plugin_block('vgpus = 6\n simulate = ["t4:2"]\n group_by = "gpu"'))
    groups = agent.api.wait_for_groups(2)
    assert sorted(groups) == sorted(f"{T4}/{uuid}" for g in groups.values() for uuid in g.gpus)
    for name, group in groups.items():
        assert name == f"{T4}/{group.attributes['gpu_uuid'][0]}"

    # Six pairs fill both GPUs only if none is split.
    pairs = agent.api.submit(staying_job("pairs", device(count=2), count=6))
    for allocation in agent.api.wait_for(pairs, "running", 6):
        (gpu,) = {vgpu.rpartition("-")[0] for vgpu in granted_ids(allocation)}
        environment = agent.api.environment(allocation)
        assert environment["NVIDIA_VISIBLE_DEVICES"] == gpu
        assert environment["NVIDIA_VGPU_MEMORY_MIB"] == str(15360 * 2 // 6)


def test_a_job_can_name_the_gpu(start_agent: StartAgent) -> None:
    """A job that names one GPU's group, slash and all, gets that GPU."""
    agent = start_agent(plugin_block('vgpus = 2\n simulate = ["t4:2"]\n group_by = "gpu"'))
    name, group = sorted(agent.api.wait_for_groups(2).items())[1]
    job = agent.api.submit(printing_job("named", device(name=f"letmutx/gpu/{name}"), count=2))
    for allocation in agent.api.wait_for(job, "complete", 2):
        assert {agent.api.environment(allocation)["NVIDIA_VISIBLE_DEVICES"]} == group.gpus
