# SPDX-License-Identifier: MPL-2.0
"""Unpacks the single file's contents, once per file, Python and machine.

Contents appear under their name all at once or not at all, for processes that start at the same
time and for machines that lose power. What was left behind by killed processes and by other
versions is removed when nobody uses it.
"""

import compileall
import ctypes
import fcntl
import io
import os
import re
import shutil
import tempfile
import time
import zipfile
import zlib

COMMON = "common.zip"
"""The member that every Python needs; the other is named after its tag."""

_UNFINISHED = ".unpacking-"
_OURS = re.compile(r"\.unpacking-.+|[0-9][^-]*-[0-9a-f]{16}-cpython-[0-9]+-.+")
"""What this module makes; all else in a directory that was chosen for it is somebody's own."""
_ABANDONED_AFTER_S = 3600
_UNUSED_AFTER_S = 7 * 86400
_NOT_COMPILED = re.compile(r"/pygments/")  # a second of work for what only `rich` may want


class DamagedError(Exception):
    """The single file is not what was built; the text is zip's."""


def prepare(place: str) -> str:
    """Makes the directory if it is not there; its real path. OSError.

    In a directory such as /tmp anybody can make a link to a directory of root's: only one that root
    or this user made is followed, and the caller will object to the path of another.
    """
    before = os.umask(0o022)
    try:
        os.makedirs(place, mode=0o755, exist_ok=True)
    finally:
        os.umask(before)
    parent, name = os.path.split(place.rstrip("/"))
    path = f"{os.path.realpath(parent)}/{name}".replace("//", "/")
    return os.path.realpath(path) if os.lstat(path).st_uid in (0, os.geteuid()) else path


def unpack(archive: str, place: str, name: str, tag: str) -> None:
    """Puts the contents for one kind of Python into `place` under `name`; OSError, DamagedError."""
    before = os.umask(0o022)
    temporary = tempfile.mkdtemp(prefix=_UNFINISHED, dir=place)
    lock = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        _extract(archive, (COMMON, tag + ".zip"), temporary)
        compileall.compile_dir(
            temporary, quiet=2, rx=_NOT_COMPILED, stripdir=temporary, prependdir=f"{place}/{name}"
        )
        os.chmod(temporary, 0o755)
        _flush(lock)
        try:
            os.rename(temporary, f"{place}/{name}")
        except OSError:
            if not os.path.isdir(f"{place}/{name}"):  # else another was faster
                raise
    finally:
        os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)
        os.umask(before)
    clean(place, keep=name, now_s=time.time())


def clean(place: str, *, keep: str, now_s: float) -> None:
    """Removes what nobody uses: unfinished for an hour, or unpacked a week ago or more."""
    for entry in os.listdir(place):
        if entry == keep or not _OURS.fullmatch(entry):
            continue
        path = f"{place}/{entry}"
        patience_s = _ABANDONED_AFTER_S if entry.startswith(".") else _UNUSED_AFTER_S
        try:
            if now_s - os.lstat(path).st_mtime >= patience_s:
                _remove(path, f"{place}/{_UNFINISHED}{os.getpid()}-{entry}")
        except OSError:
            continue  # another removes it, or uses it


def _remove(path: str, aside: str) -> None:
    """Removes a directory that nobody has locked; OSError if somebody has."""
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Under its own name it must be whole at every moment.
        os.rename(path, aside)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        os.close(lock)


def _extract(archive: str, members: "tuple[str, ...]", directory: str) -> None:
    try:
        with zipfile.ZipFile(archive) as outer:
            for member in members:
                with zipfile.ZipFile(io.BytesIO(outer.read(member))) as inner:
                    inner.extractall(directory)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise DamagedError(str(error)) from error


def _flush(directory: int) -> None:
    """Writes the file system of an open directory to its disk, so that no rename overtakes it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(directory) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
