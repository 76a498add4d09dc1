# SPDX-License-Identifier: MPL-2.0
"""docs/operations.md: what changes a node that has tasks, typed as it stands there.

`test_quickstart.py` has the part about uninstalling.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import doc_pages
import pytest
import single_file
import this_run
from libnvidia_ml.driver import FakeDriver
from mps_control.control import FakeMps, install

from e2e import binaries
from e2e.agent import Agent
from e2e.conftest import StartAgent, plugin_block, running
from e2e.jobs import device, staying_job
from e2e.machine import AGENT_CONFIG, PLUGINS, PROGRAMS, Machine
from e2e.waiting import wait_until
from nomad_nvidia_vgpu import __version__

pytestmark = [pytest.mark.nomad, pytest.mark.timeout(600)]  # the first test builds the file

DEFAULT, EXCLUSIVE = 0, 3
PAGE = doc_pages.ROOT / "docs" / "operations.md"
OLD = "0.1.0"
"""The version before ours, as the page has it."""


def commands(heading: str, page: Path = PAGE) -> list[str]:
    """What a part of the page tells to type."""
    return [command.text for command in doc_pages.commands(page, heading)]


@pytest.fixture
def driver(nvml: Path, tmp_path: Path) -> FakeDriver:
    """A machine with one H100."""
    node = FakeDriver(nvml, tmp_path, "h100x8")
    for index in range(1, 8):
        node.remove_section(f"gpu {index}")
    return node


@pytest.fixture
def mps(tmp_path: Path) -> Iterator[FakeMps]:
    """The tools of MPS; none of its processes are left afterwards."""
    tools = install(tmp_path / "bin")
    yield tools
    tools.stop_all()


@pytest.fixture
def machine(one_file: Path, driver: FakeDriver, mps: FakeMps) -> Iterator[Machine]:
    """That machine, with our program for the operator and an empty plugin_dir."""
    made = Machine(this_run.new_folder("m"))
    path = f"{mps.directory}:{made.environment['PATH']}"
    made.environment.update(driver.environment(), PATH=path)
    made.path(PLUGINS).mkdir(parents=True)
    shutil.copy(one_file, made.path(PROGRAMS) / binaries.PLUGIN_NAME)
    yield made
    made.close()


@pytest.fixture
def agent(machine: Machine, start_agent: StartAgent, driver: FakeDriver, mps: FakeMps) -> Agent:
    """Its agent, which is not running yet."""
    environment = {**driver.environment(), **mps.environment()}
    made = start_agent("", dev=False, start=False, environment=environment)
    machine.adopt(made)
    return made


def start_with(machine: Machine, agent: Agent, options: str) -> None:
    """Installs the plugin with these options, and starts the agent."""
    configure(machine, options)
    machine.type("nvidia-vgpu install")
    machine.type("systemctl restart nomad")
    agent.api.wait_for_groups()


def configure(machine: Machine, options: str) -> None:
    """Writes the plugin's block."""
    (machine.path(AGENT_CONFIG) / "client.hcl").write_text(plugin_block(options))


def shared_below(root: Path) -> str:
    """Options that share the GPU by MPS, with the daemons' directories there."""
    return f'vgpus = 4\n sharing = "mps"\n mps {{\n root = "{root}"\n }}'


def versions(agent: Agent) -> list[str]:
    """Those that the agent has found, one for each of its starts."""
    found = r"detected plugin: name=nvidia-vgpu type=device plugin_version=(\S+)"
    return re.findall(found, agent.log)


def sharing(agent: Agent) -> object:
    """How the only GPU is shared, as the servers know it."""
    (group,) = agent.api.device_groups().values()
    return group.attributes["sharing"][0]


