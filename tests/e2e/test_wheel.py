# SPDX-License-Identifier: MPL-2.0
"""The wheel in a virtual environment of its own, as docs/packaging.md says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e import binaries
from e2e.api import granted_ids
from e2e.conftest import StartAgent, plugin_block
from e2e.jobs import device, printing_job
from scripts.dist import build_wheel

pytestmark = pytest.mark.nomad

REQUIREMENTS = binaries.REPOSITORY / "requirements/run.txt"


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment with the pinned packages, checked by their hashes, and our wheel."""
    place = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    install = (place / "bin/pip", "install", "--quiet", "--disable-pip-version-check")
    subprocess.run([*install, "--require-hashes", f"--requirement={REQUIREMENTS}"], check=True)
    subprocess.run([*install, "--no-deps", build_wheel(tmp_path)], check=True)
    return place


def test_a_job_runs_on_a_vgpu(environment: Path, start_agent: StartAgent) -> None:
    """`install` links to it, and nothing of this checkout is run."""
    agent = start_agent(plugin_block('vgpus = 2\n simulate = ["t4"]'), start=False)
    entry = agent.plugin_dir / binaries.PLUGIN_NAME
    entry.unlink()  # the link to the program that other tests run
    program = environment / "bin/nvidia-vgpu"
    configs = [f"--agent-config={path}" for path in agent.configs]
    subprocess.run(
        [program, "install", *configs],
        env={name: text for name, text in os.environ.items() if not name.startswith("PYTHON")},
        check=True,
    )
    assert entry.resolve() == program.resolve()
    agent.start()
    job = agent.api.submit(printing_job("wheel", device()))
    (allocation,) = agent.api.wait_for(job, "complete")
    told = agent.api.environment(allocation)
    assert [told["NVIDIA_VGPU_IDS"]] == granted_ids(allocation)
    mapped = Path(f"/proc/{agent.the_plugin().pid}/maps").read_text()
    assert f"{environment}/lib" in mapped
    assert str(binaries.REPOSITORY) not in mapped
