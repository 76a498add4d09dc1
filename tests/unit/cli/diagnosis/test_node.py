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
    said = Node().output([sys.executable, "-c", "print('hello')"])
    assert said == "hello\n"


def test_a_program_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given a PATH and no more."""
    monkeypatch.setenv("NOMAD_TOKEN", "s3cret")
    assert "NOMAD_TOKEN" not in Node().output(["/usr/bin/env"])


@pytest.mark.parametrize(
    "command", [["/no/such"], [sys.executable, "-c", "import sys; sys.exit(3)"]]
)
def test_a_program_that_fails_is_an_os_error(command: list[str]) -> None:
    """Whatever the way."""
    with pytest.raises(OSError):  # noqa: PT011  nobody reads its text
        Node().output(command)


def test_programs_are_found_beyond_a_persons_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dockerd is often in a directory of root's alone."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert Node().which("sh") is not None
    assert Node().which("no-such-program") is None


def test_a_file_without_a_label_has_none(tmp_path: Path) -> None:
    """Neither has one that is not there."""
    assert Node().label(tmp_path / "no") is None


def test_it_is_this_node() -> None:
    """By default all is as it is here."""
    assert Node().uid == os.geteuid()
    assert Node().proc == Path("/proc")
