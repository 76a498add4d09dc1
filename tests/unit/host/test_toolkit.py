# SPDX-License-Identifier: MPL-2.0
"""What is found out about NVIDIA's container toolkit and the kernel's cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomad_nvidia_vgpu.host.toolkit import Toolkit, look_at_toolkit

SAYS = "NVIDIA Container Toolkit CLI version 1.20.2\ncommit: 0000000000"


@pytest.mark.parametrize(
    ("script", "version"),
    [
        (f"#!/bin/sh\necho '{SAYS}'\n", (1, 20, 2)),
        ("#!/bin/sh\necho version unknown\n", None),
        (f"#!/bin/sh\necho '{SAYS}'\nexit 1\n", None),
        (None, None),
    ],
    ids=["says", "unknown", "fails", "absent"],
)
def test_the_toolkit_says_its_version(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str | None,
    version: tuple[int, ...] | None,
) -> None:
    """Nothing is guessed where it does not, or is not there."""
    if script is not None:
        (tmp_path / "nvidia-ctk").write_text(script)
        (tmp_path / "nvidia-ctk").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if script else str(tmp_path))
    assert look_at_toolkit(tmp_path) == Toolkit(version, unified_cgroups=False)


def test_unified_cgroups_are_those_of_the_whole_node(tmp_path: Path) -> None:
    """A second hierarchy beside v1 (`/sys/fs/cgroup/unified`) makes none."""
    (tmp_path / "fs/cgroup/unified").mkdir(parents=True)
    (tmp_path / "fs/cgroup/unified/cgroup.controllers").touch()
    assert not look_at_toolkit(tmp_path).unified_cgroups
    (tmp_path / "fs/cgroup/cgroup.controllers").touch()
    assert look_at_toolkit(tmp_path).unified_cgroups
