# SPDX-License-Identifier: MPL-2.0
"""Device files and libraries from a CDI specification, in the exec driver's chroot.

All device files of the pretended node are /dev/zero, for a task to open.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cdi_node.node import CdiNode
from libnvidia_ml.driver import FakeDriver

from e2e.agent import Agent
from e2e.api import granted_ids
from e2e.conftest import T4, StartAgent, plugin_block
from e2e.jobs import device, on_model, printing_job

pytestmark = pytest.mark.nomad

A100 = "NVIDIA A100-SXM4-40GB"
LIBRARY = "/usr/local/nvidia/lib64/libcuda.so.1"
LOOK = (
    "for file in /dev/nvidia* ; do [ -c $file ] && echo file:$file=; done;"
    " exec 3</dev/nvidiactl && echo opened:=yes;"
    f" [ -s {LIBRARY} ] && echo library:=yes"
)
"""What a task says of what it sees, as if it were variables."""


class GpuNode(NamedTuple):
    """An agent on a machine with GPUs and a specification that names some of them."""

    agent: Agent
    cdi: CdiNode
    t4: str
    a100: str


@pytest.fixture(scope="module")
def gpu_node(
    nvml: Path, tmp_path_factory: pytest.TempPathFactory, start_module_agent: StartAgent
) -> GpuNode:
    """The specification names a T4 and no A100."""
    driver = FakeDriver(nvml, tmp_path_factory.mktemp("gpus"), "mixed")
    uuids = {driver.get(f"gpu {n}", "name"): driver.get(f"gpu {n}", "uuid") for n in range(4)}
    t4, a100 = uuids[T4], uuids[A100]
    assert t4 is not None
    assert a100 is not None
    cdi = CdiNode(tmp_path_factory.mktemp("cdi"))
    cdi.load("toolkit-1.17.yaml", devices="/dev/zero", uuids=(t4, "GPU-nowhere"))
    directories = ", ".join(f'"{directory}"' for directory in cdi.directories)
    options = f'vgpus = 2\n device_nodes = "cdi"\n cdi_spec_dirs = [{directories}]'
    return GpuNode(
        start_module_agent(plugin_block(options), environment=driver.environment()), cdi, t4, a100
    )


@pytest.fixture
def node(gpu_node: GpuNode) -> Iterator[GpuNode]:
    """The same, with every vGPU free again after the test."""
    yield gpu_node
    gpu_node.agent.api.stop_all()


def needs_exec(agent: Agent) -> None:
    """Skips where no chroot is allowed; Nomad says so."""
    driver = agent.api.node()["Drivers"].get("exec", {"HealthDescription": "not fingerprinted"})
    if not driver.get("Healthy"):
        pytest.skip(f"Nomad's exec driver is unhealthy: {driver['HealthDescription']}")


def test_an_exec_task_has_its_gpus_files_and_libraries(node: GpuNode) -> None:
    """A task in a chroot finds its GPU's file and the driver's, can open them, and has libcuda."""
    needs_exec(node.agent)
    job = printing_job("files", device(on_model(T4)), driver="exec", first=LOOK)
    (allocation,) = node.agent.api.wait_for(node.agent.api.submit(job), "complete")
    seen = node.agent.api.environment(allocation)
    assert {name for name in seen if name.startswith("file:")} == {
        "file:/dev/nvidia-modeset",
        "file:/dev/nvidia-uvm",
        "file:/dev/nvidia-uvm-tools",
        "file:/dev/nvidia1",
        "file:/dev/nvidiactl",
    }
    assert (seen.get("opened:"), seen.get("library:")) == ("yes", "yes")
    assert seen["CUDA_VISIBLE_DEVICES"] == node.t4
    assert seen["NVIDIA_VGPU_IDS"] == granted_ids(allocation)[0]
    assert seen["LD_LIBRARY_PATH"].startswith("/usr/local/nvidia/lib64")
    assert "NVIDIA_VISIBLE_DEVICES" not in seen


def test_raw_exec_takes_the_variables_and_leaves_the_rest(node: GpuNode) -> None:
    """A driver that knows no device files starts the task all the same."""
    job = printing_job("raw", device(on_model(T4)))
    (allocation,) = node.agent.api.wait_for(node.agent.api.submit(job), "complete")
    assert node.agent.api.environment(allocation)["CUDA_VISIBLE_DEVICES"] == node.t4


def test_a_task_on_a_gpu_without_a_specification_is_told_what_to_do(node: GpuNode) -> None:
    """The event of the task has the GPU and the command; the GPU is offered as before."""
    job = node.agent.api.submit(printing_job("missing", device(on_model(A100))))
    node.agent.api.wait_for(job, "failed")
    why = node.agent.api.explain(job)
    assert f"cannot reserve {node.a100}: no CDI specification in" in why
    assert "nvidia-ctk cdi generate --output=" in why
    assert all(node.agent.api.device_groups()[A100].healthy.values())
