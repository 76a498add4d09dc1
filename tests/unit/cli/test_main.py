# SPDX-License-Identifier: MPL-2.0
"""The command line as a whole: exit statuses, and errors as sentences."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_nvidia_vgpu import __version__
from nomad_nvidia_vgpu.cli import gpus
from nomad_nvidia_vgpu.cli.main import cli, run


def test_without_a_verb_it_helps(capsys: pytest.CaptureFixture[str]) -> None:
    """Started without a verb it prints help beside standard output and reports a failure."""
    assert run([]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert all(verb in captured.err for verb in ("launch", "gpus", "doctor", "plan", "plugin_dir"))


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["plan", "--help"], ["gpus", "-h"]])
def test_help_is_fine(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """Who asks for help gets it on standard output, as a success."""
    assert run(arguments) == 0
    assert "Usage: nvidia-vgpu" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    """The program tells its version."""
    assert run(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["plan", "--nonsense"],
        ["plan", "--enabled", "perhaps"],
        ["plan", "--config", "/nonexistent"],
    ],
)
def test_wrong_usage_is_status_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """A command line that cannot be understood is status 2, with a hint and no traceback."""
    assert run(arguments) == 2
    assert "Usage: nvidia-vgpu" in capsys.readouterr().err


def test_each_problem_of_a_config_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A config with problems is status 1 and one line for each."""
    assert run(["plan", "--vgpus", "0", "--vendor", "a b", "--simulate", "l5"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split(" ")[:2] for line in captured.err.splitlines()] == [
        ["nvidia-vgpu:", "vgpus"],
        ["nvidia-vgpu:", "vendor"],
        ["nvidia-vgpu:", "simulate"],
    ]


def test_every_verb_says_what_it_does() -> None:
    """Each verb has a line in the help."""
    assert set(cli.commands) == {
        "cluster",
        "doctor",
        "fit",
        "gpus",
        "install",
        "launch",
        "plan",
        "release",
        "top",
        "uninstall",
        "why",
    }
    assert all(command.help for command in cli.commands.values())


def test_a_file_that_fails_is_not_taken_for_the_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the system says of a file is said of that file."""

    def survey(_source: object) -> None:
        Path("/nonexistent/file").read_bytes()

    monkeypatch.setattr(gpus, "survey", survey)
    assert run(["gpus", "--simulate", "t4"]) == 1
    said = "nvidia-vgpu: /nonexistent/file: No such file or directory\n"
    assert capsys.readouterr().err == said
