# SPDX-License-Identifier: MPL-2.0
"""Docker tasks through NVIDIA's container runtime, as the original has them.

Nomad, dockerd and the toolkit are real; the driver is our fake one, and its device files lead nowhere.
"""

from collections.abc import Iterator

import pytest

from e2e.agent import Agent
from e2e.api import granted_ids
from e2e.conftest import GpuMachine, StartAgent, plugin_block
from e2e.docker_host import DockerHost, device_files
from e2e.docker_jobs import LOOK, README_JOB, REST, STAY, docker_job, docker_plugin
from e2e.driver_root import END_OF_GPUS, NVIDIA_MAJOR
from e2e.jobs import END_OF_ENVIRONMENT, constraint, device

pytestmark = pytest.mark.nomad

A100 = "NVIDIA A100-SXM4-40GB"
GPU_1 = constraint("device.model", "=", A100)
GPU_2 = constraint("device.model", "=", f"{A100} 5GiB")
MIG = constraint("device.attr.memory_isolation", "=", "mig")


@pytest.fixture(scope="module")
def shared_agent(
    gpu_machine: GpuMachine, docker_host: DockerHost, start_module_agent: StartAgent
) -> Agent:
    """One vGPU on each MIG device, 16 on GPU 1 and 8 on GPU 2, each in a group of its own."""
    own = {"mig 0.0": 1, "mig 0.2": 1, "gpu 2": 8}
    blocks = [f'gpu "{gpu_machine.uuid(s)}" {{\n vgpus = {n}\n }}' for s, n in own.items()]
    options = "\n ".join(["vgpus = 16", *blocks])
    made = start_module_agent(
        plugin_block(options) + docker_plugin(docker_host.socket),
        environment=gpu_machine.driver.environment(),
    )
    made.api.wait_for_groups(3)
    return made


@pytest.fixture
def agent(shared_agent: Agent) -> Iterator[Agent]:
    """The same, with every vGPU free again after the test."""
    yield shared_agent
    shared_agent.api.stop_all()


def gpu_file(machine: GpuMachine, uuid: str) -> str:
    """The device file of a whole GPU."""
    (number,) = (n for n in (1, 2) if machine.uuid(f"gpu {n}") == uuid)
    return machine.root.gpu_file(number)


def test_the_job_of_the_originals_readme_runs(
    agent: Agent, docker_host: DockerHost, gpu_machine: GpuMachine
) -> None:
    """Word for word: one container sees the GPU of its vGPU, and no other."""
    job = agent.api.submit(README_JOB)
    (allocation,) = agent.api.wait_for(job, "complete")
    seen = device_files(docker_host.output(allocation, END_OF_GPUS, "smi"))
    (vgpu,) = granted_ids(allocation, "smi")
    uuid = vgpu.rpartition("-")[0]
    if uuid.startswith("GPU-"):
        assert seen == {gpu_file(gpu_machine, uuid)}
    else:
        assert gpu_machine.root.gpu_file(0) in seen


def test_nomad_chooses_nvidias_runtime_for_a_task_with_a_vgpu(
    agent: Agent, docker_host: DockerHost
) -> None:
    """The container of a task with a vGPU has it, and that of a task without has dockerd's own."""
    agent.api.submit(docker_job("plain", "", REST))
    agent.api.submit(docker_job("gpu", device(GPU_1), STAY))
    runtimes = {}
    for job in ("plain", "gpu"):
        (allocation,) = agent.api.wait_for(job, "running")
        name = f"main-{allocation['ID']}"
        look = "{{.HostConfig.Runtime}}"
        runtimes[job] = docker_host.docker("inspect", "-f", look, name).stdout.strip()
    assert runtimes == {"plain": "runc", "gpu": "nvidia"}


