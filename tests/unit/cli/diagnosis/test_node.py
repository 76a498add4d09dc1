# SPDX-License-Identifier: MPL-2.0
"""The ways to ask a real node."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.diagnosis.node import Node


def test_a_programs_words_are_read() -> None:
    """And nothing else of it."""
    said = Node().output([sys.executable, "-c", "print('hello')"], None)
    assert said == "hello\n"


def test_a_program_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given a PATH and no more."""
    monkeypatch.setenv("NOMAD_TOKEN", "s3cret")
    assert "NOMAD_TOKEN" not in Node().output(["/usr/bin/env"], None)


@pytest.mark.parametrize(
    "command", [["/no/such"], [sys.executable, "-c", "import sys; sys.exit(3)"]]
)
def test_a_program_that_fails_is_an_os_error(command: list[str]) -> None:
    """Whatever the way."""
    with pytest.raises(OSError):  # noqa: PT011  nobody reads its text
        Node().output(command, None)


def test_programs_are_found_beyond_a_persons_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dockerd is often in a directory of root's alone."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert Node().which("sh", None) is not None
    assert Node().which("no-such-program", None) is None


def test_a_path_that_is_given_counts_and_not_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the agent's, whose plugin finds other programs than a shell."""
    for name in ("agents", "ours"):
        program = tmp_path / name / "nvidia-ctk"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho {name}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "ours"))
    path = str(tmp_path / "agents")
    assert Node().which("nvidia-ctk", path) == f"{path}/nvidia-ctk"
    assert Node().output(["nvidia-ctk"], path) == "agents\n"
    assert Node().which("nvidia-ctk", None) == f"{tmp_path}/ours/nvidia-ctk"
    assert Node().output(["nvidia-ctk"], None) == "ours\n"


def test_a_file_without_a_label_has_none(tmp_path: Path) -> None:
    """Neither has one that is not there."""
    assert Node().label(tmp_path / "no") is None


def test_it_is_this_node() -> None:
    """By default all is as it is here."""
    assert Node().uid == os.geteuid()
    assert Node().proc == Path("/proc")
