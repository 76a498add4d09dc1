# SPDX-License-Identifier: MPL-2.0
"""Agents for the tests, each closed and checked when its scope ends."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil
import pytest
import single_file
import this_run
from libnvidia_ml.driver import BuildError, FakeDriver, built

from e2e import binaries
from e2e.agent import Agent
from e2e.api import granted_ids
from e2e.container_tools import container_tools
from e2e.docker_host import DockerHost
from e2e.driver_root import DRIVER_VERSION, DriverRoot
from e2e.jobs import PID, device, staying_job

A100 = "NVIDIA A100-SXM4-80GB"
T4 = "Tesla T4"
VGPUS = 16

every_nomad = pytest.mark.parametrize(
    "nomad", [binaries.CHOSEN, binaries.OLD], indirect=True, scope="session"
)
"""Runs a test on the Nomad that the run is for, and on the oldest: the suite of compatibility."""


def plugin_block(options: str) -> str:
    """The `plugin` block of an agent's configuration, with these options."""
    return f'plugin "{binaries.PLUGIN_NAME}" {{\n  config {{\n    {options}\n  }}\n}}\n'


class Stayer(NamedTuple):
    """A job whose one task runs until it is stopped."""

    agent: Agent
    job: str
    process: psutil.Process
    gpu: str

    def assert_untouched(self) -> None:
        """The task still runs, in the same process and without a restart."""
        (allocation,) = self.agent.api.wait_for(self.job, "running")
        assert allocation["TaskStates"]["main"]["Restarts"] == 0
        assert int(self.agent.api.environment(allocation)[PID]) == self.process.pid
        assert self.process.is_running()  # compares start times: no other one of that number


def stay(agent: Agent, name: str = "stayer") -> Stayer:
    """A task that stays on one vGPU, once it runs."""
    job = agent.api.submit(staying_job(name, device()))
    return running(agent, job)


def running(agent: Agent, job: str) -> Stayer:
    """The one task of a staying job on one vGPU, once it runs."""
    (allocation,) = agent.api.wait_for(job, "running")
    (vgpu,) = granted_ids(allocation)
    process = psutil.Process(int(agent.api.environment(allocation)[PID]))
    return Stayer(agent, job, process, vgpu.rpartition("-")[0])


@pytest.fixture(scope="session")
def nvml() -> Path:
    """The directory of the fake library of NVIDIA's driver."""
    try:
        return built()
    except BuildError as error:
        pytest.skip(f"the fake driver does not build: {error}")


@pytest.fixture(scope="session")
def one_file() -> Path:
    """The plugin as the one file that is given out."""
    return single_file.built()


@pytest.fixture(scope="session")
def nomad(request: pytest.FixtureRequest) -> Path:
    """The program that the agents run."""
    return binaries.named(getattr(request, "param", binaries.CHOSEN))


class StartAgent(Protocol):
    """Makes an agent, and starts it unless told not to."""

    def __call__(
        self,
        config: str | Path,
        *,
        environment: dict[str, str] | None = None,
        dev: bool = True,
        start: bool = True,
    ) -> Agent:
        """`config` is the agent's configuration, HCL or a file of it."""


def _agents(nomad: Path) -> Iterator[StartAgent]:
    with ExitStack() as open_agents:

        def make(
            config: str | Path,
            *,
            environment: dict[str, str] | None = None,
            dev: bool = True,
            start: bool = True,
        ) -> Agent:
            root = this_run.new_folder("a")
            agent = Agent(nomad, root, config, environment=environment, dev=dev)
            open_agents.callback(agent.close)
            if start:
                agent.start()
            return agent

        yield make


@pytest.fixture
def start_agent(nomad: Path) -> Iterator[StartAgent]:
    """Agents for one test."""
    yield from _agents(nomad)


@pytest.fixture(scope="module")
def start_module_agent(nomad: Path) -> Iterator[StartAgent]:
    """Agents for all tests of a module."""
    yield from _agents(nomad)


@pytest.fixture(scope="session")
def two_model_agent(nomad: Path) -> Iterator[Agent]:
    """One agent with two A100 and one T4, each 16 vGPUs, for all tests that leave it as it is."""
    options = f'vgpus = {VGPUS}\n    simulate = ["a100-sxm4-80gb:2", "t4"]'
    for make in _agents(nomad):
        agent = make(plugin_block(options))
        agent.api.wait_for_groups(2)
        yield agent


@pytest.fixture
def agent(two_model_agent: Agent) -> Iterator[Agent]:
    """That agent, with every vGPU free again after the test."""
    yield two_model_agent
    two_model_agent.api.stop_all()


class GpuMachine(NamedTuple):
    """A machine with GPUs, for agents and container engines alike."""

    driver: FakeDriver
    root: DriverRoot

    def uuid(self, section: str) -> str:
        """That of a GPU or a MIG device, by its section of the fake driver's profile."""
        return str(self.driver.get(section, "uuid"))

    def runtime_environment(self) -> dict[str, str]:
        """What puts NVIDIA's container toolkit on this machine."""
        return {"FAKE_NVML_PROFILE": str(self.driver.profile_path)}


@pytest.fixture(scope="session")
def gpu_machine(nvml: Path, tmp_path_factory: pytest.TempPathFactory) -> GpuMachine:
    """GPU 0 is cut into two MIG devices, GPUs 1 and 2 are whole; all are A100."""
    driver = FakeDriver(nvml, tmp_path_factory.mktemp("gpus"), "a100_mig")
    driver.set("driver", "driver_version", DRIVER_VERSION)
    driver.copy_gpu(1, 2, pci="0:9:0")
    return GpuMachine(driver, DriverRoot(tmp_path_factory.mktemp("driver"), driver))


def _docker_hosts(
    machine: GpuMachine,
    root: Path,
    *,
    default_runtime: str = "runc",
    unified_cgroups: bool = False,
) -> Iterator[DockerHost]:
    host = DockerHost(
        root,
        container_tools(),
        machine.root,
        machine.runtime_environment(),
        default_runtime=default_runtime,
        unified_cgroups=unified_cgroups,
    )
    try:
        yield host
    finally:
        host.close()


@pytest.fixture(scope="session")
def docker_host(gpu_machine: GpuMachine) -> Iterator[DockerHost]:
    """A dockerd with NVIDIA's runtime beside runc, which is the default."""
    yield from _docker_hosts(gpu_machine, this_run.new_folder("h"))


@pytest.fixture(scope="module")
def nvidia_by_default(gpu_machine: GpuMachine) -> Iterator[DockerHost]:
    """A dockerd whose default runtime is NVIDIA's."""
    yield from _docker_hosts(gpu_machine, this_run.new_folder("h"), default_runtime="nvidia")


@pytest.fixture
def docker_on_cgroup_v2(
    gpu_machine: GpuMachine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerHost]:
    """A dockerd that sees cgroup v2 and nothing else."""
    yield from _docker_hosts(gpu_machine, tmp_path_factory.mktemp("h"), unified_cgroups=True)
