# SPDX-License-Identifier: MPL-2.0
"""Which GPUs a container can see beside those of its reservation, as the tables of docs/security.md say.

The image asks for every GPU, as NVIDIA's own images do.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from e2e.agent import Agent
from e2e.conftest import GpuMachine, StartAgent, plugin_block
from e2e.docker_host import DockerHost, device_files
from e2e.docker_jobs import LOOK, docker_job, docker_plugin
from e2e.jobs import END_OF_ENVIRONMENT, constraint, device
from e2e.test_doctor import Diagnosis

pytestmark = pytest.mark.nomad

WHOLE = device(constraint("device.model", "=", "NVIDIA A100-SXM4-40GB"))
EVERY_GPU = {"/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia2"}
ALL = 'env {\n NVIDIA_VISIBLE_DEVICES = "all"\n }'
VOID = 'env {\n NVIDIA_VISIBLE_DEVICES = "void"\n }'
ALL_BY_TEMPLATE = (
    'template {\n data = "NVIDIA_VISIBLE_DEVICES=all"\n destination = "local/env"\n env = true\n }'
)
PRIVILEGED = "privileged = true"
NVIDIAS = 'runtime = "nvidia"'


class Node(NamedTuple):
    """An agent, and the docker that it uses."""

    agent: Agent
    docker: DockerHost

    def gpus_seen(self, name: str, block: str, *, config: str = "", task: str = "") -> set[str]:
        """The device files of GPUs in a container of this job."""
        job = self.agent.api.submit(docker_job(name, block, LOOK, config=config, task=task))
        (allocation,) = self.agent.api.wait_for(job, "complete")
        return device_files(self.docker.output(allocation, END_OF_ENVIRONMENT)) & EVERY_GPU


def only_one(seen: set[str]) -> bool:
    """Whether that is one GPU."""
    return len(seen) == 1


@pytest.fixture(scope="module")
def runtime_node(
    gpu_machine: GpuMachine, docker_host: DockerHost, start_module_agent: StartAgent
) -> Node:
    """Gives GPUs by NVIDIA's runtime, which is not dockerd's default."""
    agent = start_module_agent(
        plugin_block("vgpus = 4") + docker_plugin(docker_host.socket),
        environment=gpu_machine.driver.environment(),
    )
    return Node(agent, docker_host)


@pytest.fixture(scope="module")
def cdi_block(docker_host: DockerHost, nvidia_by_default: DockerHost) -> str:
    """Gives GPUs by device files, from the specification that `nvidia-ctk` wrote."""
    docker_host.generate_cdi()
    nvidia_by_default.generate_cdi()
    return plugin_block(f'vgpus = 4\n device_nodes = "cdi"\n cdi_spec_dirs = ["{docker_host.cdi}"]')


@pytest.fixture(scope="module")
def default_node(
    gpu_machine: GpuMachine,
    nvidia_by_default: DockerHost,
    cdi_block: str,
    start_module_agent: StartAgent,
) -> Node:
    """Gives GPUs by device files, where dockerd's default runtime is NVIDIA's."""
    agent = start_module_agent(
        cdi_block + docker_plugin(nvidia_by_default.socket),
        environment=gpu_machine.driver.environment(),
    )
    return Node(agent, nvidia_by_default)


@pytest.fixture(scope="module")
def closed_node(
    gpu_machine: GpuMachine,
    docker_host: DockerHost,
    cdi_block: str,
    start_module_agent: StartAgent,
) -> Node:
    """Gives GPUs by device files, and no job NVIDIA's runtime."""
    only_runc = 'allow_runtimes = ["runc"]'
    agent = start_module_agent(
        cdi_block + docker_plugin(docker_host.socket, only_runc),
        environment=gpu_machine.driver.environment(),
    )
    return Node(agent, docker_host)


def test_a_jobs_own_variable_does_not_win(runtime_node: Node) -> None:
    """`env` in a job with a vGPU cannot ask for more than its reservation."""
    assert only_one(runtime_node.gpus_seen("own", WHOLE, task=ALL))


