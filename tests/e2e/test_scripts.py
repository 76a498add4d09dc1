# SPDX-License-Identifier: MPL-2.0
"""`make eval` and `make demo`, and with the first of them Nomad's own plugin launcher."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from e2e import binaries

pytestmark = pytest.mark.nomad

SCRIPTS = binaries.REPOSITORY / "scripts"


def _run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPTS / script, *arguments],
        env={**os.environ, "NVIDIA_VGPU_PLUGIN": str(binaries.plugin())},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_nomads_launcher_gets_all_three_answers() -> None:
    """Nomad's launcher shows the fingerprint, the figures, a reservation and a refusal."""
    done = _run("eval.sh", binaries.built("launcher").parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r'Name: +"Tesla T4"', done.stdout)
    assert re.search(r'"vgpu_memory": +7680MiB', done.stdout)
    assert "&device.StatsResponse{" in done.stdout
    gpu = r"GPU-[0-9a-f-]{36}"
    assert re.search(rf'"NVIDIA_VGPU_IDS":"{gpu}-0"', done.stdout)
    assert re.search(rf'"NVIDIA_VISIBLE_DEVICES":"{gpu}"', done.stdout)
    assert "is not a vGPU of this node" in done.stdout


def test_the_launcher_run_fails_on_a_bad_config(tmp_path: Path) -> None:
    """The launcher script ends with an error, and shows ours, when the config is refused."""
    config = tmp_path / "bad.hcl"
    config.write_text("config {\n  vgpus = 0\n}\n")
    done = _run("eval.sh", binaries.built("launcher").parent, config)
    assert done.returncode != 0
    assert "vgpus must be a whole number from 1 to 256" in done.stderr


def test_the_demo_shows_two_tasks_on_one_gpu() -> None:
    """The demo runs the example job and then two tasks, both on the one T4, and cleans up."""
    binaries.nomad()
    done = _run("demo.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    example, _, rest = done.stdout.partition("Two tasks that share one GPU")
    assert "NVIDIA_VGPU_MEMORY_MIB=5120" in example
    told = re.findall(r"^  NVIDIA_VISIBLE_DEVICES=(\S+)", rest, re.MULTILINE)
    assert len(told) == 2
    assert len(set(told)) == 1
    vgpus = re.findall(r"^  NVIDIA_VGPU_IDS=(\S+)", rest, re.MULTILINE)
    assert len(set(vgpus)) == 2
    assert re.search(r"^Temperature +=", rest, re.MULTILINE)
