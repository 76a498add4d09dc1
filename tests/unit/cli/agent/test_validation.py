# SPDX-License-Identifier: MPL-2.0
"""Asking Nomad about an agent's files. The e2e tests ask a real one."""

from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.agent.validation import Refusal, refusal, version_of


def nomad(tmp_path: Path, script: str) -> str:
    """A program in the place of Nomad."""
    path = tmp_path / "nomad"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo Configuration is valid!", None),
        ("echo 'Usage: nomad [--version] <command>' >&2; exit 127", None),
        ("echo 'Usage: nomad config' >&2; exit 1", None),
        (
            "printf '1 error occurred:\\n\\t* Error loading /a: unexpected keys x\\n\\n' >&2; exit 1",
            Refusal("Error loading /a: unexpected keys x", unreadable=True),
        ),
        (
            "echo 'WARNING: no mTLS' >&2; echo 'Must specify data_dir' >&2; exit 1",
            Refusal("Must specify data_dir", unreadable=False),
        ),
    ],
)
def test_what_nomad_says_is_quoted(tmp_path: Path, script: str, said: Refusal | None) -> None:
    """Without what is no reason; an older one that has no such command says nothing."""
    assert refusal(nomad(tmp_path, script), [Path("/a")]) == said


def test_a_nomad_that_is_not_there_says_nothing() -> None:
    """Neither of files nor of its version."""
    assert refusal("/nonexistent", []) is None
    assert version_of("/nonexistent") == ""


def test_the_version_is_its_own_words(tmp_path: Path) -> None:
    """To be parsed by who asks."""
    assert version_of(nomad(tmp_path, "echo Nomad v1.6.3")) == "Nomad v1.6.3\n"
