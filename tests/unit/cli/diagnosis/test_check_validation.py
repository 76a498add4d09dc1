# SPDX-License-Identifier: MPL-2.0
"""What Nomad itself says of the agent's files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.agent.validation import Refusal
from nomad_nvidia_vgpu.cli.diagnosis.check_validation import validation
from nomad_nvidia_vgpu.cli.diagnosis.finding import Level
from unit.cli.diagnosis.nodes import assert_one, facts


@pytest.mark.parametrize(
    ("refusal", "level", "words"),
    [
        (None, Level.OK, "has nothing against"),
        (Refusal("Error loading /a: unexpected keys x", unreadable=True), Level.ERROR, "keys x"),
        (Refusal("Must specify data_dir", unreadable=False), Level.WARNING, "data_dir"),
    ],
)
def test_nomads_own_judgement_is_quoted(
    tmp_path: Path, refusal: Refusal | None, level: Level, words: str
) -> None:
    """What it cannot read is an error; what else it misses the command line may say."""
    known = facts(tmp_path)
    asked = dataclasses.replace(
        known.node,
        which=lambda _program, _path: "/usr/bin/nomad",
        refusal=lambda _program, _paths: refusal,
    )
    assert_one(validation, dataclasses.replace(known, node=asked), level, words)


def test_without_nomad_in_path_nothing_is_asked(tmp_path: Path) -> None:
    """Which is no fault."""
    known = facts(tmp_path)
    asked = dataclasses.replace(known.node, which=lambda _program, _path: None)
    assert_one(validation, dataclasses.replace(known, node=asked), Level.OK, "no nomad is in PATH")
