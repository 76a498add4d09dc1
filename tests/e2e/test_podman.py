# SPDX-License-Identifier: MPL-2.0
"""Podman, which knows GPUs by NVIDIA's CDI specification alone.

Nomad's podman driver is in no registry: what it would ask of podman is asked by its command line.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from e2e.conftest import GpuMachine, StartAgent, plugin_block
from e2e.docker_host import GPU_LIST, IMAGE, DockerHost, device_files
from e2e.driver_root import END_OF_GPUS
from e2e.waiting import wait_until

pytestmark = pytest.mark.nomad

VGPUS = 2


@pytest.fixture(scope="module")
def podman(docker_host: DockerHost) -> Iterator["Podman"]:
    """Podman on the machine that has docker too, with the same image."""
    docker_host.generate_cdi()
    made = Podman(docker_host, docker_host.root / "p")  # of 50 letters at most
    yield made
    made.close()


class Podman:
    """Its command line, with all of its files below one folder."""

    def __init__(self, host: DockerHost, root: Path) -> None:
        """Imports the image."""
        root.mkdir()
        self._host = host
        self._command = [
            *(f"{host.tools.root}/usr/bin/podman", f"--root={root}/data", f"--runroot={root}/run"),
            *(f"--tmpdir={root}/tmp", "--storage-driver=vfs", "--cgroup-manager=cgroupfs"),
            *(f"--runtime={host.tools.root}/usr/sbin/runc", "--events-backend=none"),
            f"--conmon={host.tools.root}/usr/bin/conmon",
        ]
        (root / "policy.json").write_text(
            json.dumps({"default": [{"type": "insecureAcceptAnything"}]})
        )
        (root / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = []\n[engine]\nhelper_binaries_dir = ["{host.tools.root}/usr/lib/podman"]\n'
        )
        (root / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{root}/data"\nrunroot = "{root}/run"\n'
        )
        self._environment = {
            "CONTAINERS_CONF": str(root / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(root / "storage.conf"),
        }
        (host.root / ".config/containers").mkdir(parents=True)
        (root / "policy.json").rename(host.root / ".config/containers/policy.json")
        self("import", f"{host.root}/image.tar", IMAGE)

    def __call__(self, *arguments: str) -> str:
        """What podman prints."""
        return self._host.run(*self._command, *arguments, environment=self._environment).stdout

    def start(self, *arguments: str) -> str:
        """The id of a container that stays, with these options, image and command."""
        return self("run", "--detach", "--network=none", *arguments).strip()

    def close(self) -> None:
        """Removes the containers by their ids."""
        for container in self("ps", "-aq", "--no-trunc").split():
            self("rm", "--force", "--time=0", container)


@pytest.mark.parametrize("section", ["gpu 1", "gpu 2", "mig 0.2"])
def test_a_container_has_the_gpu_that_is_named_by_its_uuid(
    podman: Podman, gpu_machine: GpuMachine, section: str
) -> None:
    """`nvidia.com/gpu=${NVIDIA_VISIBLE_DEVICES}`, as the docs have it in a job."""
    name = f"--device=nvidia.com/gpu={gpu_machine.uuid(section)}"
    container = podman.start(name, IMAGE, "sh", "-c", f"{GPU_LIST}; exec sleep 3600")
    wait_until("it has printed", lambda: END_OF_GPUS in podman("logs", container))
    seen = device_files(podman("logs", container))
    gpus = {file for file in seen if "caps" not in file}
    assert gpus == {gpu_machine.root.gpu_file(int(section.split()[1][0]))}
    assert len(seen - gpus) == (2 if section.startswith("mig") else 0)


def test_its_process_is_traced_to_the_vgpu(
    podman: Podman, gpu_machine: GpuMachine, start_agent: StartAgent
) -> None:
    """By the cgroup that podman made, and the ids that the task was given."""
    agent = start_agent(
        plugin_block(f"vgpus = {VGPUS}"), environment=gpu_machine.driver.environment()
    )
    uuid = gpu_machine.uuid("gpu 1")
    vgpu = f"{uuid}-1"
    wait_until("vGPUs are offered", agent.api.device_groups)
    container = podman.start(
        *(f"--device=nvidia.com/gpu={uuid}", f"--env=NVIDIA_VGPU_IDS={vgpu}"),
        *(IMAGE, "sleep", "3600"),
    )
    pid = int(podman("inspect", "-f", "{{.State.Pid}}", container))
    assert "libpod" in Path(f"/proc/{pid}/cgroup").read_text()
    assert psutil.Process(pid).name() == "sleep"
    gpu_machine.driver.set("gpu 1", "compute_processes", f"{pid}:77")

    def shown() -> int | None:
        for group in agent.api.device_stats(agent.api.node()):
            if vgpu in group["InstanceStats"]:
                used: int | None = group["InstanceStats"][vgpu]["Summary"].get("IntNumeratorVal")
                return used if used == 77 else None
        return None

    try:
        assert wait_until("the vGPU shows what the container uses", shown)
    finally:
        gpu_machine.driver.clear("gpu 1", "compute_processes")
