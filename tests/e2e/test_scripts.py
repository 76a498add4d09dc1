# SPDX-License-Identifier: MPL-2.0
"""`make eval` and `make demo`, and with the first of them Nomad's own plugin launcher."""

import os
import re
import shutil
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


def _in_this_order(text: str, *parts: str) -> list[str]:
    """What stands after each of these headings, up to the next."""
    found = []
    for part in parts:
        before, heading, text = text.partition(f"== {part}")
        assert heading, f"no {part!r} in {text or before}"
        found.append(before)
    return [*found[1:], text]


def _leads_somewhere(try_next: str) -> None:
    """Each command that the demo ends with works, on simulated GPUs, and each page is there."""
    commands = re.findall(r"^  \S*nvidia-vgpu (.*)", try_next, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        words = [word for word in command.split() if word != "--watch"]  # else it would go on
        asked = [str(binaries.plugin()), *words, "--simulate", "t4"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "letmutx/gpu/Tesla T4" in done.stdout
    pages = re.findall(r"^  (\S+\.md)$", try_next, re.MULTILINE)
    assert pages
    assert all((binaries.REPOSITORY / page).exists() for page in pages)


def test_the_demo_shows_two_tasks_on_one_gpu() -> None:
    """The demo shows groups, a task's variables, figures that move, two tasks on a GPU, what is next."""
    binaries.nomad()
    done = _run("demo.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    groups, example, figures, sharers, try_next = _in_this_order(
        done.stdout, "What the node offers", "The example job", "Figures", "Two tasks", "Try next"
    )
    assert "letmutx/gpu/Tesla T4: 16 vGPUs of 960 MiB" in groups
    assert "NVIDIA_VGPU_MEMORY_MIB=5120" in example
    looks = re.findall(r"^GPU utilization .*Temperature .*", figures, re.MULTILINE)
    assert len(looks) == 3
    assert len(set(looks)) > 1
    told = re.findall(r"^  NVIDIA_VISIBLE_DEVICES=(\S+)", sharers, re.MULTILINE)
    assert len(told) == 2
    assert len(set(told)) == 1
    vgpus = re.findall(r"^  NVIDIA_VGPU_IDS=(\S+)", sharers, re.MULTILINE)
    assert len(set(vgpus)) == 2
    _leads_somewhere(try_next)


def test_the_demo_without_nomad_shows_the_same_of_the_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader without Nomad sees groups, a task's variables and figures that move, in that order."""
    for tool in ("bash", "dirname", "awk", "cat", "env"):
        where = shutil.which(tool)
        assert where
        (tmp_path / tool).symlink_to(where)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("NVIDIA_VGPU_NOMAD_DIR", str(tmp_path))
    done = _run("demo.sh")
    assert done.returncode == 0, done.stdout + done.stderr
    plan, figures, try_next = _in_this_order(
        done.stdout, "What Nomad would see", "Figures", "Try next"
    )
    assert plan.index("letmutx/gpu/Tesla T4") < plan.index("NVIDIA_VGPU_MEMORY_MIB")
    looks = re.findall(r"^Memory state .*", figures, re.MULTILINE)
    assert len(looks) == 3
    assert len(set(looks)) > 1
    _leads_somewhere(try_next)
