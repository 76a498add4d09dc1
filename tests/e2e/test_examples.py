# SPDX-License-Identifier: MPL-2.0
"""The examples: every job is valid, every agent starts, and what can run here runs on simulated GPUs.

`test_jobs.py` runs `gpu-test.nomad.hcl`; `test_fake_driver.py` the agent of `agent.hcl`.
"""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from e2e import binaries
from e2e.agent import Agent
from e2e.api import granted_ids
from e2e.conftest import StartAgent, every_nomad
from e2e.jobs import device, printing_job
from e2e.waiting import wait_until

pytestmark = pytest.mark.nomad

EXAMPLES = binaries.REPOSITORY / "examples"
JOBS = sorted(EXAMPLES.glob("*.nomad.hcl"))
PLANNED = (0, 1)
"""What `nomad job plan` ends with where it worked: nothing to do, or something."""
MIG = "a100-sxm4-40gb:1:3g.20gb,3g.20gb"


@every_nomad
@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.name)
def test_the_examples_are_valid_jobs(agent: Agent, path: Path) -> None:
    """Nomad finds no fault in any example job, whatever driver it is for."""
    done = agent.cli("job", "validate", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


@every_nomad
@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.name)
def test_the_examples_are_planned(agent: Agent, path: Path) -> None:
    """The scheduler takes each example job as it stands, and says what it would do."""
    done = agent.cli("job", "plan", "-no-color", str(path))
    assert done.returncode in PLANNED, done.stdout + done.stderr
    assert "Scheduler dry-run" in done.stdout


def on_simulated(name: str, gpus: str) -> str:
    """An example of an agent, with simulated GPUs instead of the node's."""
    text = (EXAMPLES / name).read_text()
    block = re.search(r'plugin "nvidia-vgpu" \{\n  config \{\n', text)
    assert block is not None
    return f'{text[: block.end()]}    simulate = ["{gpus}"]\n{text[block.end() :]}'


AGENTS = sorted(EXAMPLES.glob("agent*.hcl"))


@pytest.mark.parametrize("path", AGENTS, ids=lambda p: p.name)
def test_nomad_reads_an_agents_file_as_it_stands(nomad: Path, tmp_path: Path, path: Path) -> None:
    """It lacks only what the agent's own file has: where its data is, and that it is a client."""
    binaries.needs(nomad, 1, 3)
    own = tmp_path / "nomad.hcl"
    own.write_text(f'data_dir = "{tmp_path}"\nclient {{\n  enabled = true\n}}\n')
    command = [str(nomad), "config", "validate", str(own), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", AGENTS, ids=lambda p: p.name)
def test_an_agent_starts_with_an_example(start_agent: StartAgent, path: Path) -> None:
    """Nomad knows every option in our block, and offers vGPUs; of drivers that are not here it has none."""
    gpus = MIG if "-mig" in path.name else "l4"
    own = path.read_text() if "simulate" in path.read_text() else on_simulated(path.name, gpus)
    agent = start_agent(own)
    wait_until("vGPUs are offered", agent.api.device_groups)


class Run(NamedTuple):
    """An example job under the example agent that it names."""

    agent: str
    job: str
    told: set[str]
    """Variables that the task is given."""
    gpus: str = "l4"


RUNS = [
    Run("agent-cdi.hcl", "gpu-test-exec.nomad.hcl", {"CUDA_VISIBLE_DEVICES"}),
    Run(
        "agent-mps.hcl",
        "mps-raw-exec.nomad.hcl",
        {"CUDA_VISIBLE_DEVICES", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"},
    ),
    Run(
        "agent-mps-cdi.hcl",
        "mps-exec.nomad.hcl",
        {"CUDA_VISIBLE_DEVICES", "CUDA_MPS_PIPE_DIRECTORY"},
    ),
    Run(
        "agent-mig.hcl",
        "mig-raw-exec.nomad.hcl",
        {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"},
        gpus=MIG,
    ),
    Run(
        "agent-mig-cdi.hcl",
        "mig-exec.nomad.hcl",
        {"CUDA_VISIBLE_DEVICES"},
        gpus=MIG,
    ),
]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.job)
def test_an_example_runs_under_its_agent(start_agent: StartAgent, run: Run) -> None:
    """The job is placed, and its task is told its vGPU and what its sharing needs."""
    raw_exec = 'plugin "raw_exec" {\n  config {\n    enabled = true\n  }\n}\n'
    text = on_simulated(run.agent, run.gpus)
    agent = start_agent(text if raw_exec in text else text + raw_exec)
    job = (EXAMPLES / run.job).read_text()
    driver = agent.api.node()["Drivers"].get("exec", {"HealthDescription": "not fingerprinted"})
    if 'driver = "exec"' in job and not driver.get("Healthy"):
        pytest.skip(f"Nomad's exec driver is unhealthy: {driver['HealthDescription']}")
    (allocation,) = agent.api.wait_for(agent.api.submit(job), "complete")
    (vgpu,) = granted_ids(allocation, "smi")
    output = agent.api.output(allocation, "NVIDIA_VGPU_IDS", "smi").splitlines()
    assert f"NVIDIA_VGPU_IDS={vgpu}" in output
    assert run.told <= {line.partition("=")[0] for line in output}


def test_a_job_can_name_its_gpu_to_its_driver(agent: Agent) -> None:
    """Podman is told the device by a variable in the job's config, which Nomad replaces."""
    named = "echo 'NAMED=nvidia.com/gpu=${NVIDIA_VISIBLE_DEVICES}'"  # which a shell leaves alone
    job = agent.api.submit(printing_job("named", device(), first=named))
    (allocation,) = agent.api.wait_for(job, "complete")
    gpu = granted_ids(allocation)[0].rpartition("-")[0]
    assert agent.api.environment(allocation)["NAMED"] == f"nvidia.com/gpu={gpu}"