def test_a_container_reads_its_vgpus_and_not_its_gpus_names(
    agent: Agent, docker_host: DockerHost, gpu_machine: GpuMachine
) -> None:
    """The toolkit takes NVIDIA_VISIBLE_DEVICES away; our own variables hold."""
    job = agent.api.submit(docker_job("environment", device(GPU_1)))
    (allocation,) = agent.api.wait_for(job, "complete")
    told = docker_host.environment(allocation)
    (vgpu,) = granted_ids(allocation)
    uuid = vgpu.rpartition("-")[0]
    assert told["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert told["NVIDIA_VGPU_IDS"] == vgpu
    assert told["NVIDIA_VGPU_BUDGETS"] == f"{uuid}={40960 // 16}"
    assert told["NVIDIA_VGPU_MEMORY_MIB"] == str(40960 // 16)


@pytest.mark.parametrize(("where", "own"), [(GPU_1, "1"), (GPU_2, "2")], ids=["gpu-1", "gpu-2"])
def test_a_container_may_open_its_own_gpu_alone(
    agent: Agent, docker_host: DockerHost, where: str, own: str
) -> None:
    """It has the device file of its GPU; root in it can make those of others, and may not open them."""
    tries = "; ".join(
        f"mknod /tmp/gpu{n} c {NVIDIA_MAJOR} {n}; echo try:{n}; cat /tmp/gpu{n} 2>&1"
        for n in (0, 1, 2)
    )
    script = f"{LOOK}; {tries}; echo end of tries"
    job = agent.api.submit(docker_job(f"opens-{own}", device(where), script))
    (allocation,) = agent.api.wait_for(job, "complete")
    output = docker_host.output(allocation, "end of tries")
    assert device_files(output) == {f"/dev/nvidia{own}"}
    said = {part[0]: part.splitlines()[1] for part in output.split("try:")[1:]}
    assert {n for n, line in said.items() if "No such device" in line} == {own}
    assert {n for n, line in said.items() if "not permitted" in line} == {"0", "1", "2"} - {own}


def test_16_containers_share_a_gpu_and_the_17th_waits(
    agent: Agent, docker_host: DockerHost, gpu_machine: GpuMachine
) -> None:
    """All of one GPU's vGPUs are given out; the next task starts when there are free ones again."""
    agent.api.submit(docker_job("sixteen", device(GPU_1), STAY, count=16))
    running = agent.api.wait_for("sixteen", "running", 16)
    ids = [vgpu for allocation in running for vgpu in granted_ids(allocation)]
    assert len(set(ids)) == 16
    assert {vgpu.rpartition("-")[0] for vgpu in ids} == {gpu_machine.uuid("gpu 1")}
    outputs = [docker_host.output(allocation, END_OF_ENVIRONMENT) for allocation in running]
    assert [device_files(text) for text in outputs] == [{"/dev/nvidia1"}] * 16
    agent.api.submit(docker_job("seventeenth", device(GPU_1), STAY))
    agent.api.wait_until_blocked("seventeenth")
    agent.api.stop(["sixteen"])
    agent.api.wait_for("seventeenth", "running")


def test_a_container_has_its_mig_device_and_no_other(
    agent: Agent, docker_host: DockerHost, gpu_machine: GpuMachine
) -> None:
    """The files are the GPU's, and the capabilities of its own instances."""
    job = agent.api.submit(docker_job("mig", device(MIG), STAY, count=2))
    capabilities = gpu_machine.root.capabilities()
    for allocation in agent.api.wait_for(job, "running", 2):
        (vgpu,) = granted_ids(allocation)
        uuid = vgpu.rpartition("-")[0]
        (section,) = (s for s in ("mig 0.0", "mig 0.2") if gpu_machine.uuid(s) == uuid)
        gi = gpu_machine.driver.get(section, "gi")
        names = (f"gpu0/gi{gi}/access", f"gpu0/gi{gi}/ci0/access")
        files = {f"/dev/nvidia-caps/nvidia-cap{capabilities[name]}" for name in names}
        seen = device_files(docker_host.output(allocation, END_OF_ENVIRONMENT))
        assert seen == {gpu_machine.root.gpu_file(0), *files}


def test_alloc_exec_enters_the_container(agent: Agent, gpu_machine: GpuMachine) -> None:
    """What is started in it later sees the same GPU, and there the variable has its UUID."""
    agent.api.submit(docker_job("entered", device(GPU_1), STAY))
    (allocation,) = agent.api.wait_for("entered", "running")
    done = agent.cli("alloc", "exec", "-i=false", "-t=false", allocation["ID"], "sh", "-c", LOOK)
    assert done.returncode == 0, done.stderr
    (vgpu,) = granted_ids(allocation)
    uuid = vgpu.rpartition("-")[0]
    assert device_files(done.stdout) == {gpu_file(gpu_machine, uuid)}
    assert f"NVIDIA_VISIBLE_DEVICES={uuid}" in done.stdout.splitlines()
