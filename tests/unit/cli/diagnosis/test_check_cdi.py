# SPDX-License-Identifier: MPL-2.0
"""The check of CDI specifications."""

from __future__ import annotations

from pathlib import Path

import pytest
from cdi_node.node import GPUS, CdiNode

from nomad_nvidia_vgpu.cli.diagnosis.check_cdi import found, specification
from nomad_nvidia_vgpu.cli.diagnosis.driver_look import DriverLook
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level
from nomad_nvidia_vgpu.errors import Problem
from unit.cli.diagnosis.nodes import assert_one, driver, facts, said, written
from unit.example_gpus import gpu

NONE, CDI = "vgpus = 4", 'vgpus = 4\ndevice_nodes = "cdi"'
YAML = """\
cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  mounts:
  - containerPath: /lib/libcuda.so.590.48.01
    hostPath: /lib/libcuda.so.590.48.01
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
"""
RUNNING = driver(gpu(), version="590.48.01")


def on(tmp_path: Path, cdi: CdiNode, options: str, look: DriverLook = RUNNING) -> Facts:
    """A node whose specifications are there."""
    dirs = ", ".join(f'"{path}"' for path in cdi.directories)
    return facts(tmp_path, options=f"{options}\ncdi_spec_dirs = [{dirs}]", look=look)


def test_no_specification_is_ok_where_none_is_needed(tmp_path: Path) -> None:
    """Docker's runtime makes its own."""
    assert_one(specification, facts(tmp_path, look=RUNNING), Level.OK, "none is needed")


def test_no_specification_is_an_error_where_tasks_need_one(tmp_path: Path) -> None:
    """In the words by which a task would fail, with the command that writes one."""
    words = ("no CDI specification", "GPU-a", "nvidia-ctk cdi generate")
    assert_one(specification, facts(tmp_path, options=CDI, look=RUNNING), Level.ERROR, *words)


@pytest.mark.parametrize("place", ["etc/cdi/nvidia.yaml", "run/cdi/nvidia.yml"])
def test_the_usual_places_are_looked_at(tmp_path: Path, place: str) -> None:
    """Where nvidia-ctk writes, and the toolkit's service."""
    path = written(tmp_path / place, YAML)
    assert_one(specification, facts(tmp_path, look=RUNNING), Level.OK, str(path))


@pytest.mark.parametrize(("options", "level"), [(NONE, Level.WARNING), (CDI, Level.ERROR)])
def test_a_specification_of_an_older_driver_is_found(
    tmp_path: Path, options: str, level: Level
) -> None:
    """Its files are gone since the upgrade: an error where tasks need them."""
    path = written(tmp_path / "etc/cdi/nvidia.yaml", YAML.replace("590.48.01", "580.95.05"))
    level_of, text = said(specification, facts(tmp_path, options=options, look=RUNNING))[0]
    assert level_of is level
    assert f"{path} names the files of driver 580.95.05, and 590.48.01 runs" in text
    assert text.endswith(f"--output={path}")


def test_without_a_driver_its_age_is_not_judged(tmp_path: Path) -> None:
    """There is nothing to compare with."""
    written(tmp_path / "etc/cdi/nvidia.yaml", YAML)
    assert_one(specification, facts(tmp_path, look=driver(problem=Problem("x", "y"))), Level.OK)


@pytest.mark.parametrize(("options", "level"), [(NONE, Level.WARNING), (CDI, Level.ERROR)])
def test_a_file_that_is_none_is_found(tmp_path: Path, options: str, level: Level) -> None:
    """A file that was written half."""
    written(tmp_path / "etc/cdi/a.json", "{")
    assert said(specification, facts(tmp_path, options=options, look=RUNNING))[0][0] is level


def test_other_vendors_files_are_not_ours_to_judge(tmp_path: Path) -> None:
    """Nor are other files."""
    written(tmp_path / "etc/cdi/intel.yaml", YAML.replace("nvidia.com/gpu", "intel.com/gpu"))
    written(tmp_path / "etc/cdi/README", "hello")
    assert found(facts(tmp_path)).specs == ()


def test_each_gpu_is_tried_as_a_task_would_be(tmp_path: Path) -> None:
    """One that no specification names is an error, and another is none."""
    look = driver(gpu(GPUS[0]), gpu("GPU-z"))
    verdicts = said(specification, on(tmp_path, CdiNode(tmp_path / "cdi"), CDI, look))
    (refusal,) = [text for level, text in verdicts if level is Level.ERROR]
    assert "cannot reserve GPU-z" in refusal


def test_hooks_without_a_form_in_nomad_are_named(tmp_path: Path) -> None:
    """They are no fault, and no task gets them."""
    look = driver(gpu(GPUS[0]), gpu(GPUS[1]), version="575.57.08")
    verdicts = said(specification, on(tmp_path, CdiNode(tmp_path / "cdi"), CDI, look))
    assert [level for level, _ in verdicts] == [Level.OK, Level.OK]
    assert "Nomad has no form" in verdicts[1][1]
    assert "enable-cuda-compat" in verdicts[1][1]
