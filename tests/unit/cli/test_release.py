# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu release`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli import release
from nomad_nvidia_vgpu.cli.main import run
from nomad_nvidia_vgpu.config.options import MpsConfig
from nomad_nvidia_vgpu.gpu.profiles import SimulatedGpus
from nomad_nvidia_vgpu.sharing.mps.compute_mode import ComputeModeJournal
from nomad_nvidia_vgpu.sharing.mps.enforcer import MpsEnforcer
from unit.gpu.scripted_source import ScriptedSource


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> ScriptedSource:
    """Gives the node's driver."""
    made = ScriptedSource()

    def source_of(_simulate: Sequence[SimulatedGpus]) -> ScriptedSource:
        return made

    monkeypatch.setattr(release, "source_of", source_of)
    return made


def test_compute_modes_are_restored(
    source: ScriptedSource, mps_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the plugin changed is as it was, and each GPU is named."""
    mps_root.mkdir()
    ComputeModeJournal(mps_root / "compute-modes.json", source).set_exclusive("GPU-a")
    assert source.modes == {"GPU-a": "EXCLUSIVE_PROCESS"}
    assert run(["release", "--mps-root", str(mps_root)]) == 0
    assert source.modes == {"GPU-a": "DEFAULT"}
    assert "GPU-a: released" in capsys.readouterr().err


@pytest.mark.usefixtures("source")
def test_a_node_that_never_used_mps_has_nothing_to_release(
    mps_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so, and leaves nothing behind."""
    assert run(["release", "--mps-root", str(mps_root)]) == 0
    assert "nothing to release" in capsys.readouterr().err
    assert not mps_root.exists()


def test_beside_a_running_plugin_nothing_is_released(
    source: ScriptedSource, mps_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plugin would start again what was ended: the agent has to be stopped first."""
    mps_root.mkdir()
    ComputeModeJournal(mps_root / "compute-modes.json", source).set_exclusive("GPU-a")
    running = MpsEnforcer(MpsConfig(root=str(mps_root)), source)
    assert running.release("GPU-b") == ""
    assert run(["release", "--mps-root", str(mps_root)]) == 1
    assert source.modes == {"GPU-a": "EXCLUSIVE_PROCESS"}
    assert "another process of this plugin" in capsys.readouterr().err


def test_simulated_gpus_have_nothing_to_release(capsys: pytest.CaptureFixture[str]) -> None:
    """No driver is missed, which this machine may well not have."""
    assert run(["release", "--simulate", "t4"]) == 0
    (said,) = capsys.readouterr().err.splitlines()
    assert said == "simulated GPUs have no MPS daemons: nothing to release"


@pytest.mark.parametrize(
    "content", ['plugin "nvidia-vgpu" {', 'plugin "nvidia-vgpu" {\n vgpus = 3\n}\n']
)
def test_without_the_agents_options_nothing_is_released(
    agent_files: Path,
    source: ScriptedSource,
    mps_root: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
) -> None:
    """It would look in the wrong place and call the node clean; whoever says the place goes on."""
    agent_files.mkdir()
    (agent_files / "nomad.hcl").write_text(content)
    assert run(["release"]) == 1
    why, remedy = capsys.readouterr().err.splitlines()
    assert str(agent_files / "nomad.hcl") in why
    assert "say --config or --mps-root" in remedy
    mps_root.mkdir()
    ComputeModeJournal(mps_root / "compute-modes.json", source).set_exclusive("GPU-a")
    assert run(["release", "--mps-root", str(mps_root)]) == 0
    assert capsys.readouterr().err == "GPU-a: released\n"
    good = mps_root.parent / "good.hcl"
    good.write_text(f'vgpus = 2\nmps {{\n root = "{mps_root}"\n}}\n')
    assert run(["release", "--config", str(good)]) == 0
    assert str(agent_files) not in capsys.readouterr().err


def test_a_root_that_others_can_change_is_not_released(
    source: ScriptedSource, mps_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would choose which folders root removes, and which compute modes it sets."""
    mps_root.mkdir()
    ComputeModeJournal(mps_root / "compute-modes.json", source).set_exclusive("GPU-a")
    mps_root.chmod(0o777)
    assert run(["release", "--mps-root", str(mps_root)]) == 1
    assert "can be written to by others" in capsys.readouterr().err
    assert source.modes == {"GPU-a": "EXCLUSIVE_PROCESS"}
