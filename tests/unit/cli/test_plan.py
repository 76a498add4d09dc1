# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu plan`."""

from __future__ import annotations

import json
import re
import sys
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
    assert [(gpu["vgpus"], gpu["share_mib"]) for gpu in gpus] == [(2, 11517), (2, 11517)]


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


def test_a_plan_shows_what_a_task_would_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    """The variables of a task with one vGPU, which follow from the options and are in no other place."""
    arguments = ["--simulate", "l4", "--vgpus", "2", "--framework-hints", "tensorflow"]
    assert run(["plan", *arguments]) == 0
    assert "TF_FORCE_GPU_ALLOW_GROWTH" in capsys.readouterr().out
    assert run(["plan", *arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (vgpu,) = document["reservation"]["ids"]
    assert vgpu == document["groups"][0]["vgpus"][0]["id"]
    assert document["reservation"]["envs"]["NVIDIA_VGPU_IDS"] == vgpu


def test_the_agents_own_files_are_the_default(
    agent_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where this node's agent has the plugin's options they need not be named, and it is said."""
    agent_files.mkdir()
    file = agent_files / "gpus.hcl"
    file.write_text('plugin "nvidia-vgpu" {\n config {\n vgpus = 3\n simulate = ["t4"]\n }\n}\n')
    assert run(["plan", "--json"]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["groups"][0]["vgpus"]) == 3
    assert f"with the options in {file}; --config names another file" in captured.err
    assert run(["plan", "--json", "--vgpus", "5"]) == 0
    assert len(json.loads(capsys.readouterr().out)["groups"][0]["vgpus"]) == 5


@pytest.mark.parametrize(
    "content",
    ['plugin "nvidia-vgpu" {', 'log_level = "WARN"\n', 'plugin "vgpu" {\n config {}\n}\n'],
)
def test_files_without_the_options_hinder_nobody(
    agent_files: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    """A folder that was not asked for is no reason to refuse, whatever is in it."""
    agent_files.mkdir()
    (agent_files / "nomad.hcl").write_text(content)
    assert run(["plan", "--vgpus", "2", "--simulate", "t4", "--json"]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["groups"][0]["vgpus"]) == 2
    assert ("are not known" in captured.err) == ("plugin" in content)


def test_options_beside_the_config_block_are_told(
    agent_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that Nomad does not pass on is an error about its place, not one about its lack."""
    agent_files.mkdir()
    (agent_files / "gpus.hcl").write_text('plugin "nvidia-vgpu" {\n vgpus = 3\n}\n')
    for named in ([], ["--config", str(agent_files)]):
        assert run(["plan", "--simulate", "t4", *named]) == 1
        assert "vgpus stands outside of the config block" in capsys.readouterr().err


def test_a_slip_in_files_that_nobody_named_says_how_to_do_without(
    agent_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who tries other options than this node's need not fix its files first."""
    agent_files.mkdir()
    file = agent_files / "gpus.hcl"
    file.write_text('plugin "nvidia-vgpu" {\n config {\n vgpus = 3\n vendr = "x"\n }\n}\n')
    assert run(["plan", "--vgpus", "2", "--simulate", "t4"]) == 1
    said = capsys.readouterr().err
    assert f"{file} line 4: vendr is not an option" in said
    assert "--config names other files than those in" in said
    others = ["--config", "/dev/null"]
    assert run(["plan", "--vgpus", "2", "--simulate", "t4", *others]) == 0
    assert run(["plan", "--vgpus", "2", "--simulate", "t4", "--config", str(file)]) == 1
    assert "--config names other files" not in capsys.readouterr().err


def test_eight_gpus_with_mps_fit_on_a_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, on a terminal of 120 x 40: what they have in common is told once."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    arguments = ["--simulate", "h100-80gb-hbm3:8", "--sharing", "mps", "--vgpus", "4"]
    assert run(["plan", *arguments]) == 0
    captured = capsys.readouterr()
    shown = re.sub(r"\x1b\[[\d;]*m", "", captured.out + captured.err)
    lines = shown.splitlines()
    assert len(lines) < 40
    assert max(map(len, lines)) <= 120


def test_a_heading_stays_on_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """However narrow the table below it is."""
    assert run(["plan", "--simulate", "l4", "--vgpus", "2", "--vendor", "x"]) == 0
    assert re.search(
        r"^What a task with GPU-\S+ would be given$", capsys.readouterr().out, re.MULTILINE
    )
