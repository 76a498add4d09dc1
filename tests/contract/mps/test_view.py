# SPDX-License-Identifier: MPL-2.0
"""A look at the MPS daemons, over the fake control tool."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mps_control.control import FakeMps, install
from unit.example_gpus import gpu
from unit.gpu.scripted_source import ScriptedSource

from nomad_nvidia_vgpu.config.blocks import MpsConfig
from nomad_nvidia_vgpu.sharing.mps import control as mps_tool
from nomad_nvidia_vgpu.sharing.mps.enforcer import MpsEnforcer
from nomad_nvidia_vgpu.sharing.mps.view import DaemonView, daemon_views


@pytest.fixture
def mps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMps]:
    """Gives the fake tool, first in PATH; ends its daemons after the test."""
    made = install(tmp_path / "bin")
    monkeypatch.setenv("PATH", made.environment()["PATH"])
    yield made
    made.stop_all()


@pytest.mark.usefixtures("mps")
def test_a_daemon_shows_its_limits_and_clients(mps_root: Path) -> None:
    """What an operator asks first: does it run, what may a task take, who is there."""
    config = MpsConfig(root=str(mps_root), max_vgpus_per_task=1)
    MpsEnforcer(config, ScriptedSource()).keep(gpu("GPU-a", memory_mib=8000), 4)
    (view,) = daemon_views(config)
    assert view == DaemonView("GPU-a", view.state, True, "1G", "25.0", (), "0")
    assert view.working


def test_a_daemon_that_is_gone_does_not_work(mps_root: Path, mps: FakeMps) -> None:
    """Its directory is there, and nobody answers."""
    config = MpsConfig(root=str(mps_root))
    MpsEnforcer(config, ScriptedSource()).keep(gpu("GPU-a"), 4)
    mps.stop_all()
    (view,) = daemon_views(config)
    assert (view.uuid, view.state, view.working) == ("GPU-a", "not running", False)


def test_a_daemon_is_asked_by_the_tool_of_the_path_that_is_given(
    mps_root: Path, mps: FakeMps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doctor gives the agent's: a tool in the shell's may be none that works."""
    config = MpsConfig(root=str(mps_root))
    MpsEnforcer(config, ScriptedSource()).keep(gpu("GPU-a"), 4)
    broken = tmp_path / "shell" / mps.control.name
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho broken\n")
    broken.chmod(0o755)
    agents_path = os.environ["PATH"]
    monkeypatch.setenv("PATH", f"{broken.parent}:{agents_path}")
    monkeypatch.setattr(mps_tool, "ANSWER_S", 60.0)
    assert [view.working for view in daemon_views(config, agents_path)] == [True]
    monkeypatch.setattr(mps_tool, "ANSWER_S", 0.1)
    assert [view.working for view in daemon_views(config)] == [False]


def test_a_node_that_never_used_mps_has_no_daemons(mps_root: Path) -> None:
    """Nothing is looked for, and no tool is needed."""
    assert daemon_views(MpsConfig(root=str(mps_root))) == []
