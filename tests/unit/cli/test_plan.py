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
