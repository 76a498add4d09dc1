# SPDX-License-Identifier: MPL-2.0
"""Containers that meet the MPS daemon of their GPU: by a volume of the job, or by the reservation."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mps_control.control import FakeMps, install

from e2e.conftest import GpuMachine, StartAgent, plugin_block
from e2e.docker_host import MPS_CLIENT, DockerHost
from e2e.docker_jobs import REST, docker_job, docker_plugin
from e2e.jobs import constraint, device

pytestmark = pytest.mark.nomad

VGPUS = 4
ISOLATED = device(constraint("device.attr.memory_isolation", "=", "mps"))
OWN_VOLUME = 'volumes = ["${CUDA_MPS_PIPE_DIRECTORY}:${CUDA_MPS_PIPE_DIRECTORY}"]'
MEET = f"{MPS_CLIENT}; echo limit:$CUDA_MPS_PINNED_DEVICE_MEM_LIMIT; echo end of MPS; {REST}"


@pytest.fixture
def mps(tmp_path: Path, mps_root: Path) -> Iterator[FakeMps]:
    """NVIDIA's tools, and no daemon left afterwards."""
    made = install(tmp_path / "bin")
    yield made
    made.stop_all()


@pytest.fixture(params=["mount", "volumes"])
def pair(  # noqa: PLR0913, PLR0917  fixtures
    mps: FakeMps,
    mps_root: Path,
    gpu_machine: GpuMachine,
    docker_host: DockerHost,
    start_agent: StartAgent,
    request: pytest.FixtureRequest,
) -> list[str]:
    """What two containers with a share of GPU 1 have printed; how they come to the daemon is the parameter."""
    by_us, config = {"mount": ("true", ""), "volumes": ("false", OWN_VOLUME)}[request.param]
    others = ", ".join(f'"{gpu_machine.uuid(s)}"' for s in ("gpu 2", "mig 0.0", "mig 0.2"))
    options = (
        f'vgpus = {VGPUS}\n sharing = "mps"\n ignored_gpu_ids = [{others}]\n'
        f' mps {{\n root = "{mps_root}"\n mount = {by_us}\n }}'
    )
    agent = start_agent(
        plugin_block(options) + docker_plugin(docker_host.socket),
        environment={**gpu_machine.driver.environment(), **mps.environment()},
    )
    agent.api.wait_for_groups()
    script = f"ls {mps_root} {mps_root}/*; {MEET}"
    agent.api.submit(docker_job("pair", ISOLATED, script, count=2, config=config))
    running = agent.api.wait_for("pair", "running", 2)
    return [docker_host.output(allocation, "end of MPS") for allocation in running]


def test_two_containers_share_a_gpu_by_mps(pair: list[str], gpu_machine: GpuMachine) -> None:
    """Both meet the server of their GPU and are told their limits; they see no other file of the plugin's."""
    servers, gpu = set(), gpu_machine.uuid("gpu 1")
    for output in pair:
        (answer,) = (line for line in output.splitlines() if line.startswith("{"))
        met = json.loads(answer)
        assert met["devices"] == [gpu]
        servers.add(met["server"])
        assert f"limit:0={40960 // VGPUS}M" in output
        listed = output[: output.index(answer)].splitlines()
        assert {line for line in listed if line and not line.endswith(":")} == {gpu, "pipe"}
    assert len(servers) == 1
