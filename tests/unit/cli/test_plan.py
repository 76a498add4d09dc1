# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu plan`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.main import run


def test_a_plan_shows_what_would_be_published(capsys: pytest.CaptureFixture[str]) -> None:
    """The tables have the groups that Nomad would be told of, and the plan's warnings."""
    assert run(["plan", "--vgpus", "4", "--simulate", "l4:2"]) == 0
    captured = capsys.readouterr()
    assert "letmutx/gpu/NVIDIA L4" in captured.out
    assert "simulated" in captured.err


def test_machines_get_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    """For machines, the plan is its groups and warnings."""
    run(["plan", "--vgpus", "4", "--simulate", "l4:2", "--vendor", "nvidia", "--json"])
    document = json.loads(capsys.readouterr().out)
    (group,) = document["groups"]
    assert group["device"] == "nvidia/gpu/NVIDIA L4"
    assert len(group["vgpus"]) == 8
    assert len(document["warnings"]) == 1


def test_a_file_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plan is made of an agent's file as of flags."""
    path = tmp_path / "agent.hcl"
    path.write_text('plugin "nvidia-vgpu" {\n config {\n vgpus = 2\n simulate = ["t4"]\n }\n}\n')
    assert run(["plan", "--config", str(path)]) == 0
    assert "letmutx/gpu/Tesla T4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "set vgpus or vgpu_memory in the config block"),
        (["--enabled", "false"], "enabled is false"),
    ],
)
def test_a_plan_of_nothing_says_why(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    """A config that publishes nothing is an empty plan, with the reason, on any node."""
    assert run(["plan", *arguments]) == 0
    captured = capsys.readouterr()
    assert "letmutx/gpu" not in captured.out
    assert says in captured.err


def test_a_plan_says_what_decides(capsys: pytest.CaptureFixture[str]) -> None:
    """Beside what would be published stands by which rule, for GPUs that the node does not have."""
    arguments = ["--simulate", "l4:2", "--gpu-vgpu-memory", "*L4*=10GiB", "--vgpus", "16"]
    assert run(["plan", *arguments]) == 0
    assert 'vgpu_memory = 10240 MiB (gpu "*L4*")' in capsys.readouterr().out
    assert run(["plan", *arguments, "--json"]) == 0
    gpus = json.loads(capsys.readouterr().out)["gpus"]
    assert [(one["vgpus"], one["share_mib"]) for one in gpus] == [(2, 11517), (2, 11517)]


def test_a_plan_that_cannot_be_made_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A GPU that no rule can divide is shown with the reason, and scripts see it too."""
    assert run(["plan", "--simulate", "t4", "--vgpu-memory", "20GiB"]) == 1
    assert "less than one vgpu_memory of 20480 MiB" in capsys.readouterr().out


def test_gpus_that_are_all_ignored_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A plan that publishes nothing shows why."""
    assert run(["plan", "--simulate", "t4", "--vgpus", "2", "--gpu-ignored", "*=true"]) == 0
    captured = capsys.readouterr()
    assert 'ignored (gpu "*")' in captured.out
    assert "this node would publish nothing" in captured.err
