# SPDX-License-Identifier: MPL-2.0
"""Files of the node that somebody else may have put there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import psutil
import pytest

from nomad_nvidia_vgpu.host.files import read_bounded, unsafe
from scripts.onefile import __main__ as onefile

US = {0, os.geteuid()}


def test_a_small_file_is_read_whole(tmp_path: Path) -> None:
    """Up to the very last byte that it may have, and behind a link."""
    (tmp_path / "file").write_bytes(b"1234")
    (tmp_path / "link").symlink_to("file")
    assert read_bounded(tmp_path / "link", 4) == b"1234"


def test_a_file_without_end_is_an_error(tmp_path: Path) -> None:
    """It costs no more memory than one that is just too long."""
    (tmp_path / "file").touch()
    os.truncate(tmp_path / "file", 1 << 40)
    with pytest.raises(OSError, match="longer than 4 bytes") as caught:
        read_bounded(tmp_path / "file", 4)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
def test_what_is_no_file_is_an_error(tmp_path: Path, kind: str) -> None:
    """A pipe would be waited for, and /dev/zero has no end."""
    path = tmp_path / "path"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="not a regular file"):
        read_bounded(path, 4)


@pytest.mark.parametrize("kind", ["directory", "too long"])
def test_what_is_refused_is_closed(tmp_path: Path, kind: str) -> None:
    """A container can have it read every two seconds, until the plugin could open nothing more."""
    path = tmp_path / "path"
    if kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"12345")
    before = psutil.Process().num_fds()
    with pytest.raises(OSError, match=r"^\[Errno"):
        read_bounded(path, 4)
    assert psutil.Process().num_fds() == before


def test_a_link_is_followed_only_where_it_may_be(tmp_path: Path) -> None:
    """Whoever can write to a folder can make one to any file."""
    (tmp_path / "file").write_bytes(b"1234")
    (tmp_path / "link").symlink_to("file")
    assert read_bounded(tmp_path / "file", 4, follow=False) == b"1234"
    with pytest.raises(OSError, match="link") as caught:
        read_bounded(tmp_path / "link", 4, follow=False)
    assert caught.value.errno == errno.ELOOP


def test_folders_that_others_can_write_to_are_unsafe(tmp_path: Path) -> None:
    """At the folder and above it, save for sticky ones."""
    below = tmp_path / "below"
    below.mkdir()
    if unsafe(str(below), US):
        pytest.skip("the temporary directory of this machine is not to be trusted")
    tmp_path.chmod(0o770)
    assert unsafe(str(below), US) == f"{tmp_path} can be written to by others (mode 0770)"
    tmp_path.chmod(0o1777)
    assert unsafe(str(below), US) is None
    below.chmod(0o1777)
    assert unsafe(str(below), US) == f"{below} can be written to by others (mode 1777)"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_strangers_folder_is_unsafe(tmp_path: Path) -> None:
    """Unless he is who owns the agent's configuration and so decides what it runs anyway."""
    os.chown(tmp_path, 12345, -1)
    assert unsafe(str(tmp_path), US) == f"{tmp_path} belongs to uid 12345"
    assert unsafe(str(tmp_path), {*US, 12345}) is None


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder of ours, `real/below`, and nothing that leads there yet."""
    if unsafe(str(tmp_path), US):
        pytest.skip("the temporary directory of this machine is not to be trusted")
    (tmp_path / "real/below").mkdir(parents=True)
    (tmp_path / "links").mkdir()
    return tmp_path


@pytest.mark.parametrize("target", ["../real", "{}/real", "more/../../real/.", "other"])
def test_a_link_of_ours_is_as_safe_as_what_it_leads_to(tree: Path, target: str) -> None:
    """Absolute or not, up or down, by way of another."""
    (tree / "links/more").mkdir()
    (tree / "links/other").symlink_to("../real")
    (tree / "links/link").symlink_to(target.format(tree))
    path = str(tree / "links/link/below")
    assert unsafe(path, US) is None
    (tree / "real").chmod(0o777)
    assert unsafe(path, US) == f"{tree}/real can be written to by others (mode 0777)"


def test_a_folder_is_judged_as_such_however_it_is_come_to(tree: Path) -> None:
    """In a sticky one others can put things of their own, though not away what is in it."""
    (tree / "real").chmod(0o1777)
    (tree / "links/up").symlink_to("../real/below/..")
    for path in ("real", "real/", "real/.", "real/below/..", "links/up"):
        assert unsafe(f"{tree}/{path}", US) == (
            f"{tree}/real can be written to by others (mode 1777)"
        )
    assert unsafe(f"{tree}/links/up/below", US) is None


def test_a_link_where_others_can_turn_it_is_unsafe(tree: Path) -> None:
    """It leads to a good folder only as long as they like."""
    (tree / "links/link").symlink_to("../real")
    (tree / "links").chmod(0o777)
    path = str(tree / "links/link/below")
    assert unsafe(path, US) == f"{tree}/links can be written to by others (mode 0777)"
    (tree / "links").chmod(0o1777)
    assert unsafe(path, US) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link away")
@pytest.mark.parametrize("last", [True, False])
def test_a_strangers_link_is_unsafe(tree: Path, *, last: bool) -> None:
    """He can turn it round, wherever it is, once what it leads to was judged."""
    (tree / "links/link").symlink_to("../real")
    os.chown(tree / "links/link", 12345, -1, follow_symlinks=False)
    (tree / "links").chmod(0o1777)
    path = tree / "links/link" if last else tree / "links/link/below"
    assert unsafe(str(path), US) == f"{tree}/links/link belongs to uid 12345"


def test_links_in_a_circle_are_an_error(tree: Path) -> None:
    """As of any that leads nowhere."""
    (tree / "links/a").symlink_to("b")
    (tree / "links/b").symlink_to("a")
    with pytest.raises(OSError, match="links") as caught:
        unsafe(str(tree / "links/a"), US)
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("mode", [0o755, 0o775, 0o777, 0o1777])
@pytest.mark.parametrize("owner", [os.geteuid(), 12345])
@pytest.mark.parametrize("place", ["real", "real/below"])
def test_the_single_file_judges_real_paths_as_the_plugin_does(
    tree: Path, mode: int, owner: int, place: str
) -> None:
    """It cannot import what it is to unpack, so the walk is there a second time."""
    if os.geteuid() == 0:
        os.chown(tree / place, owner, -1)
    elif owner != os.geteuid():
        pytest.skip("only root can give a folder away")
    (tree / place).chmod(mode)
    path = os.path.realpath(tree / "real/below")
    found, objection = unsafe(path, US), onefile.objection(path)
    assert (found or "").partition(" (mode")[0] == (objection or "")


def test_a_working_directory_that_is_gone_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent may have been started in one, and the socket's place is judged all the same."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert unsafe("/usr", {0}) is None
    monkeypatch.chdir(tmp_path)
