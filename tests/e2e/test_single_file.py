# SPDX-License-Identifier: MPL-2.0
"""The single file in plugin_dir, as an operator puts it there."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from e2e import binaries
from e2e.api import granted_ids
from e2e.conftest import StartAgent, every_nomad, plugin_block
from e2e.jobs import device, printing_job

UNPACK_DIR = "NVIDIA_VGPU_UNPACK_DIR"

pytestmark = pytest.mark.nomad


@every_nomad
def test_a_job_runs_on_a_vgpu(one_file: Path, start_agent: StartAgent, tmp_path: Path) -> None:
    """Installed by itself; of the three starts, without HOME, the first unpacks."""
    unpacked = tmp_path / "unpacked"
    agent = start_agent(
        plugin_block('vgpus = 2\n simulate = ["t4"]'),
        environment={UNPACK_DIR: str(unpacked)},
        start=False,
    )
    entry = agent.plugin_dir / binaries.PLUGIN_NAME
    entry.unlink()  # the link to the program that other tests run
    configs = [f"--agent-config={path}" for path in agent.configs]
    done = subprocess.run(
        [one_file, "install", *configs],
        env={**os.environ, UNPACK_DIR: str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "restart the agent" in done.stderr
    shutil.rmtree(unpacked)  # of the agent's three starts, too, one is the first
    agent.start()
    job = agent.api.submit(printing_job("single", device()))
    (allocation,) = agent.api.wait_for(job, "complete")
    environment = agent.api.environment(allocation)
    assert environment["NVIDIA_VGPU_MEMORY_MIB"] == "7680"
    assert [environment["NVIDIA_VGPU_IDS"]] == granted_ids(allocation)
    assert [path.name for path in agent.plugin_dir.iterdir()] == [binaries.PLUGIN_NAME]
    assert str(entry) in agent.the_plugin().cmdline()
    (contents,) = unpacked.iterdir()
    mapped = Path(f"/proc/{agent.the_plugin().pid}/maps").read_text()
    assert str(contents) in mapped  # the compiled modules are those of the file
