# SPDX-License-Identifier: MPL-2.0
"""What the single file decides before any of our program runs: scripts/onefile/__main__.py."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.onefile import __main__ as start


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A directory that only we can write to, all the way up."""
    if start.objection(os.path.realpath(tmp_path)):
        pytest.skip("the temporary directory of this machine is not to be trusted")
    return tmp_path


@pytest.fixture
def contents(private: Path) -> Iterator[Path]:
    """Unpacked contents, and after the test no lock on them."""
    directory = private / "place" / "contents"
    directory.mkdir(parents=True)
    yield directory
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        if os.path.realpath(descriptor).startswith(f"{private}/"):
            os.close(int(descriptor.name))


@contextlib.contextmanager
def contents_opened(directory: Path) -> Iterator[int]:
    """A descriptor of the directory, as another process would have."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_it_compiles_on_old_pythons() -> None:
    """One that is long out of service gets as far as the sentence."""
    ast.parse(Path(start.__file__).read_text(), feature_version=(3, 5))


def test_roots_places_do_not_depend_on_home() -> None:
    """The agent's HOME and that of a shell differ; both must find the same contents."""
    assert start.places({}, 0) == start.places({"HOME": "/root", "XDG_CACHE_HOME": "/c"}, 0)
    assert start.places({}, 0) == [
        "/var/cache/nvidia-vgpu",
        "/run/nvidia-vgpu/unpacked",
        "/tmp/nvidia-vgpu-0",
        "/dev/shm/nvidia-vgpu-0",
    ]


def test_a_users_places_are_his_own() -> None:
    """Root's contents may serve a user; his own lie in his cache, else under his number."""
    found = start.places({"HOME": "/home/ada", "TMPDIR": "/scratch"}, 1000)
    assert found[0] == "/var/cache/nvidia-vgpu"
    assert found[2:4] == ["/home/ada/.cache/nvidia-vgpu", "/scratch/nvidia-vgpu-1000"]
    assert start.places({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, 1000)[2] == "/c/nvidia-vgpu"


def test_the_chosen_place_comes_first_and_must_be_absolute() -> None:
    """An operator can say where; a path relative to who knows what is passed over."""
    assert start.places({start.CHOSEN: "/opt/x"}, 0)[0] == "/opt/x"
    assert start.places({start.CHOSEN: "x", "TMPDIR": "."}, 0) == start.places({}, 0)


def test_a_private_directory_is_trusted(private: Path) -> None:
    """Ours alone, below directories of root's, sticky ones included."""
    assert start.objection(str(private)) is None


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_others_must_not_write_to_it(private: Path, mode: int) -> None:
    """Whoever can write where root executes from is root; sticky or not."""
    private.chmod(mode)
    assert start.objection(str(private)) == f"{private} can be written to by others"


def test_others_must_not_write_above_it(private: Path) -> None:
    """They could put another directory in its place; in a sticky one they cannot."""
    below = private / "below"
    below.mkdir()
    private.chmod(0o777)
    assert start.objection(str(below)) == f"{private} can be written to by others"
    private.chmod(0o1777)
    assert start.objection(str(below)) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_it_must_belong_to_root_or_us(private: Path) -> None:
    """Its owner can change what is in it."""
    os.chown(private, 12345, -1)
    assert start.objection(str(private)) == f"{private} belongs to uid 12345"


def test_noexec_is_an_objection(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled modules cannot be loaded from such a file system."""
    real = os.statvfs

    def statvfs(path: str) -> os.statvfs_result:
        fields = list(real(path))
        fields[8] |= os.ST_NOEXEC
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "statvfs", statvfs)
    assert start.objection(str(private)) == "it is mounted noexec"


def test_contents_are_entered_by_their_real_path(contents: Path, private: Path) -> None:
    """A link on the way could be turned elsewhere once it has been judged."""
    link = private / "link"
    link.symlink_to(contents.parent)
    assert start.enter(f"{link}/contents") == os.path.realpath(contents)


def test_who_has_entered_cannot_be_swept_away(contents: Path) -> None:
    """As long as the process lives, modules that it has not imported yet stay."""
    assert start.enter(str(contents))
    with contents_opened(contents) as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_contents_about_to_be_removed_are_not_entered(contents: Path) -> None:
    """Who removes them has locked them first."""
    with contents_opened(contents) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert start.enter(str(contents)) is None


def test_nothing_is_no_contents(private: Path) -> None:
    """A name that is not there, or is a file, is not entered."""
    (private / "file").touch()
    assert start.enter(f"{private}/absent") is None
    assert start.enter(f"{private}/file") is None


def test_untrusted_contents_are_not_entered(contents: Path) -> None:
    """What is there already is judged like what is about to be made."""
    contents.parent.chmod(0o777)
    assert start.enter(str(contents)) is None


def test_entering_marks_contents_as_used(contents: Path) -> None:
    """What is in use must not look a week old."""
    os.utime(contents, (0, 0))
    assert start.enter(str(contents))
    assert contents.stat().st_mtime > 0


@pytest.mark.parametrize(
    ("terminal", "cookie", "told"),
    [(True, False, True), (True, True, False), (False, False, False)],
    ids=["a person", "Nomad", "a pipe"],
)
def test_only_a_person_is_told_of_the_unpacking(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    terminal: bool,
    cookie: bool,
    told: bool,
) -> None:
    """On standard error, because standard output belongs to the handshake or the command."""
    monkeypatch.delenv("NOMAD_PLUGIN_MAGIC_COOKIE", raising=False)
    if cookie:
        monkeypatch.setenv("NOMAD_PLUGIN_MAGIC_COOKIE", "x")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    start.announce("/var/cache/x")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("unpacking into /var/cache/x" in shown.err) == told


def test_without_a_place_it_says_every_reason(
    private: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence, with each place and what is wrong with it."""
    monkeypatch.delenv("NOMAD_PLUGIN_MAGIC_COOKIE", raising=False)
    (private / "file").touch()
    (private / "open").mkdir(mode=0o777)
    (private / "open").chmod(0o777)
    with pytest.raises(SystemExit) as ended:
        start.unpacked("archive", [f"{private}/file/x", f"{private}/open"], "name", "tag")
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert f"{private}/file/x: Not a directory; {private}/open: {private}/open can be" in said
    assert said.count("\n") == 1


def test_nomad_logs_the_sentence_as_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a level Nomad would show it to those only who ask for debug."""
    monkeypatch.setenv("NOMAD_PLUGIN_MAGIC_COOKIE", "x")
    with pytest.raises(SystemExit):
        start.fail("no")
    assert capsys.readouterr().err == "[ERROR] no\n"