def test_a_template_wins_over_the_reservation(runtime_node: Node) -> None:
    """Nomad puts the variables of a `template` last: no plugin can close that."""
    assert runtime_node.gpus_seen("template", WHOLE, task=ALL_BY_TEMPLATE) == EVERY_GPU


def test_nvidias_runtime_without_a_vgpu_shows_every_gpu(runtime_node: Node) -> None:
    """A job may name the runtime, and its image asks for all: no plugin can close that."""
    assert runtime_node.gpus_seen("no-vgpu", "", config=NVIDIAS) == EVERY_GPU


def test_without_a_vgpu_and_a_runtime_there_is_no_gpu(runtime_node: Node) -> None:
    """Neither the image nor the job's variable makes one visible under runc."""
    assert runtime_node.gpus_seen("plain", "", task=ALL) == set()


def test_nvidias_runtime_as_default_shows_every_gpu_unless_the_job_says_void(
    default_node: Node,
) -> None:
    """With device files from the reservation, `void` is what the docs and `doctor` tell to write."""
    assert default_node.gpus_seen("unwary", WHOLE) == EVERY_GPU
    assert only_one(default_node.gpus_seen("wary", WHOLE, task=VOID))


def test_the_doctor_asks_the_dockerd_that_runs(
    default_node: Node, closed_node: Node, runtime_node: Node, gpu_machine: GpuMachine
) -> None:
    """No file says how these run: the same GPUs are shown by one, and by the others not."""
    found = {
        name: dict(verdicts(Diagnosis(node.agent, gpu_machine.driver)))
        for name, node in (
            ("default", default_node),
            ("closed", closed_node),
            ("runtime", runtime_node),
        )
    }
    assert "every GPU that its image asks for" in found["default"]["error"]
    assert 'env { NVIDIA_VISIBLE_DEVICES = "void" } in every job' in found["default"]["error"]
    assert set(found["closed"]) == {"ok"}
    assert set(found["runtime"]) == {"ok"}
    assert "nvidia-container-runtime" in found["runtime"]["ok"]


def verdicts(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    """Level and words of what `doctor` says of docker."""
    for finding in diagnosis.document["findings"]:
        if (finding["subject"], finding["check"]) == ("containers", "docker"):
            yield finding["level"], f"{finding['sentence']}: {finding['remedy']}"


def test_device_files_and_runc_alone_show_the_reservation(closed_node: Node) -> None:
    """No variable of image, job or template adds a GPU."""
    assert only_one(closed_node.gpus_seen("own", WHOLE))
    assert only_one(closed_node.gpus_seen("env", WHOLE, task=ALL))
    assert only_one(closed_node.gpus_seen("template", WHOLE, task=ALL_BY_TEMPLATE))


def test_a_runtime_that_the_agent_does_not_allow_is_refused(closed_node: Node) -> None:
    """`allow_runtimes` closes the way by the runtime's name, and privileged ones are refused as ever."""
    why = {"runtime": (NVIDIAS, "is not allowed"), "privileged": (PRIVILEGED, "privileged")}
    for name, (config, said) in why.items():
        once = 'restart {\n attempts = 0\n mode = "fail"\n }\n reschedule {\n attempts = 0\n }'
        closed_node.agent.api.submit(docker_job(name, WHOLE, LOOK, config=config, group=once))
        closed_node.agent.api.wait_for(name, "failed")
        assert said in closed_node.agent.api.explain(name)


def test_a_job_may_name_a_device_file_of_the_node(
    closed_node: Node, gpu_machine: GpuMachine
) -> None:
    """Nomad's docker driver lets any job have any device of the host: no plugin can close that."""
    node = gpu_machine.root.root / "dev/nvidia2"
    more = f'devices = [{{\n host_path = "{node}"\n container_path = "/dev/nvidia2"\n }}]'
    assert closed_node.gpus_seen("named", "", config=more) == {"/dev/nvidia2"}
