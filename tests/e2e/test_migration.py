# SPDX-License-Identifier: MPL-2.0
"""docs/migration.md: from the original plugin and from HashiCorp's, with tasks that run."""

import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import doc_pages
import pytest
import this_run
from libnvidia_ml.driver import FakeDriver

from e2e import binaries
from e2e.agent import Agent
from e2e.api import granted_ids
from e2e.conftest import T4, StartAgent, plugin_block, running, stay
from e2e.jobs import constraint, device, staying_job
from e2e.machine import AGENT_CONFIG, PLUGINS, PROGRAMS, Machine
from e2e.other_plugins import install_official, install_original
from e2e.waiting import wait_until

pytestmark = pytest.mark.nomad

PAGE = doc_pages.ROOT / "docs" / "migration.md"
OFFICIAL = "nomad-device-nvidia"
AS_IN_THE_ORIGINALS_README = """
plugin "nvidia-vgpu" {
  config {
    ignored_gpu_ids    = ["uuid1", "uuid2"]
    fingerprint_period = "5s"
    vgpus = 16
  }
}
"""


def commands(heading: str) -> list[str]:
    """What a part of the page tells to type."""
    return [command.text for command in doc_pages.commands(PAGE, heading)]


def config(heading: str) -> str:
    """The agent's configuration that a part of the page shows."""
    (block,) = doc_pages.blocks("hcl", page=PAGE, heading=heading)
    return block.text


@pytest.fixture
def driver(nvml: Path, tmp_path: Path) -> FakeDriver:
    """A machine with one T4 whose UUID no other test has: tasks are known by it."""
    node = FakeDriver(nvml, tmp_path, "t4_old")
    node.set("gpu 0", "uuid", f"GPU-{uuid.uuid4()}")
    return node


@pytest.fixture
def machine(one_file: Path, driver: FakeDriver) -> Iterator[Machine]:
    """A machine with that driver, an empty plugin_dir and our program for the operator."""
    made = Machine(this_run.new_folder("m"))
    made.environment.update(driver.environment())
    made.path(PLUGINS).mkdir(parents=True)
    shutil.copy(one_file, made.path(PROGRAMS) / binaries.PLUGIN_NAME)
    yield made
    made.close()


@pytest.fixture
def agent(machine: Machine, start_agent: StartAgent, driver: FakeDriver) -> Agent:
    """Its agent, which is not running yet."""
    made = start_agent("", dev=False, start=False, environment=driver.environment())
    machine.adopt(made)
    return made


def ids(agent: Agent) -> dict[str, set[str]]:
    """The ids that each device group offers, once there is one."""
    groups = agent.api.wait_for_groups().values()
    return {f"{g.vendor}/{g.type}/{g.name}": set(g.healthy) for g in groups}


def test_one_file_takes_the_place_of_the_original_and_back(
    machine: Machine, agent: Agent, driver: FakeDriver, tmp_path: Path
) -> None:
    """Its task runs on through both, and what it holds is never given to another one."""
    install_original(machine.path(PLUGINS) / binaries.PLUGIN_NAME, tmp_path)
    (machine.path(AGENT_CONFIG) / "client.hcl").write_text(AS_IN_THE_ORIGINALS_README)
    agent.start()
    before = ids(agent)
    gpu = driver.get("gpu 0", "uuid")
    assert before == {f"letmutx/gpu/{T4}": {f"{gpu}-{number}" for number in range(16)}}
    task = stay(agent)
    (allocation,) = agent.api.wait_for(task.job, "running")
    assert "NVIDIA_VGPU_IDS" not in agent.api.environment(allocation)
    held = granted_ids(allocation)

    shown = {command: machine.type(command) for command in commands("Step by step")}
    assert "its ids and options stay valid" in shown["nvidia-vgpu install"]
    assert f"letmutx/gpu/{T4}" in shown["nvidia-vgpu plan --config /etc/nomad.d/client.hcl"]
    assert "Nomad offers all 16 vGPUs of this node" in shown["nvidia-vgpu doctor"]
    assert ids(agent) == before
    task.assert_untouched()

    fifteen = agent.api.submit(staying_job("fifteen", device(), count=15))
    others = agent.api.wait_for(fifteen, "running", count=15)
    given = {vgpu for other_task in others for vgpu in granted_ids(other_task)}
    assert given == before[f"letmutx/gpu/{T4}"] - set(held)
    assert "NVIDIA_VGPU_IDS" in agent.api.environment(others[0])
    agent.api.wait_until_blocked(agent.api.submit(staying_job("sixteenth", device())))

    for command in commands("Back again"):
        machine.type(command)
    assert ids(agent) == before
    task.assert_untouched()
    agent.api.wait_for(fifteen, "running", count=15)
    agent.api.wait_until_blocked(agent.api.submit(staying_job("seventeenth", device())))


