# SPDX-License-Identifier: MPL-2.0
"""`nvidia-vgpu launch`: what it makes of answers, and when it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.launch import (
    _config_table,
    _environment,
    _stats_document,
    _stats_table,
)
from nomad_nvidia_vgpu.cli.main import run
from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.device.stats import Stat
from nomad_nvidia_vgpu.rpc.client import InstanceStats, StatsOfGroups

STATS: StatsOfGroups = {
    "NVIDIA L4": {
        f"GPU-{gpu}-{number}": InstanceStats(
            Stat(1024, 23034, "MiB"), {"Temperature": Stat(55, None, "C")}, 1.5
        )
        for gpu in "ab"
        for number in range(3)
    }
}


SECRETS = (
    "NOMAD_TOKEN",
    "VAULT_TOKEN",
    "CONSUL_HTTP_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GITHUB_TOKEN",
    "MY_PASSWORD",
    "SSH_AUTH_SOCK",
)


def test_the_plugin_gets_no_secrets_of_the_person_who_launches_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It needs none; what a plugin does need is still there."""
    for name in (*SECRETS, "TMPDIR", "LD_LIBRARY_PATH", "NVIDIA_VGPU_UNPACK_DIR"):
        monkeypatch.setenv(name, "here")
    given = _environment()
    assert not given.keys() & set(SECRETS)
    assert {"PATH", "TMPDIR", "LD_LIBRARY_PATH", "NVIDIA_VGPU_UNPACK_DIR"} <= given.keys()


def test_only_given_options_are_shown() -> None:
    """As the agent's file would say them; of the others it is said how many there are."""
    schema = {
        "enabled": "bool",
        "mps.root": "string",
        "simulate": "list(string)",
        "vgpus": "number",
    }
    table = _config_table("title", schema, {"vgpus": 4, "simulate": ["t4"]})
    shown = [" ".join(line.split()) for line in style._rendered(table)]
    assert shown[0].startswith("title (2 more have their defaults")
    assert shown[2:] == ['simulate list(string) ["t4"] []', "vgpus number 4 -"]


def test_stats_have_one_column_per_gpu() -> None:
    """VGPUs of one GPU, which show the same figures, share a column."""
    shown = style._rendered(_stats_table(STATS))
    rows = [" ".join(line.split()) for line in shown]
    assert rows.count("Figure GPU-a GPU-b") == 1
    assert rows.count("Temperature 55 C 55 C") == 1


def test_stats_are_in_the_order_of_the_gpus() -> None:
    """The driver's order where it is known; a GPU that is not in it comes last."""
    shown = style._rendered(_stats_table(STATS, ["GPU-c-0", "GPU-b-0", "GPU-b-1"]))
    assert "Figure GPU-b GPU-a" in [" ".join(line.split()) for line in shown]


def test_the_document_has_every_vgpu() -> None:
    """For machines, every vGPU has its summary, figures and time, as numbers."""
    document = json.loads(json.dumps(_stats_document(STATS)))
    assert len(document["NVIDIA L4"]) == 6
    assert document["NVIDIA L4"]["GPU-b-2"] == {
        "summary": {"value": 1024, "total": 23034, "unit": "MiB", "desc": ""},
        "stats": {"Temperature": {"value": 55, "total": None, "unit": "C", "desc": ""}},
        "taken_at_s": 1.5,
    }


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        ("#!/bin/sh\n", 0o644, "Permission denied"),
        ("no program", 0o755, "Exec format error"),
        ("#!/nonexistent\n", 0o755, "No such file or directory"),
    ],
)
def test_what_is_no_program_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, mode: int, reason: str
) -> None:
    """A file that cannot be started is an error about that file, with the remedy."""
    path = tmp_path / "plugin"
    path.write_text(content)
    path.chmod(mode)
    assert run(["launch", "--plugin", str(path), "--vgpus", "4"]) == 1
    said = f"nvidia-vgpu: {path} cannot be started: {reason}; a plugin must be a program"
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 0", "it ended before it printed a handshake"),
        ("echo", "its first line must be a handshake, got ''"),
    ],
)
def test_another_program_than_a_plugin_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], script: str, said: str
) -> None:
    """What starts and is no plugin is an error about that file, with the remedy."""
    path = tmp_path / "plugin"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    assert run(["launch", "--plugin", str(path), "--vgpus", "4"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"nvidia-vgpu: {path} does not start as a plugin does: {said}; give a Nomad device plugin"
    ]


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (("--vgpus", "2", "--simulate", "t4", "--gpu-ignored", "*=true"), 1),
        (("--vgpus", "2", "--simulate", "t4", "--enabled", "false"), 0),
    ],
)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_plugin_that_publishes_nothing_fails_if_it_should(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], status: int, form: tuple[str, ...]
) -> None:
    """A script sees it by the exit status, unless nothing was to be published."""
    assert run(["launch", *flags, *form]) == status
    assert "the plugin publishes nothing" in capsys.readouterr().err


def test_the_nodes_own_config_is_not_the_default(
    agent_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would start this node's MPS daemons and guard its tasks, and nobody asked for that."""
    agent_files.mkdir()
    block = 'plugin "nvidia-vgpu" {\n config {\n vgpus = 3\n simulate = ["t4"]\n }\n}\n'
    (agent_files / "gpus.hcl").write_text(block)
    assert run(["launch", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["config"] == {}
    assert str(agent_files) not in captured.err


@pytest.mark.parametrize(
    ("command", "default"),
    [
        ("launch", "By default flags alone count."),
        ("plan", "By default /etc/nomad.d, where it has that block."),
    ],
)
def test_the_help_says_which_config_counts(
    capsys: pytest.CaptureFixture[str], command: str, default: str
) -> None:
    """`launch` has no default; `plan` takes the node's own."""
    assert run([command, "--help"]) == 0
    assert default in " ".join(capsys.readouterr().out.split())
