# SPDX-License-Identifier: MPL-2.0
"""Which file of the driver's library this process has, and whether the disk holds another now.

A library is never unloaded: after an upgrade of the driver this process keeps the old one, and
only a new process can talk to the new kernel module (docs/internals/nvml.md#the-binding).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.host.proc import Proc


class LoadedLibrary(NamedTuple):
    """A library as it was when it was loaded."""

    link: Path
    """The name by which the loader finds it, in the directory it was found in."""
    device: int
    inode: int

    def replaced(self) -> bool:
        """Whether a new process would load another file. A library that is just gone is not one."""
        try:
            now = self.link.stat()
        except OSError:
            return False
        return (now.st_dev, now.st_ino) != (self.device, self.inode)


def loaded_library(name: str, mapped: Sequence[str] | None = None) -> LoadedLibrary | None:
    """The library `name` of this process, or None if it is not loaded or cannot be found.

    `mapped` are the paths of the files in its memory; by default as the kernel says.
    """
    stem = name.split(".so", maxsplit=1)[0]
    paths = Proc().mapped(os.getpid()) if mapped is None else mapped
    for path in map(Path, paths or ()):
        if path.name.startswith(f"{stem}.so"):
            try:
                found = path.stat()
            except OSError:
                return None
            return LoadedLibrary(path.with_name(name), found.st_dev, found.st_ino)
    return None
