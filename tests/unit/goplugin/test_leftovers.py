# SPDX-License-Identifier: MPL-2.0
"""What is swept of the directories of sockets; `contract` sweeps for others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.goplugin.leftovers import sweep

NAME = "plugin-0123456789abcdef"


def left(place: Path, name: str = NAME, age_s: float = 600.0) -> Path:
    """Gives a directory as a plugin leaves it that was killed before it listened."""
    made = place / name
    made.mkdir(mode=0o700)
    then = time.time() - age_s
    os.utime(made, (then, then))
    return made


def test_what_is_left_is_removed(tmp_path: Path) -> None:
    """An old directory of ours with nothing in it."""
    made = left(tmp_path)
    sweep(str(tmp_path))
    assert not made.exists()


@pytest.mark.parametrize(
    ("name", "age_s"), [("plugin-dir123", 600.0), ("plugin-0123", 600.0), (NAME, 0.0)]
)
def test_what_may_be_somebody_elses_stays(tmp_path: Path, name: str, age_s: float) -> None:
    """Another name, or one that has just been made."""
    made = left(tmp_path, name, age_s)
    sweep(str(tmp_path))
    assert made.exists()


def test_what_holds_more_or_is_open_to_others_stays(tmp_path: Path) -> None:
    """We make no such directory; nor is a link followed."""
    full = left(tmp_path)
    (full / "notes").touch()
    os.utime(full, (0, 0))
    opened = left(tmp_path, "plugin-" + "a" * 16)
    opened.chmod(0o755)
    aim = left(tmp_path, "aim")
    (tmp_path / ("plugin-" + "b" * 16)).symlink_to(aim)
    sweep(str(tmp_path))
    assert (full / "notes").exists()
    assert opened.exists()
    assert aim.exists()


def test_a_place_that_is_gone_is_none(tmp_path: Path) -> None:
    """Nothing is raised."""
    sweep(str(tmp_path / "gone"))
