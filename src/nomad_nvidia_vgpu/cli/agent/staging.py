# SPDX-License-Identifier: MPL-2.0
"""Files that appear whole or not at all: made ready beside their place, then moved there.

All of it through descriptors of folders that nobody else can change: what is at the path of such a
folder a moment later, and where a link then leads, makes no difference.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from nomad_nvidia_vgpu.host.files import unsafe

_FOLDER = ".nvidia-vgpu.installing"
"""A folder, because Nomad up to 1.9 starts every file of `plugin_dir`, and reads all `.hcl` files of
another; of one name, so that what an interrupted run left is found."""
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def opened(folder: Path, trusted: Collection[int]) -> Iterator[int]:
    """Gives the descriptor of a folder that nobody but the uids in `trusted` can change; OSError."""
    descriptor = os.open(folder, _OPEN)
    try:
        # In this order: a path that is safe leads to the same folder from then on.
        why = unsafe(str(folder), trusted)
        if why is None and not os.path.samestat(os.fstat(descriptor), folder.stat()):
            why = f"{folder} has just been replaced"
        if why is not None:
            raise PermissionError(errno.EPERM, why)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def staged(
    place: Path, make: Callable[[Path], object], trusted: Collection[int]
) -> Iterator[Callable[[], object]]:
    """Lets `make` write a file, and gives what moves it to `place`; OSError.

    What is at `place` is replaced in one step: a process that has it open keeps what it has. Only the uids in
    `trusted` may be able to change the folder of `place`.
    """
    name = place.name
    with opened(place.parent, trusted) as folder:
        clear_up(folder)
        os.mkdir(_FOLDER, 0o700, dir_fd=folder)
        stage = os.open(_FOLDER, _OPEN | os.O_NOFOLLOW, dir_fd=folder)
        try:
            made = Path(f"/proc/self/fd/{stage}/{name}")
            make(made)
            if not made.is_symlink():
                with made.open("rb") as written:
                    os.fsync(written.fileno())  # a full disk may say so only now
            yield lambda: os.rename(name, name, src_dir_fd=stage, dst_dir_fd=folder)
        finally:
            os.close(stage)
            clear_up(folder)


def clear_up(folder: int) -> None:
    """Removes what an interrupted run may have left in a folder, by its descriptor; OSError."""
    try:
        left = os.open(_FOLDER, _OPEN | os.O_NOFOLLOW, dir_fd=folder)
    except OSError:
        return  # nothing, or no folder
    try:
        for name in os.listdir(left):  # noqa: PTH208  of a descriptor
            os.unlink(name, dir_fd=left)
    finally:
        os.close(left)
    os.rmdir(_FOLDER, dir_fd=folder)


def remove(place: Path, trusted: Collection[int]) -> None:
    """Removes a file from a folder that only the uids in `trusted` can change; OSError."""
    with opened(place.parent, trusted) as folder:
        os.unlink(place.name, dir_fd=folder)
