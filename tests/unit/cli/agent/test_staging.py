# SPDX-License-Identifier: MPL-2.0
"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nomad_nvidia_vgpu.cli.agent.staging import clear_up, staged


def visible(folder: Path) -> list[str]:
    """Gives what Nomad would read or start in a folder: its files."""
    return [path.name for path in folder.iterdir() if path.is_file()]


def test_a_file_appears_when_it_is_moved_and_not_before(tmp_path: Path) -> None:
    """Whoever looks meanwhile sees no half of it."""
    place = tmp_path / "block.hcl"
    with staged(place, lambda path: path.write_text("all of it")) as move:
        assert visible(tmp_path) == []
        move()
    assert place.read_text() == "all of it"
    assert os.listdir(tmp_path) == ["block.hcl"]  # noqa: PTH208  hidden ones, too


def test_what_is_not_moved_is_gone(tmp_path: Path) -> None:
    """Whoever has two files to put in place can think better of both."""
    with staged(tmp_path / "block.hcl", lambda path: path.write_text("never")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    """As on a full disk."""

    def fill(path: Path) -> None:
        path.write_text("half")
        raise OSError("the disk is full")

    place = tmp_path / "block.hcl"
    place.write_text("old")
    with pytest.raises(OSError, match="full"), staged(place, fill):
        pass
    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_who_has_the_old_file_open_keeps_it(tmp_path: Path) -> None:
    """A plugin that runs is not pulled from under its feet."""
    place = tmp_path / "program"
    place.write_text("old")
    with place.open() as running, staged(place, lambda path: path.write_text("new")) as move:
        move()
        assert running.read() == "old"
    assert place.read_text() == "new"


def test_a_link_can_be_put_in_place(tmp_path: Path) -> None:
    """Wherever it leads."""
    place = tmp_path / "program"
    with staged(place, lambda path: path.symlink_to("/nowhere")) as move:
        move()
    assert place.readlink() == Path("/nowhere")


def test_what_a_killed_run_left_is_cleared_up(tmp_path: Path) -> None:
    """The next run does; nothing beside it is touched."""
    keeps = tmp_path / "nomad.hcl"
    keeps.write_text("mine")
    left = staged(tmp_path / "block.hcl", lambda path: path.write_text("half"))
    left.__enter__()
    assert len(list(tmp_path.iterdir())) == 2
    clear_up(tmp_path)
    assert list(tmp_path.iterdir()) == [keeps]


def test_a_link_in_the_place_of_what_was_left_is_not_followed(tmp_path: Path) -> None:
    """It leads to what is somebody else's."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("theirs")
    folder = tmp_path / "plugins"
    folder.mkdir()
    with staged(folder / "program", lambda path: path.write_text("x")):
        (name,) = [path.name for path in folder.iterdir()]
    (folder / name).symlink_to(victim)
    clear_up(folder)
    assert (victim / "file").read_text() == "theirs"
