# SPDX-License-Identifier: MPL-2.0
"""The driver's limit of memory per container, as far as NVIDIA's hook goes: what it tells the driver.

That the driver then holds a container to it takes a GPU: docs/gpu-validation.md.
"""

from pathlib import Path

import pytest

from e2e.conftest import GpuMachine, StartAgent, plugin_block
from e2e.docker_host import IMAGE, DockerHost
from e2e.docker_jobs import STAY, docker_job, docker_plugin
from e2e.driver_root import DRIVER_VERSION
from e2e.jobs import constraint, device

pytestmark = pytest.mark.nomad

LIMIT_MIB, REQUEST_MIB = 2048, 1024
MIB = 1024 * 1024


def start(host: DockerHost, uuid: str) -> str:
    """What docker says of the start of a container with limits on this GPU, and its id."""
    envs = {
        "NVIDIA_VISIBLE_DEVICES": uuid,
        "NVIDIA_GPU_MEMORY_LIMIT": str(LIMIT_MIB),
        "NVIDIA_GPU_MEMORY_REQUEST": str(REQUEST_MIB),
    }
    options = ["--detach", "--network=none", "--runtime=nvidia"]
    given = [f"--env={name}={value}" for name, value in envs.items()]
    done = host.docker("run", *options, *given, IMAGE, "sleep", "3600", check=False)
    return done.stdout.strip() + done.stderr


def test_on_cgroup_v2_the_driver_is_told_of_the_containers_cgroup(
    gpu_machine: GpuMachine, docker_on_cgroup_v2: DockerHost
) -> None:
    """With both variables, in bytes, for the GPU of the container."""
    uuid = gpu_machine.uuid("gpu 1")
    container = start(docker_on_cgroup_v2, uuid)
    ((told, cgroup, soft, hard),) = (
        line.split() for line in docker_on_cgroup_v2.limits.read_text().splitlines()
    )
    assert (told, int(soft), int(hard)) == (uuid, REQUEST_MIB * MIB, LIMIT_MIB * MIB)
    assert Path(cgroup).name in (container, f"docker-{container}.scope")


def has_cgroup_v1() -> bool:
    """Whether this machine is one of those on which such containers do not start."""
    return not Path("/sys/fs/cgroup/cgroup.controllers").exists()


@pytest.mark.may_skip("a machine with cgroup v2 alone has nothing to show")
@pytest.mark.skipif(not has_cgroup_v1(), reason="this machine has cgroup v2 alone")
def test_on_cgroup_v1_such_a_container_does_not_start_and_so_no_task_is_told(
    gpu_machine: GpuMachine, docker_host: DockerHost, start_agent: StartAgent
) -> None:
    """The log says what is missing, the attribute what is true, and the task runs."""
    assert "only supported in cgroup v2" in start(docker_host, gpu_machine.uuid("gpu 1"))
    agent = start_agent(
        plugin_block('vgpus = 4\n memory_isolation = "cgroup"') + docker_plugin(docker_host.socket),
        environment={
            **gpu_machine.driver.environment(),
            "PATH": docker_host.tools.path(),
        },
    )
    model = "NVIDIA A100-SXM4-40GB"
    agent.api.submit(docker_job("told", device(constraint("device.model", "=", model)), STAY))
    (allocation,) = agent.api.wait_for("told", "running")
    assert "NVIDIA_GPU_MEMORY_LIMIT" not in docker_host.environment(allocation)
    assert 'memory_isolation = "cgroup" needs cgroup v2, and this node has v1' in agent.log
    assert "needs NVIDIA's container toolkit" not in agent.log  # which is new enough, and says so
    assert f"and {DRIVER_VERSION} runs" not in agent.log
    group = agent.api.device_groups()[model]
    assert group.attributes["memory_isolation"] == ("none", "")
