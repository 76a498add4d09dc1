# SPDX-License-Identifier: MPL-2.0
"""docs/quickstart.md and README's installation, followed word for word on a machine without GPU.

What is typed is what the pages say; only `make dist` has been done before, `systemctl restart nomad`
restarts an agent of ours, and simulated GPUs are asked for as the quickstart tells those without one.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import doc_pages
import pytest
import this_run
from libnvidia_ml.driver import FakeDriver

from e2e.agent import Agent
from e2e.api import granted_ids
from e2e.conftest import StartAgent
from e2e.machine import AGENT_CONFIG, PLUGINS, PROGRAMS, Machine
from e2e.waiting import wait_until
from nomad_nvidia_vgpu.cli.agent.plugin_block import block_text

pytestmark = pytest.mark.nomad

QUICKSTART = doc_pages.ROOT / "docs" / "quickstart.md"
OPERATIONS = doc_pages.ROOT / "docs" / "operations.md"
README = doc_pages.ROOT / "README.md"
INSTALLED = AGENT_CONFIG / "nvidia-vgpu.hcl"
WITHOUT_GPU = re.search(
    r"add `(?P<flag>--simulate \S+)` to `gpus`, `plan` and `install` in\n", QUICKSTART.read_text()
)


@pytest.fixture
def machine(one_file: Path) -> Iterator[Machine]:
    """A machine onto which the single file has been copied."""
    made = Machine(this_run.new_folder("m"))
    shutil.copy(one_file, made.root)
    yield made
    made.close()


@pytest.fixture
def agent(machine: Machine, start_agent: StartAgent) -> Agent:
    """Its agent, which is not running yet."""
    made = start_agent("", dev=False, start=False)
    machine.adopt(made)
    return made


def typed(machine: Machine, agent: Agent, command: str) -> str:
    """What a command shows to somebody without a GPU, who adds what the quickstart says."""
    assert WITHOUT_GPU is not None
    if re.match(r"\S*nvidia-vgpu\S* (gpus|plan|install)\b", command):
        return machine.type(f"{command} {WITHOUT_GPU['flag']}")
    if command == "systemctl restart nomad":
        machine.type(command)
        # By the time that a person types the next command there are vGPUs and figures.
        agent.api.wait_for_groups()
        node = agent.api.node()
        wait_until("figures arrive", lambda: agent.api.device_stats(node))
        return ""
    return machine.type(command)


def test_the_quickstart_leads_to_two_tasks_on_one_gpu(machine: Machine, agent: Agent) -> None:
    """A stranger who types it, and nothing else, has them in the end."""
    job = "gpu-test.nomad.hcl"
    (machine.root / job).write_text(_written_by_the_reader(job))
    raw_exec = _written_by_the_reader("raw-exec.hcl")
    for file in machine.path(AGENT_CONFIG).iterdir():  # an agent of our tests always has it
        file.write_text(file.read_text().replace(raw_exec, ""))
        assert "raw_exec" not in file.read_text()
    (machine.path(AGENT_CONFIG) / "raw-exec.hcl").write_text(raw_exec)
    shown = {}
    for command in doc_pages.commands(QUICKSTART):
        if command.program == "make":
            continue
        shown[command.text] = typed(machine, agent, command.text)
        if command.text == "nvidia-vgpu install --vgpus 8":
            written = machine.path(INSTALLED).read_text()
            written = re.sub(r"^(#| +simulate ).*\n", "", written, flags=re.MULTILINE)
            assert written.replace("vgpus    =", "vgpus =") == (
                _written_by_the_reader(INSTALLED.name)
            )
        if command.text.startswith("nomad job run"):
            for allocation in agent.api.wait_for("gpu-test", "complete", count=2):
                agent.api.output(allocation, "NVIDIA_VGPU_MEMORY_MIB", "test")
    allocations = agent.api.wait_for("gpu-test", "complete", count=2)
    vgpus = [granted_ids(allocation, "test")[0] for allocation in allocations]
    assert len(set(vgpus)) == 2
    assert len({vgpu.rpartition("-")[0] for vgpu in vgpus}) == 1
    for what, text in {
        "nomad node status -self -verbose": "Device Group Attributes",
        "nomad node status -self -stats": "Memory state        = ",
        "nvidia-vgpu doctor": "Nomad offers all 8 vGPUs of this node",
        "nomad alloc logs -job gpu-test": "NVIDIA_VGPU_MEMORY_MIB=10240",
    }.items():
        assert text in shown[what], shown[what]


def test_readme_installs_it_and_operations_takes_it_away(
    machine: Machine, agent: Agent, one_file: Path, nvml: Path, tmp_path: Path
) -> None:
    """On a machine whose plugin_dir is there, and of which nothing of ours is left."""
    machine.path(PLUGINS).mkdir(parents=True)
    commands = doc_pages.commands(README, "Install it on a client node")
    shown = [typed(machine, agent, command.text) for command in commands]
    assert "Device Group Attributes" in shown[-1]
    (group,) = agent.api.device_groups().values()
    assert len(group.healthy) == 16
    # As it was, without the simulation.
    machine.path(INSTALLED).write_text(block_text({"vgpus": 16}))

    machine.environment.update(FakeDriver(nvml, tmp_path, "t4_old").environment())  # for `release`
    shutil.copy(one_file, machine.path(PROGRAMS) / "nvidia-vgpu")
    for command in doc_pages.commands(OPERATIONS, "Stop and uninstall"):
        machine.type(command.text)
    wait_until("nothing is offered", lambda: not agent.api.device_groups())
    assert agent.api.eligible()
    assert list(machine.path(PLUGINS).iterdir()) == []
    assert not machine.path(INSTALLED).exists()


def _written_by_the_reader(name: str) -> str:
    """The block of HCL that the quickstart says is the file of this name."""
    named = re.search(
        rf"{re.escape(name)}`:\n\n```hcl\n(.*?)```", QUICKSTART.read_text(), re.DOTALL
    )
    assert named is not None
    return named[1]
