# SPDX-License-Identifier: MPL-2.0
"""A node to install on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli import install
from nomad_nvidia_vgpu.cli.agent import config as agent_config
from nomad_nvidia_vgpu.cli.agent import plugin_dir
from scripts.onefile.build import archive
from unit.cli.installing import HEAD, InstallNode


@pytest.fixture(autouse=True)
def agent_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gives where an agent's files are looked for: not this machine's own, and nothing is there."""
    usual = tmp_path / "usual"
    monkeypatch.setattr(agent_config, "USUAL", usual)
    return usual


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InstallNode:
    """Gives one that has nothing of ours; the command runs as the single file."""
    tmp_path.chmod(0o755)
    made = InstallNode(tmp_path / "nomad.d", tmp_path / "plugins", tmp_path / "nvidia-vgpu-1")
    made.config.mkdir()
    made.plugins.mkdir()
    (made.config / "nomad.hcl").write_text(
        f'plugin_dir = "{made.plugins}"\nclient {{\n  enabled = true\n}}\n'
    )
    made.program.write_bytes(archive({"__main__.py": b""}, prefix=HEAD))
    made.program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(made.program)])
    # Where the tests' own temporary files lie is not what is tested here.
    monkeypatch.setattr(plugin_dir, "exposed", lambda _path, _trusted: None)
    monkeypatch.setattr(install, "unsafe", lambda _path, _trusted: None)
    return made