def test_sharing_is_changed_on_a_drained_node(
    machine: Machine, agent: Agent, mps_root: Path
) -> None:
    """Its task waits meanwhile, as there is no other node, and is back under MPS in the end."""
    start_with(machine, agent, "vgpus = 4")
    job = agent.api.submit(staying_job("task", device()))
    before = running(agent, job)
    drain, let_in = commands("Drain")
    machine.type(drain)
    assert not before.process.is_running()
    agent.api.wait_until_blocked(job)
    configure(machine, shared_below(mps_root))
    *change, last = commands("Change `sharing`")
    assert last == let_in
    for command in change:
        machine.type(command)
    says = "Nomad offers all 4 vGPUs of this node"
    wait_until("doctor sees all", lambda: says in machine.type("nvidia-vgpu doctor"))
    assert not agent.api.eligible()
    machine.type(let_in)
    assert agent.api.eligible()
    assert running(agent, job).process.pid != before.process.pid
    assert sharing(agent) == "mps"


def test_mps_is_ended_before_its_root_is_changed(
    machine: Machine, agent: Agent, driver: FakeDriver, mps: FakeMps, mps_root: Path
) -> None:
    """`release` finds the root in the configuration; nothing is left there, and the new one works."""
    uuid = driver.get("gpu 0", "uuid")
    start_with(machine, agent, shared_below(mps_root))
    task = running(agent, agent.api.submit(staying_job("task", device())))
    drain, _ = commands("Drain")
    stop, release, *change, let_in = commands("End MPS")
    machine.type(drain)
    assert len(mps.daemons(mps_root / f"{uuid}/pipe")) == 1
    assert driver.compute_mode("gpu 0") == EXCLUSIVE
    machine.type(stop)
    assert f"{uuid}: released" in machine.type(release)
    assert mps.daemons() == []
    assert driver.compute_mode("gpu 0") == DEFAULT
    elsewhere = mps_root.with_name("new")
    configure(machine, shared_below(elsewhere))
    for command in change:
        machine.type(command)
    agent.api.wait_for_groups()
    machine.type(let_in)
    assert agent.api.eligible()
    assert running(agent, task.job).process.pid != task.process.pid
    assert len(mps.daemons(elsewhere / f"{uuid}/pipe")) == len(mps.daemons()) == 1


def test_the_single_file_is_upgraded_and_taken_back(
    machine: Machine, agent: Agent, one_file: Path, tmp_path: Path
) -> None:
    """The agent runs the one, then the other, and then the first; its task runs on."""
    shutil.copy(single_file.make(tmp_path, OLD), machine.path(PROGRAMS) / binaries.PLUGIN_NAME)
    start_with(machine, agent, "vgpus = 4")
    task = running(agent, agent.api.submit(staying_job("task", device())))
    shutil.copy(one_file, machine.root)
    shown = [machine.type(command) for command in commands("Upgrade the single file")]
    assert "Nomad offers all 4 vGPUs of this node" in shown[-1]
    assert __version__ in machine.type("nvidia-vgpu --version")
    for command in commands("Back to the old file"):
        machine.type(command)
    assert versions(agent) == [OLD, __version__, OLD]
    for copy in (binaries.PLUGIN_NAME, f"{PLUGINS}/{binaries.PLUGIN_NAME}"):
        assert OLD in machine.type(f"{copy} --version")
    task.assert_untouched()


def test_a_wheel_is_upgraded_in_a_folder_of_its_own(
    machine: Machine, agent: Agent, tmp_path: Path
) -> None:
    """The old one is what packaging.md makes; it can go afterwards, and the task runs on."""
    shutil.copytree(doc_pages.ROOT / "requirements", machine.root / "requirements")
    for version in (OLD, __version__):
        directory = tmp_path / version
        directory.mkdir()
        shutil.copy(single_file.wheel(directory, version), machine.root)
    packaging = doc_pages.ROOT / "docs" / "packaging.md"
    for command in commands("The wheel", packaging):
        machine.type(command.replace(__version__, OLD))
    machine.type("systemctl restart nomad")
    agent.api.wait_for_groups()
    task = running(agent, agent.api.submit(staying_job("task", device())))
    *upgrade, remove = commands("Upgrade a wheel")
    shown = [machine.type(command) for command in upgrade]
    assert "Nomad offers all 8 vGPUs of this node" in shown[-1]
    machine.type(remove)
    machine.type("systemctl restart nomad")
    assert versions(agent) == [OLD, __version__, __version__]
    task.assert_untouched()
