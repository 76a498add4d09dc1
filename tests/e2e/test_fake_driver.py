# SPDX-License-Identifier: MPL-2.0
"""The example agent configuration over NVML: pynvml and a driver, though not NVIDIA's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from libnvidia_ml.driver import FakeDriver

from e2e import binaries
from e2e.agent import Agent
from e2e.api import granted_ids
from e2e.conftest import T4, VGPUS, StartAgent
from e2e.jobs import device, on_model, printing_job
from e2e.waiting import wait_until

pytestmark = pytest.mark.nomad

EXAMPLE = binaries.REPOSITORY / "examples/agent.hcl"
MODELS = {"NVIDIA L40S": 2, T4: 1, "NVIDIA A100-SXM4-40GB": 1}


@pytest.fixture(scope="module")
def driver(nvml: Path, tmp_path_factory: pytest.TempPathFactory) -> FakeDriver:
    """A machine with GPUs of three models."""
    return FakeDriver(nvml, tmp_path_factory.mktemp("gpus"), "mixed")


@pytest.fixture(scope="module")
def agent_on_driver(driver: FakeDriver, start_module_agent: StartAgent) -> Agent:
    """The example configuration on that machine."""
    agent = start_module_agent(EXAMPLE, environment=driver.environment())
    agent.api.wait_for_groups(len(MODELS))
    return agent


@pytest.fixture
def agent(agent_on_driver: Agent) -> Iterator[Agent]:
    """The same, with every vGPU free again after the test."""
    yield agent_on_driver
    agent_on_driver.api.stop_all()


def test_gpus_come_from_the_driver(agent: Agent, driver: FakeDriver) -> None:
    """The GPUs that NVML lists become groups of 16 vGPUs each, with NVML's facts."""
    groups = agent.api.device_groups()
    assert {name: len(group.gpus) for name, group in groups.items()} == MODELS
    assert groups[T4].gpus == {driver.get("gpu 2", "uuid")}
    assert len(groups[T4].healthy) == VGPUS
    assert set(groups[T4].bus_ids.values()) == {"ad50:d8:00.0"}
    attributes = groups[T4].attributes
    assert attributes["memory"] == (15360, "MiB")
    assert attributes["power"] == (70, "W")
    assert attributes["driver_version"] == ("590.48.01", "")
    assert attributes["cuda_driver_version"] == (13.1, "")
    assert "simulated" not in attributes


def test_a_task_gets_both_variables(agent: Agent, driver: FakeDriver) -> None:
    """The example's `visible_devices_envs` tell a raw_exec task its GPU twice."""
    job = agent.api.submit(printing_job("both", device(on_model(T4))))
    (allocation,) = agent.api.wait_for(job, "complete")
    environment = agent.api.environment(allocation)
    gpu = driver.get("gpu 2", "uuid")
    assert granted_ids(allocation)[0].startswith(f"{gpu}-")
    assert environment["NVIDIA_VISIBLE_DEVICES"] == gpu
    assert environment["CUDA_VISIBLE_DEVICES"] == gpu


def test_a_task_waits_for_a_plugin_that_looks_for_gpus(agent: Agent, driver: FakeDriver) -> None:
    """A task that is placed right after the plugin was killed gets its GPU from the new one.

    Nomad goes on offering the vGPUs meanwhile, and fails a task for good that gets no reservation.
    """
    before = agent.the_plugin()
    driver.set("driver", "slow.nvmlInitWithFlags", 2000)
    try:
        before.kill()
        wait_until("another plugin process runs", lambda: agent.the_plugin().pid != before.pid)
        job = agent.api.submit(printing_job("early", device(on_model(T4))))
        agent.api.wait_for(job, "complete")
    finally:
        driver.clear("driver", "slow.nvmlInitWithFlags")
