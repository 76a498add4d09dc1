# SPDX-License-Identifier: MPL-2.0
"""Keeps the logs of an MPS daemon and its servers small: /run is memory, and they never do.

The control daemon logs every command, and so each of our looks at it. It is not known how it keeps
its files open, so nothing here depends on that. A file is emptied in its place, because a renamed one
would be written on. If its writer does not append, the file seems as long as before and reads as
zeros up to the next line, but takes no more than that line.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

LARGEST_BYTES = 8 << 20
"""What a log may take before it is emptied."""
KEPT_BYTES = 1 << 20
"""How much of its end goes into a file of the same name with `.1`."""

_BLOCK_BYTES = 512  # as stat counts, on every file system


def bound_logs(directory: Path) -> None:
    """Empties each log below `directory` that has grown large. Whatever fails is tried again."""
    for log in directory.rglob("*.log"):
        with contextlib.suppress(OSError):
            if log.lstat().st_blocks * _BLOCK_BYTES > LARGEST_BYTES:
                _empty(log)


def _empty(log: Path) -> None:
    with contextlib.suppress(OSError):  # with no room for what is kept, it is needed all the more
        with log.open("rb") as full:
            full.seek(-KEPT_BYTES, os.SEEK_END)
            end = full.read(KEPT_BYTES)
        log.with_name(f"{log.name}.1").write_bytes(end)
    os.truncate(log, 0)
