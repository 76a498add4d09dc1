# SPDX-License-Identifier: MPL-2.0
"""What `install` writes, as real agents read it."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from e2e import binaries
from e2e.agent import Agent
from e2e.conftest import StartAgent, every_nomad

pytestmark = pytest.mark.nomad

UNPACK_DIR = "NVIDIA_VGPU_UNPACK_DIR"
FLAGS = (
    "--simulate=t4:2",
    "--simulate=l4",
    "--vgpus=2",
    "--gpu-vgpus=*T4*=3",
    "--gpu-name=*L4*=half an L4",
    "--vendor=nvidia.com",
    "--mps-mount=true",
    "--health-fatal-xids=43",
    "--visible-devices-envs=NVIDIA_VISIBLE_DEVICES",
    "--visible-devices-envs=CUDA_VISIBLE_DEVICES",
)


@pytest.fixture(scope="module")
def file(one_file: Path) -> str:
    """The program as it is given out, which can be copied."""
    return str(one_file)


def installed(file: str, agent: Agent, environment: Mapping[str, str], status: int = 0) -> str:
    """Installs for an agent that does not run yet; what was printed."""
    (agent.plugin_dir / binaries.PLUGIN_NAME).unlink()
    configs = [f"--agent-config={path}" for path in agent.configs]
    done = subprocess.run(
        [file, "install", *FLAGS, *configs],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout


@every_nomad
@pytest.mark.parametrize("form", ["hcl", "json"])
def test_every_option_reaches_the_plugin(
    form: str, file: str, start_agent: StartAgent, tmp_path: Path
) -> None:
    """Written into a folder, or printed for an agent whose one file is JSON."""
    unpacked = {UNPACK_DIR: str(tmp_path / "unpacked")}
    agent = start_agent("", environment=unpacked, start=False)
    if form == "hcl":
        folder = agent.root / "nomad.d"
        folder.mkdir()
        agent.configs.append(folder)
        installed(file, agent, unpacked)
        assert (folder / "nvidia-vgpu.hcl").exists()
    else:
        last = agent.root / "last.json"
        last.write_text("{}")
        agent.configs.append(last)
        printed = installed(file, agent, unpacked, status=1)  # the block is still to be added
        last.write_text(printed[printed.index("{") :])
        assert json.loads(last.read_text())["plugin"]
    agent.start()
    agent.api.wait_for_groups(2)
    groups = agent.api.device_groups()
    shares = {name: len(group.healthy) for name, group in groups.items()}
    assert shares == {"Tesla T4": 6, "half an L4": 2}
    assert {device["Vendor"] for device in agent.api.node()["NodeResources"]["Devices"]} == {
        "nvidia.com"
    }
