# SPDX-License-Identifier: MPL-2.0
"""`framework_hints`: what a task's frameworks are told, and who has the last word on it."""

import pytest

from e2e.agent import Agent
from e2e.conftest import StartAgent, plugin_block
from e2e.jobs import device, printing_job

pytestmark = pytest.mark.nomad

JAX = "XLA_PYTHON_CLIENT_MEM_FRACTION"
HINTED = {
    JAX: "0.2166",  # (3,840 - 512) / 15,360 MiB
    "PYTORCH_ALLOC_CONF": "per_process_memory_fraction:0.2166",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}
FRAMEWORKS = '["jax", "pytorch", "tensorflow"]'


@pytest.fixture(scope="module")
def hinting_agent(start_module_agent: StartAgent) -> Agent:
    """One agent whose tasks are told everything."""
    agent = start_module_agent(
        plugin_block(f'vgpus = 4\n simulate = ["t4"]\n framework_hints = {FRAMEWORKS}')
    )
    agent.api.wait_for_groups(1)
    return agent


def told(agent: Agent, name: str, of_task: str = "") -> dict[str, str]:
    """Gives the environment of a task with one vGPU; `of_task` is put into its block."""
    text = printing_job(name, device()).replace("resources {", f"{of_task}\n      resources {{")
    job = agent.api.submit(text)
    (allocation,) = agent.api.wait_for(job, "complete")
    return agent.api.environment(allocation)


def test_frameworks_are_told_the_share(hinting_agent: Agent) -> None:
    """A task with a quarter of a T4 finds its fraction in the variables of each framework."""
    environment = told(hinting_agent, "hinted")
    assert {name: environment.get(name) for name in HINTED} == HINTED


def test_a_jobs_env_block_does_not_win(hinting_agent: Agent) -> None:
    """Why hints are off by default."""
    environment = told(hinting_agent, "env", f'env {{\n  {JAX} = "0.9"\n}}')
    assert environment[JAX] == HINTED[JAX]


def test_a_jobs_template_wins(hinting_agent: Agent) -> None:
    """The way out for a job that knows better."""
    template = f'template {{\n  data = "{JAX}=0.9"\n  destination = "local/e"\n  env = true\n}}'
    assert told(hinting_agent, "template", template)[JAX] == "0.9"
