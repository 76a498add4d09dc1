# SPDX-License-Identifier: MPL-2.0
"""What Nomad does to mounts and device files, as docs/sharing.md says.

A test that fails here is good news: Nomad has fixed it, and the page can say since when.
"""

from pathlib import Path
from typing import NamedTuple

import pytest
from cdi_node.node import CdiNode
from libnvidia_ml.driver import FakeDriver

from e2e.conftest import T4, StartAgent, plugin_block
from e2e.jobs import END_OF_ENVIRONMENT, constraint, device
from e2e.test_device_nodes import needs_exec
from e2e.waiting import wait_until

pytestmark = pytest.mark.nomad

_JOB = """
job "{name}" {{
  datacenters = ["dc1"]
  type        = "service"

  group "work" {{
    {volume}
    task "main" {{
      driver = "exec"
      config {{
        command = "/bin/sh"
        args    = ["-c", "{script}; echo {end}; exec sleep 3600"]
      }}
      {volume_mount}
      resources {{
        cpu    = 10
        memory = 16
        {device}
      }}
    }}
  }}
}}
"""
_ON_T4 = device(constraint("device.model", "=", T4))
_LOOK = "[ -d /vol ] && echo volume; [ -c /dev/nvidiactl ] && echo device; echo gpu:$CUDA_VISIBLE_DEVICES"


class Node(NamedTuple):
    """A machine with a T4 and a specification that names it."""

    environment: dict[str, str]
    config: str
    t4: str


@pytest.fixture
def node(nvml: Path, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """Its config also has a host volume."""
    driver = FakeDriver(nvml, tmp_path_factory.mktemp("gpus"), "mixed")
    t4 = driver.get("gpu 2", "uuid")
    assert t4 is not None
    cdi = CdiNode(tmp_path_factory.mktemp("cdi"))
    cdi.load("toolkit-1.17.yaml", devices="/dev/zero", uuids=(t4, "GPU-nowhere"))
    volume = tmp_path_factory.mktemp("volume")
    options = f'vgpus = 2\n device_nodes = "cdi"\n cdi_spec_dirs = ["{cdi.etc}"]'
    host_volume = f'client {{\n host_volume "data" {{\n path = "{volume}"\n }}\n}}\n'
    return Node(driver.environment(), plugin_block(options) + host_volume, t4)


def test_a_volume_is_lost_beside_mounts(start_agent: StartAgent, node: Node) -> None:
    """A task has its volume without a vGPU, and not with one that brings mounts."""
    agent = start_agent(node.config, environment=node.environment)
    needs_exec(agent)
    outputs = {}
    for name, block in (("plain", ""), ("gpu", _ON_T4)):
        job = _JOB.format(
            name=name,
            script=_LOOK,
            end=END_OF_ENVIRONMENT,
            device=block,
            volume='volume "data" {\n type = "host"\n source = "data"\n }',
            volume_mount='volume_mount {\n volume = "data"\n destination = "/vol"\n }',
        )
        (allocation,) = agent.api.wait_for(agent.api.submit(job), "running")
        outputs[name] = agent.api.output(allocation, END_OF_ENVIRONMENT).splitlines()
    assert "volume" in outputs["plain"]
    assert "device" in outputs["gpu"]
    assert "volume" not in outputs["gpu"]


def test_device_files_are_lost_when_agent_and_task_have_restarted(
    start_agent: StartAgent, node: Node
) -> None:
    """The task's first start has its files, the one after a restart of the agent its variables."""
    agent = start_agent(node.config, environment=node.environment, dev=False)
    needs_exec(agent)
    job = _JOB.format(
        name="stayer",
        script=_LOOK,
        end=END_OF_ENVIRONMENT,
        device=_ON_T4,
        volume="",
        volume_mount="",
    )
    (allocation,) = agent.api.wait_for(agent.api.submit(job), "running")
    first = agent.api.output(allocation, END_OF_ENVIRONMENT)
    assert "device" in first.splitlines()
    agent.stop()
    agent.start()
    done = agent.cli("alloc", "restart", str(allocation["ID"]))
    assert done.returncode == 0, done.stderr

    def second() -> str | None:
        output = agent.api.output(allocation, END_OF_ENVIRONMENT)
        return output[len(first) :] if output.count(END_OF_ENVIRONMENT) > 1 else None

    again = wait_until("the task has started a second time", second).splitlines()
    assert f"gpu:{node.t4}" in again
    assert "device" not in again
