# SPDX-License-Identifier: MPL-2.0
"""What tests of `install` see of a node."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.cli.main import run

HEAD = b"#!/bin/sh\n# nvidia-vgpu, a Nomad device plugin\n"


class InstallNode(NamedTuple):
    """A node to install on."""

    config: Path
    plugins: Path
    program: Path

    @property
    def entry(self) -> Path:
        """Where the plugin belongs."""
        return self.plugins / "nvidia-vgpu"

    @property
    def block(self) -> Path:
        """Where its block is written."""
        return self.config / "nvidia-vgpu.hcl"

    def run(self, *arguments: str) -> int:
        """Runs a command with this node's configuration."""
        return run([*arguments, "--agent-config", str(self.config)])

    def assert_untouched(self) -> None:
        """Nothing was put anywhere, nor left."""
        assert list(self.plugins.iterdir()) == []
        assert [path.name for path in self.config.iterdir()] == ["nomad.hcl"]
