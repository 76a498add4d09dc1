# SPDX-License-Identifier: MPL-2.0
"""The folder of all MPS daemons of a node: root's alone to change, and open for tasks to go through."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from nomad_nvidia_vgpu.errors import NOTHING, MpsError, Problem
from nomad_nvidia_vgpu.host.files import unsafe


def prepare_root(root: Path) -> None:
    """Makes the folder, and sees that no other user can put anything into it; MpsError.

    The daemons run as root and tasks of all users go through it.
    """
    for path in (*reversed(root.parents), root):
        if not path.exists():
            path.mkdir(0o755, exist_ok=True)
            _check_way(root, path)
            path.chmod(0o755)
    check_root(root)


def check_root(root: Path) -> None:
    """Sees that the folder is ours alone; MpsError, OSError when there is none."""
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise MpsError(
            f"mps.root {root} is not a directory of the user that the Nomad agent runs as",
            "remove it, or set another",
        )
    _check_way(root, root)


def unreachable(root: Path, uuid: str) -> Problem:
    """Why tasks that are not root's could not get to the daemon of a GPU, if they could not."""
    for path in (root, *root.parents):
        if not path.stat().st_mode & stat.S_IXOTH:
            return Problem(
                f"{uuid}: only root can enter {path}, so tasks of other users cannot reach its MPS"
                " daemon",
                f"chmod o+x {path}, or set another mps.root",
            )
    return NOTHING


def _check_way(root: Path, path: Path) -> None:
    """Sees that nobody else can put a link in the place of `path` after any look at it; MpsError."""
    if (why := unsafe(str(path), {0, os.geteuid()})) is not None:
        raise MpsError(
            f"mps.root {root} can be changed by other users ({why})",
            "fix that, or set another",
        )
