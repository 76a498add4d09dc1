# SPDX-License-Identifier: MPL-2.0
"""Files that appear whole or not at all: made ready beside their place, then moved there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_FOLDER = ".nvidia-vgpu.installing"
"""A folder, because Nomad up to 1.9 starts every file of `plugin_dir`, and reads all `.hcl` files of
another; of one name, so that what an interrupted run left is found."""


@contextmanager
def staged(place: Path, make: Callable[[Path], object]) -> Iterator[Callable[[], object]]:
    """Lets `make` write a file, and gives what moves it to `place`; OSError.

    What is at `place` is replaced in one step: a process that has it open keeps what it has.
    """
    clear_up(place.parent)
    folder = place.parent / _FOLDER
    folder.mkdir(0o700)
    try:
        made = folder / place.name
        make(made)
        if not made.is_symlink():
            with made.open("rb") as written:
                os.fsync(written.fileno())  # a full disk may say so only now
        yield lambda: made.replace(place)
    finally:
        clear_up(place.parent)


def clear_up(folder: Path) -> None:
    """Removes what an interrupted run may have left in a folder; OSError."""
    left = folder / _FOLDER
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left)
