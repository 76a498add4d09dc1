# SPDX-License-Identifier: MPL-2.0
"""The directories of sockets that plugins leave behind that were killed."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from itertools import islice

NAME = "plugin-"
"""How the name of a socket's directory begins; 16 hexadecimal digits follow."""
SOCKET = "plugin.sock"

_OURS = re.compile(rf"{NAME}[0-9a-f]{{16}}")
_MODE = 0o700
_MOST_ENTRIES = 10_000
_OLD_S = 60.0
"""A plugin that is just starting may not listen yet."""


def sweep(place: str) -> None:
    """Removes those in this directory that are ours, and where nobody listens. Never raises."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in islice(entries, _MOST_ENTRIES):
            if _OURS.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _remove(place, entry.name)


def _remove(place: str, name: str) -> None:
    """Removes one if it is left over; by descriptors, so that nothing is put in its place."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    directory = os.open(f"{place}/{name}", flags)
    try:
        status = os.fstat(directory)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != _MODE:
            return
        if time.time() - status.st_mtime < _OLD_S:
            return
        there = os.listdir(directory)  # noqa: PTH208  of a descriptor
        if there not in ([], [SOCKET]):
            return
        if there:
            if _listens(f"{place}/{name}/{SOCKET}"):
                return
            os.unlink(SOCKET, dir_fd=directory)
        os.rmdir(f"{place}/{name}")  # noqa: PTH106  not pathlib: see `server`
    finally:
        os.close(directory)


def _listens(path: str) -> bool:
    """Whether anybody does, though he may be stopped or too busy to answer."""
    import socket  # noqa: PLC0415  only where there is something left

    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True
