# SPDX-License-Identifier: MPL-2.0
"""With what this node starts containers on its GPUs: NVIDIA's container toolkit, and the kernel's cgroups."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

VERSION_COMMAND = ("nvidia-ctk", "--version")

_UNIFIED = "fs/cgroup/cgroup.controllers"
_VERSION = re.compile(r"version (\d+(?:\.\d+)+)")
_RUN_S = 5.0


class Toolkit(NamedTuple):
    """What decides what can be asked of a container's start."""

    version: tuple[int, ...] | None
    """Of NVIDIA's container toolkit; None: it is not there, or does not say."""
    unified_cgroups: bool
    """Whether the node has cgroup v2 and nothing else."""


def look_at_toolkit(sys: str | os.PathLike[str] = "/sys") -> Toolkit:
    """What this node has; takes some seconds at most."""
    # Imported late: few nodes ask for it, and every start would wait for it.
    import subprocess  # noqa: PLC0415

    try:
        done = subprocess.run(  # noqa: S603  a constant
            VERSION_COMMAND,
            env={"PATH": os.environ.get("PATH", os.defpath)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_RUN_S,
            check=True,
        )
        said = done.stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        said = ""
    return Toolkit(version_in(said), has_unified_cgroups(sys))


def version_in(said: str) -> tuple[int, ...] | None:
    """The version in the answer to VERSION_COMMAND."""
    match = _VERSION.search(said)
    return tuple(int(part) for part in match[1].split(".")) if match else None


def has_unified_cgroups(sys: str | os.PathLike[str]) -> bool:
    """Whether `sys` is that of a node with cgroup v2 and nothing else."""
    # Not pathlib, which every start would pay for.
    return os.path.exists(f"{os.fspath(sys)}/{_UNIFIED}")  # noqa: PTH110
