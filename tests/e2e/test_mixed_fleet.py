# SPDX-License-Identifier: MPL-2.0
"""A node with different GPUs: the example configuration, and what grouping them costs and gives."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from libnvidia_ml.driver import FakeDriver

from e2e import binaries
from e2e.agent import Agent
from e2e.api import granted_ids
from e2e.conftest import T4, StartAgent, plugin_block
from e2e.jobs import constraint, device, printing_job

pytestmark = pytest.mark.nomad

EXAMPLES = binaries.REPOSITORY / "examples"
L4 = "NVIDIA L4"


def test_the_examples_divide_and_place(nvml: Path, tmp_path: Path, start_agent: StartAgent) -> None:
    """The example agent divides a mixed node by its blocks, and the example job finds the A100."""
    driver = FakeDriver(nvml, tmp_path, "mixed")
    agent = start_agent(EXAMPLES / "agent-mixed.hcl", environment=driver.environment())
    a100 = driver.get("gpu 3", "uuid")
    groups = agent.api.wait_for_groups(4)
    found = {name: (len(g.healthy), g.attributes["vgpu_memory"]) for name, g in groups.items()}
    assert found == {
        "whole-l40s": (1, (46068, "MiB")),
        "NVIDIA L40S": (4, (11517, "MiB")),
        T4: (2, (7680, "MiB")),
        f"NVIDIA A100-SXM4-40GB/{a100}": (4, (10240, "MiB")),
    }
    job = agent.api.submit((EXAMPLES / "mixed-fleet.nomad.hcl").read_text())
    for allocation in agent.api.wait_for(job, "running", 2):
        (vgpu,) = granted_ids(allocation, "worker")
        assert vgpu.startswith(f"{a100}-")
        printed = agent.api.output(allocation, "NVIDIA_VISIBLE_DEVICES", "worker").splitlines()
        assert "NVIDIA_VGPU_MEMORY_MIB=10240" in printed
        assert f"NVIDIA_VGPU_GROUP=letmutx/gpu/NVIDIA A100-SXM4-40GB/{a100}" in printed


@pytest.fixture(scope="module")
def both_forms(start_module_agent: StartAgent) -> Agent:
    """Two L4 in one group, two T4 in one each; two vGPUs on every GPU."""
    options = 'vgpus = 2\n simulate = ["l4:2", "t4:2"]\n gpu "*T4*" {\n group_by = "gpu"\n }'
    return start_module_agent(plugin_block(options))


@pytest.fixture
def agent(both_forms: Agent) -> Iterator[Agent]:
    """The same, with every vGPU free again after the test."""
    yield both_forms
    both_forms.api.stop_all()


def of(model: str) -> str:
    """A constraint that fits both forms: the attribute is the model's name in each group."""
    return constraint("device.attr.model", "=", model)


def gpus_of(vgpus: list[str]) -> set[str]:
    """The GPUs of these vGPUs."""
    return {vgpu.rpartition("-")[0] for vgpu in vgpus}


@pytest.mark.parametrize("model", [L4, T4])
def test_one_constraint_fits_both_forms(agent: Agent, model: str) -> None:
    """A job that names the model by its attribute need not know how a node groups its GPUs."""
    job = agent.api.submit(printing_job(f"either-{model[:5]}".replace(" ", "-"), device(of(model))))
    (allocation,) = agent.api.wait_for(job, "complete")
    (given,) = allocation["AllocatedResources"]["Tasks"]["main"]["Devices"]
    assert given["Name"].split("/")[0] == model


def test_a_count_never_spans_groups(agent: Agent) -> None:
    """Three vGPUs of two GPUs: to be had of GPUs in one group, never of GPUs in one each."""
    spanning = agent.api.submit(printing_job("spanning", device(of(L4), count=3)))
    (allocation,) = agent.api.wait_for(spanning, "complete")
    assert len(gpus_of(granted_ids(allocation))) == 2

    never = agent.api.submit(printing_job("never", device(of(T4), count=3)))
    assert "devices" in str(agent.api.wait_until_blocked(never))


def test_a_count_lands_on_one_gpu_of_a_group_of_its_own(agent: Agent) -> None:
    """Two pairs of T4 are of one GPU each, which two pairs of L4 are by chance only."""
    pairs = agent.api.submit(printing_job("pairs", device(of(T4), count=2), count=2))
    for allocation in agent.api.wait_for(pairs, "complete", 2):
        assert len(gpus_of(granted_ids(allocation))) == 1


def test_two_device_blocks_overwrite_each_other(agent: Agent) -> None:
    """A task with two blocks holds the vGPUs of both and is told of one block's: ask in one block."""
    blocks = device(of(L4)) + "\n" + device(of(T4))
    job = agent.api.submit(printing_job("two-blocks", blocks))
    (allocation,) = agent.api.wait_for(job, "complete")
    held = granted_ids(allocation)
    assert len(gpus_of(held)) == 2
    told = agent.api.environment(allocation)
    assert told["NVIDIA_VGPU_IDS"] in held
    assert told["NVIDIA_VISIBLE_DEVICES"] in gpus_of(held)
