# SPDX-License-Identifier: MPL-2.0
"""What a task asks of one GPU, and what it is given for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from nomad_nvidia_vgpu.gpu.model import Gpu


class Grant(NamedTuple):
    """Some of the vGPUs of one GPU."""

    gpu: Gpu
    vgpus: int
    """N: how many the GPU has."""
    granted: int
    """k: how many of them, from 1 to N."""
    memory_percent: int = 100
    """What the task may use of the memory, of its share."""


class Mount(NamedTuple):
    """A path of the host that a task's driver puts into the task's file system."""

    host_path: str
    task_path: str
    read_only: bool


class DeviceNode(NamedTuple):
    """A device file of the host that a task's driver makes in the task's /dev."""

    host_path: str
    task_path: str
    permissions: str
    """Of the letters r, w and m, for the task's device cgroup."""


class Delivery(NamedTuple):
    """What is added to a task."""

    envs: Mapping[str, str] = {}
    mounts: tuple[Mount, ...] = ()
    devices: tuple[DeviceNode, ...] = ()


def share_of(total: int, granted: int, vgpus: int) -> int:
    """`granted / vgpus` of `total`, rounded down: all shares together never exceed `total`."""
    return total * granted // vgpus


def limit_of(total: int, granted: int, vgpus: int, percent: int) -> int:
    """`percent` of a share, rounded down, and never more than there is."""
    return min(total, share_of(total, granted, vgpus) * percent // 100)
