# SPDX-License-Identifier: MPL-2.0
"""The commands of ours in the docs, run as they stand there over the fake driver."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import doc_pages
import pytest
from libnvidia_ml.driver import FakeDriver

from .conftest import PATIENCE_S, PROGRAM

NEEDS_AN_AGENT = {"install", "uninstall", "doctor", "release", "why", "fit", "cluster"}
"""Verbs whose commands `e2e` runs with an agent: test_quickstart.py, _migration.py, _operations.py,
_why.py."""

RUNS = {
    " ".join(command.words[1:]): command
    for command in doc_pages.commands()
    if command.program == "nvidia-vgpu" and command.words[1] not in NEEDS_AN_AGENT
}


@pytest.mark.parametrize("arguments", RUNS)
def test_a_command_of_the_docs_does_what_it_is_for(
    library: Path, tmp_path: Path, arguments: str
) -> None:
    """It ends well and shows a GPU; `top` after one look."""
    node = FakeDriver(library, tmp_path, "h100x8")
    file = tmp_path / "client.hcl"
    file.write_text('plugin "nvidia-vgpu" {\n  config {\n    vgpus = 4\n  }\n}\n')
    words = doc_pages.with_file(arguments.split(), file)
    if "--config" not in words:
        words += ["--config", str(file)]  # stands for what is in /etc/nomad.d
    once = ["--once"] if words[0] == "top" else []
    done = subprocess.run(
        [PROGRAM, *words, *once],
        env={**os.environ, **node.environment()},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "GPU" in done.stdout
