# SPDX-License-Identifier: MPL-2.0
"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nomad_nvidia_vgpu.cli.agent.staging import clear_up, opened, remove, staged

US = {0, os.geteuid()}


def visible(folder: Path) -> list[str]:
    """Gives what Nomad would read or start in a folder: its files."""
    return [path.name for path in folder.iterdir() if path.is_file()]


def test_a_file_appears_when_it_is_moved_and_not_before(tmp_path: Path) -> None:
    """Whoever looks meanwhile sees no half of it."""
    place = tmp_path / "block.hcl"
    with staged(place, lambda path: path.write_text("all of it"), US) as move:
        assert visible(tmp_path) == []
        move()
    assert place.read_text() == "all of it"
    assert os.listdir(tmp_path) == ["block.hcl"]  # noqa: PTH208  hidden ones, too


def test_what_is_not_moved_is_gone(tmp_path: Path) -> None:
    """Whoever has two files to put in place can think better of both."""
    with staged(tmp_path / "block.hcl", lambda path: path.write_text("never"), US):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    """As on a full disk."""

    def fill(path: Path) -> None:
        path.write_text("half")
        raise OSError("the disk is full")

    place = tmp_path / "block.hcl"
    place.write_text("old")
    with pytest.raises(OSError, match="full"), staged(place, fill, US):
        pass
    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_who_has_the_old_file_open_keeps_it(tmp_path: Path) -> None:
    """A plugin that runs is not pulled from under its feet."""
    place = tmp_path / "program"
    place.write_text("old")
    with place.open() as running, staged(place, lambda path: path.write_text("new"), US) as move:
        move()
        assert running.read() == "old"
    assert place.read_text() == "new"


def test_a_link_can_be_put_in_place(tmp_path: Path) -> None:
    """Wherever it leads."""
    place = tmp_path / "program"
    with staged(place, lambda path: path.symlink_to("/nowhere"), US) as move:
        move()
    assert place.readlink() == Path("/nowhere")


def test_what_a_killed_run_left_is_cleared_up(tmp_path: Path) -> None:
    """The next run does; nothing beside it is touched."""
    keeps = tmp_path / "nomad.hcl"
    keeps.write_text("mine")
    left = staged(tmp_path / "block.hcl", lambda path: path.write_text("half"), US)
    left.__enter__()
    assert len(list(tmp_path.iterdir())) == 2
    with opened(tmp_path, US) as folder:
        clear_up(folder)
    assert list(tmp_path.iterdir()) == [keeps]


def test_a_link_in_the_place_of_what_was_left_is_not_followed(tmp_path: Path) -> None:
    """It leads to what is somebody else's."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("theirs")
    folder = tmp_path / "plugins"
    folder.mkdir()
    with staged(folder / "program", lambda path: path.write_text("x"), US):
        (name,) = [path.name for path in folder.iterdir()]
    (folder / name).symlink_to(victim)
    with opened(folder, US) as descriptor:
        clear_up(descriptor)
    assert (victim / "file").read_text() == "theirs"


CALLS = ("mkdir", "open", "rename", "unlink", "rmdir", "listdir", "readlink", "stat")
STRANGER = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's link")
@pytest.mark.parametrize("step", range(12))
@pytest.mark.parametrize("removes", [False, True])
@pytest.mark.parametrize("aim", ["victim", "trap"])
def test_a_race_for_the_folder_is_lost_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aim: str, step: int, *, removes: bool
) -> None:
    """Before each call in turn the folder is swapped for another user's link to somewhere else.

    It leads to root's folder, or to one of the user's own that has a link where the file is made ready.
    What is there gets no byte and loses none. So slow is no machine; a process that only has to be
    quick enough could do no more.
    """
    folder, victim = tmp_path / "plugins", tmp_path / "victim"
    folder.mkdir()
    victim.mkdir()
    (folder / "program").write_text("old")
    (victim / "program").write_text("theirs")
    with staged(folder / "program", lambda path: path.touch(), US):
        (stage,) = [path.name for path in folder.iterdir() if path.is_dir()]
    trap = tmp_path / "trap" / stage
    trap.mkdir(parents=True)
    for name in ("program", victim.name):
        (trap / name).symlink_to(victim / "program")
    calls = 0

    def racing(call: Callable[..., Any]) -> Callable[..., Any]:
        def raced(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step + 1:
                os.rename(folder, tmp_path / "moved")  # noqa: PTH104
                os.symlink(tmp_path / aim, folder)  # noqa: PTH211
                os.chown(folder, STRANGER, STRANGER, follow_symlinks=False)
            return call(*args, **kwargs)

        return raced

    with monkeypatch.context() as context, suppress(OSError):  # it may be refused
        for name in CALLS:
            context.setattr(os, name, racing(getattr(os, name)))
        if removes:
            remove(folder / "program", US)
        else:
            make = racing(lambda path: path.write_text("root's"))
            with staged(folder / "program", make, US) as move:
                move()
    assert [path.name for path in victim.iterdir()] == ["program"]
    assert (victim / "program").read_text() == "theirs"


def test_a_folder_that_others_can_change_is_refused(tmp_path: Path) -> None:
    """Nothing is written to it, and nothing is removed from it."""
    (tmp_path / "program").write_text("old")
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError, match="can be written to by others"):
        remove(tmp_path / "program", US)
    with (
        pytest.raises(PermissionError, match="can be written to by others"),
        staged(tmp_path / "program", lambda path: path.write_text("new"), US),
    ):
        pass
    assert (tmp_path / "program").read_text() == "old"
