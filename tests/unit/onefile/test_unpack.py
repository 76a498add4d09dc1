# SPDX-License-Identifier: MPL-2.0
"""Unpacking: all at once or not at all, and what is swept away afterwards."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from scripts.onefile import __main__ as start
from scripts.onefile import unpack
from scripts.onefile.build import archive

WEEK_S = 7 * 86400


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A single file with one module for all Pythons and one for ours."""
    members = {
        "common.zip": archive({"everybody.py": b"x = 1\n", "pygments/slow.py": b"y = 1\n"}),
        "ours.zip": archive({"package/own.py": b"z = 1\n"}),
        "another.zip": archive({"package/another.py": b""}),
    }
    path = tmp_path / "file"
    path.write_bytes(archive(members, compress=False, prefix=b"#!/bin/sh\n"))
    return str(path)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where it is unpacked to."""
    return Path(unpack.prepare(str(tmp_path / "deep" / "place")))


def names(place: Path) -> list[str]:
    """What is in it."""
    return sorted(path.name for path in place.iterdir())


def test_the_contents_are_those_of_one_python(file: str, place: Path) -> None:
    """The common modules and its own, compiled; of another's nothing."""
    unpack.unpack(file, str(place), "name", "ours")
    found = {p.relative_to(place / "name").as_posix() for p in place.rglob("*.py")}
    assert found == {"everybody.py", "pygments/slow.py", "package/own.py"}
    compiled = {path.name.partition(".")[0] for path in place.rglob("*.pyc")}
    assert compiled == {"everybody", "own"}
    assert names(place) == ["name"]


def test_others_may_read_and_not_write(file: str, place: Path) -> None:
    """A user's command line uses what root's agent unpacked, whatever the umask."""
    before = os.umask(0o002)
    try:
        unpack.unpack(file, str(place), "name", "ours")
        assert os.umask(0o002) == 0o002
    finally:
        os.umask(before)
    for path in (place, place / "name", *(place / "name").rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o022 == 0, path
        assert mode & 0o444 == 0o444, path


def test_a_broken_archive_leaves_nothing(tmp_path: Path, place: Path) -> None:
    """What cannot be unpacked whole is not there at all."""
    path = tmp_path / "broken"
    path.write_bytes(archive({"common.zip": archive({"a.py": b""})}, compress=False))
    with pytest.raises(unpack.DamagedError):
        unpack.unpack(str(path), str(place), "name", "ours")
    assert names(place) == []


def test_who_comes_second_takes_what_the_first_made(file: str, place: Path) -> None:
    """Two agents may start at the same moment."""
    unpack.unpack(file, str(place), "name", "ours")
    made = (place / "name").stat().st_ino
    unpack.unpack(file, str(place), "name", "ours")
    assert (place / "name").stat().st_ino == made
    assert names(place) == ["name"]


def aged(directory: Path, age_s: float) -> Path:
    """A directory that, ten weeks after the epoch, was last used so long ago."""
    directory.mkdir()
    (directory / "module.py").touch()
    os.utime(directory, (10 * WEEK_S - age_s,) * 2)
    return directory


def test_old_contents_and_debris_are_removed(place: Path) -> None:
    """Contents unused for a week, and what a killed process left an hour ago."""
    old, recent, name = (f"0.{n}.0-{'a' * 16}-cpython-311-x86_64-linux-gnu" for n in range(3))
    for contents, age_s in ((old, WEEK_S), (recent, WEEK_S - 9), (name, 2 * WEEK_S)):
        aged(place / contents, age_s)
    aged(place / ".unpacking-dead", 3600)
    aged(place / ".unpacking-young", 3500)
    unpack.clean(str(place), keep=name, now_s=10 * WEEK_S)
    assert names(place) == [".unpacking-young", recent, name]


def test_what_is_not_ours_stays_however_old(place: Path) -> None:
    """Whoever sets NVIDIA_VGPU_UNPACK_DIR to /opt must not lose what he has there."""
    for name in ("somebody", "1.2", ".hidden", f"1.0-{'a' * 16}"):
        aged(place / name, 5 * WEEK_S)
    before = names(place)
    unpack.clean(str(place), keep="name", now_s=10 * WEEK_S)
    assert names(place) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make links in another's name")
def test_a_strangers_link_is_not_followed(tmp_path: Path) -> None:
    """In /tmp anybody can make the name that root would take, and point it at a directory of root's."""
    roots, link = tmp_path / "roots", tmp_path / "nvidia-vgpu-0"
    roots.mkdir()
    link.symlink_to(roots)
    assert unpack.prepare(str(link)) == os.path.realpath(roots)
    os.chown(link, 12345, -1, follow_symlinks=False)
    made = unpack.prepare(str(link))
    assert start.objection(made) == f"{made} belongs to uid 12345"


def test_what_is_in_use_stays_however_old(place: Path) -> None:
    """A plugin that has run for months imports modules yet."""
    used = aged(place / f"0.1.0-{'a' * 16}-cpython-311-x86_64-linux-gnu", 5 * WEEK_S)
    lock = os.open(used, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        unpack.clean(str(place), keep="name", now_s=10 * WEEK_S)
        assert (used / "module.py").exists()
    finally:
        os.close(lock)
    unpack.clean(str(place), keep="name", now_s=10 * WEEK_S)
    assert names(place) == []


def test_files_and_links_of_others_stay(place: Path, tmp_path: Path) -> None:
    """Only directories of ours are removed, and nothing is followed."""
    outside = aged(tmp_path / "outside", 5 * WEEK_S)
    (place / "link").symlink_to(outside)
    os.utime(place / "link", (0, 0), follow_symlinks=False)
    (place / "note").touch()
    os.utime(place / "note", (0, 0))
    unpack.clean(str(place), keep="name", now_s=10 * WEEK_S)
    assert names(place) == ["link", "note"]
    assert (outside / "module.py").exists()
