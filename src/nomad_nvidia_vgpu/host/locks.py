# SPDX-License-Identifier: MPL-2.0
"""Who holds a lock on a file, as the kernel tells it."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

_FLOCK = "hhqqi4x"
"""The `struct flock` of Linux on 64 bits: kind, whence, start, length, pid."""


def lock_holder(path: Path) -> int | None:
    """The process that holds a POSIX lock on the whole of a file; None: nobody does, or no file.

    0 when the holder is in another PID namespace. Takes no lock and needs no privilege but to open
    the file for writing. OSError where that is not allowed.
    """
    # A pipe in its place must not hold us up, and a link must not lead elsewhere.
    try:
        file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    finally:
        os.close(file)
    return None if kind == fcntl.F_UNLCK else max(pid, 0)
