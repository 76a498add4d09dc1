# SPDX-License-Identifier: MPL-2.0
"""The table of checks."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.checks import CHECKS, Check
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level
from nomad_nvidia_vgpu.cli.diagnosis.running import Running
from nomad_nvidia_vgpu.errors import Problem
from unit.cli.diagnosis.nodes import agent, driver, facts, group, node, offered, said, written
from unit.example_gpus import gpu


def test_subjects_stand_together_and_names_are_unique() -> None:
    """The output has one table for each subject."""
    subjects = [subject for subject, _ in groupby(CHECKS, lambda check: check.subject)]
    assert len(subjects) == len(set(subjects))
    assert len({(check.subject, check.name) for check in CHECKS}) == len(CHECKS)


def test_every_check_says_what_it_is_for() -> None:
    """The first line of each function is a promise."""
    assert all((check.look.__doc__ or "").startswith("Whether ") for check in CHECKS)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_good_node_is_ok_in_every_respect(tmp_path: Path, check: Check) -> None:
    """No check cries wolf, and each says something."""
    file = written(tmp_path / "plugins/nvidia-vgpu", "#!/bin/sh\n# nomad_nvidia_vgpu\n")
    file.chmod(0o755)
    ids = [f"GPU-a-{n}" for n in range(4)]
    known = facts(
        tmp_path,
        look=driver(gpu("GPU-a"), version="580.95.05"),
        nomad=offered(group("NVIDIA L4", ids)),
        on=node(tmp_path, ["nvidia-cuda-mps-control"]),
        running=Running(agent(path=None)),
    )
    assert [level for level, _ in said(check.look, known)] == [Level.OK]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_an_empty_node_breaks_no_check(tmp_path: Path, check: Check) -> None:
    """Where nothing is there, nothing is raised."""
    known = facts(tmp_path, options=None, look=driver(problem=Problem("no driver", "install it")))
    said(check.look, known)
