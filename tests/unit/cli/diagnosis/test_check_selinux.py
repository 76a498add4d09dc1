# SPDX-License-Identifier: MPL-2.0
"""The check of SELinux."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.check_selinux import labels
from nomad_nvidia_vgpu.cli.diagnosis.facts import Facts
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level
from nomad_nvidia_vgpu.sharing.mps.view import DaemonView
from unit.cli.diagnosis.nodes import assert_one, facts, node, written


def known(tmp_path: Path, mps_root: Path, label: str | None, enforce: str = "1\n") -> Facts:
    """A node with SELinux and one MPS daemon, whose pipe directory has this label."""
    written(tmp_path / "sys/fs/selinux/enforce", enforce)
    (mps_root / "GPU-a/pipe").mkdir(parents=True)
    return facts(
        tmp_path,
        options=f'vgpus = 4\nsharing = "mps"\nmps {{\n root = "{mps_root}"\n}}',
        daemons=[DaemonView("GPU-a", "ready")],
        on=node(tmp_path, label=lambda _path: label),
    )


def test_a_node_without_selinux_is_ok(tmp_path: Path) -> None:
    """Most have none."""
    assert_one(labels, facts(tmp_path), Level.OK, "not in use")


def test_a_label_that_containers_may_not_touch_is_a_warning(tmp_path: Path, mps_root: Path) -> None:
    """The task's CUDA would say no more than that it cannot connect."""
    found = known(tmp_path, mps_root, "system_u:object_r:var_run_t:s0")
    assert_one(labels, found, Level.WARNING, "var_run_t", f"chcon -Rt container_file_t {mps_root}")


@pytest.mark.parametrize(
    ("label", "enforce"),
    [("system_u:object_r:container_file_t:s0", "1\n"), ("system_u:object_r:var_run_t:s0", "0\n")],
)
def test_the_right_label_or_no_force_is_ok(
    tmp_path: Path, mps_root: Path, label: str, enforce: str
) -> None:
    """Permissive SELinux keeps nobody out."""
    assert_one(labels, known(tmp_path, mps_root, label, enforce), Level.OK)