def test_jobs_for_nvidia_gpu_stay_as_they_are_with_that_vendor(
    machine: Machine, agent: Agent, driver: FakeDriver, tmp_path: Path
) -> None:
    """The node is drained, the plugins change places, and the job comes back on the whole GPU."""
    gpu = driver.get("gpu 0", "uuid")
    official = machine.path(PLUGINS) / OFFICIAL
    install_official(official, tmp_path)
    file = machine.path(AGENT_CONFIG) / "client.hcl"
    file.write_text(f'plugin "{OFFICIAL}" {{\n  config {{\n  }}\n}}\n')
    agent.start()
    assert ids(agent) == {f"nvidia/gpu/{T4}": {gpu}}
    job = agent.api.submit(staying_job("whole", device(name="nvidia/gpu")))
    running(agent, job)

    part = 'Or keep the jobs: `vendor = "nvidia"`'
    drain, *change, let_in = commands(part)
    machine.type(drain)
    agent.api.wait_for(job, "complete")
    official.unlink()
    file.write_text(config(part))
    for command in change:
        machine.type(command)
    says = "Nomad offers all 1 vGPU of this node"
    wait_until("doctor sees ours", lambda: says in machine.type("nvidia-vgpu doctor"))
    assert ids(agent) == {f"nvidia/gpu/{T4}": {f"{gpu}-0"}}
    assert not agent.api.eligible()
    machine.type(let_in)
    assert agent.api.eligible()
    (again,) = agent.api.wait_for(job, "running")
    assert granted_ids(again) == [f"{gpu}-0"]
    (group,) = agent.api.device_groups().values()
    assert group.attributes["memory_isolation"] == ("whole", "")


def test_without_the_drain_nomad_gives_the_gpu_away_twice(
    start_agent: StartAgent, driver: FakeDriver, tmp_path: Path
) -> None:
    """Which is why the page says so: Nomad forgets a task whose id is not offered any more."""
    agent = start_agent(
        f'plugin "{OFFICIAL}" {{\n  config {{\n  }}\n}}\n',
        dev=False,
        start=False,
        environment=driver.environment(),
    )
    install_official(agent.plugin_dir / OFFICIAL, tmp_path)
    agent.start()
    ids(agent)
    first = running(agent, agent.api.submit(staying_job("first", device(name="nvidia/gpu"))))
    (agent.plugin_dir / OFFICIAL).unlink()
    agent.restart_with(plugin_block('vgpus = 1\n vendor = "nvidia"'))
    second = running(agent, agent.api.submit(staying_job("second", device(name="nvidia/gpu"))))
    first.assert_untouched()
    assert first.gpu.rpartition("-")[0] != second.gpu
    assert second.gpu == driver.get("gpu 0", "uuid")


def test_both_plugins_run_for_different_gpus(
    machine: Machine, agent: Agent, driver: FakeDriver, tmp_path: Path
) -> None:
    """With the block of the page each GPU is offered once, and jobs find both kinds."""
    part = "Or run both, for different GPUs"
    text = config(part)
    ours = re.search(r"GPU-[0-9a-f-]{36}", text)
    assert ours is not None
    driver.load("h100x8")
    driver.set("gpu 0", "uuid", ours[0])
    install_official(machine.path(PLUGINS) / OFFICIAL, tmp_path)
    file = machine.path(AGENT_CONFIG) / "client.hcl"
    file.write_text(f'plugin "{OFFICIAL}" {{\n  config {{\n  }}\n}}\n')
    agent.start()
    wait_until("the official plugin has offered all", lambda: len(_devices(agent)) == 1)
    drain, *change, let_in = commands(part)
    machine.type(drain)
    file.write_text(text)
    for command in change:
        machine.type(command)
    wait_until("both plugins have offered theirs", lambda: len(_devices(agent)) == 2)
    machine.type(let_in)
    assert agent.api.eligible()
    assert {v: len(of) for v, of in _devices(agent).items()} == {"letmutx": 8, "nvidia": 7}
    assert "no GPU is offered by two device groups" in machine.type("nvidia-vgpu doctor --all")
    share = running(agent, agent.api.submit(staying_job("share", device())))
    whole = running(agent, agent.api.submit(staying_job("whole", device(name="nvidia/gpu"))))
    assert share.gpu == ours[0]
    any_vendors = device(constraint("device.attr.vgpus", "=", "8"), name="gpu")
    assert running(agent, agent.api.submit(staying_job("any", any_vendors))).gpu == ours[0]
    assert not whole.gpu.startswith(ours[0])


def _devices(agent: Agent) -> dict[str, list[str]]:
    """The ids of each vendor: both have one group of the same name."""
    groups = agent.api.node()["NodeResources"]["Devices"] or []
    return {group["Vendor"]: [vgpu["ID"] for vgpu in group["Instances"]] for group in groups}
