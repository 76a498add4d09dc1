# SPDX-License-Identifier: MPL-2.0
"""Files and folders of the node that somebody else may have put there, looked at warily."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection


def read_bounded(path: str | os.PathLike[str], most: int, *, follow: bool = True) -> bytes:
    """The whole of a small regular file; OSError when it is longer than `most`, or is none.

    Neither a pipe that nobody writes to nor a file without end can hold up the reader. A link at
    `path` itself is an error too, unless it is to be followed.
    """
    links = 0 if follow else os.O_NOFOLLOW
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | links)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
        with open(file, "rb", closefd=False) as opened:
            data = opened.read(most + 1)
    finally:
        os.close(file)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is longer than {most} bytes", os.fspath(path))
    return data


def unsafe(path: str, trusted: Collection[int]) -> str | None:
    """Which users beside `trusted` could change what is at `path`, or put something in its place.

    As half a sentence; None: nobody. OSError if it cannot be looked at.
    """
    found = exposed(path, trusted)
    return found[0] if found else None


def exposed(path: str, trusted: Collection[int]) -> tuple[str, str] | None:
    """The same, and the command that ends it."""
    # Not pathlib: on the way to the handshake.
    os.stat(path)  # noqa: PTH116  OSError when links lead in a circle
    whole = path if path.startswith("/") else f"{os.getcwd()}/{path}"  # noqa: PTH109
    place, left = "/", whole.split("/")[::-1]
    while True:
        status = os.lstat(place)
        if status.st_uid not in trusted:
            return f"{place} belongs to uid {status.st_uid}", f"chown -h root {place}"
        others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if stat.S_ISLNK(status.st_mode):
            # Not realpath: the owner of a link, or of a folder on the way to it, can turn it.
            target = os.readlink(place)  # noqa: PTH115
            left += target.split("/")[::-1]
            place = "/" if target.startswith("/") else os.path.dirname(place)  # noqa: PTH120
        # In a sticky folder above it others can add names, but not take ours away.
        elif others and not (left and status.st_mode & stat.S_ISVTX):
            mode = stat.S_IMODE(status.st_mode)
            return f"{place} can be written to by others (mode {mode:04o})", f"chmod go-w {place}"
        if not left:
            return None
        place = os.path.normpath(os.path.join(place, left.pop()))  # noqa: PTH118
