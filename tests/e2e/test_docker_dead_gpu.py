# SPDX-License-Identifier: MPL-2.0
"""Containers on a GPU that dies, in a job with Nomad's default blocks: they come to another GPU."""

import psutil
import pytest

from e2e.api import granted_ids
from e2e.conftest import GpuMachine, StartAgent, plugin_block
from e2e.docker_host import DockerHost
from e2e.docker_jobs import STAY, docker_job, docker_plugin
from e2e.jobs import constraint, device
from e2e.waiting import wait_until

pytestmark = pytest.mark.nomad

DEFAULTS_S = 180.0
"""Two restarts in place after 15 s each, and 30 s until the task is placed again."""


def test_a_container_leaves_a_lost_gpu_with_the_default_blocks(
    gpu_machine: GpuMachine, docker_host: DockerHost, start_agent: StartAgent
) -> None:
    """`end_tasks` ends it; Nomad starts it in place in vain, and then on the GPU that is left."""
    driver = gpu_machine.driver
    others = ", ".join(f'"{gpu_machine.uuid(s)}"' for s in ("mig 0.0", "mig 0.2"))
    options = f'vgpus = 2\n ignored_gpu_ids = [{others}]\n fingerprint_period = "1s"'
    agent = start_agent(
        plugin_block(f"{options}\n health {{\n end_tasks = true\n }}")
        + docker_plugin(docker_host.socket),
        environment=driver.environment(),
    )
    agent.api.wait_for_groups()
    any_gpu = constraint("device.model", "=", "NVIDIA A100-SXM4-40GB")
    agent.api.submit(docker_job("moves", device(any_gpu), STAY))
    (first,) = agent.api.wait_for("moves", "running")
    (vgpu,) = granted_ids(first)
    (number,) = (n for n in (1, 2) if vgpu.startswith(gpu_machine.uuid(f"gpu {n}")))
    section = f"gpu {number}"
    process = psutil.Process(docker_host.pid(first))
    driver.set(section, "compute_processes", f"{process.pid}:100")

    def used() -> bool:
        groups = agent.api.device_stats(agent.api.node())
        figures = [
            g["InstanceStats"][vgpu]["Summary"] for g in groups if vgpu in g["InstanceStats"]
        ]
        return any(figure.get("IntNumeratorVal") == 100 for figure in figures)

    wait_until("it is seen on its GPU", used)
    try:
        driver.set(section, "lost", 1)
        wait_until("it is ended", lambda: not process.is_running(), seen=agent.log_tail)

        def moved() -> str | None:
            running = [a for a in agent.api.allocations("moves") if a["ClientStatus"] == "running"]
            ids = [granted_ids(allocation)[0] for allocation in running]
            return next((i for i in ids if not i.startswith(gpu_machine.uuid(section))), None)

        wait_until(
            "it runs on the other GPU", moved, DEFAULTS_S, lambda: agent.api.explain("moves")
        )
    finally:
        driver.clear(section, "lost")
        driver.clear(section, "compute_processes")
