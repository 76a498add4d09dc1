# SPDX-License-Identifier: MPL-2.0
"""What is known to be wrong with versions of Nomad, as far as it concerns device plugins."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from nomad_nvidia_vgpu.config.options import PluginConfig

Version = tuple[int, int, int]

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")
_FIRST: Version = (0, 0, 0)

FIGURES_ASKED_FOR: Version = (1, 10, 2)
"""From here on Nomad keeps to itself what single tasks use, unless the agent is told otherwise."""


class Bug(NamedTuple):
    """A bug that an operator or a task notices, whatever a plugin does."""

    ranges: tuple[tuple[Version, Version], ...]
    """From the first version that has it to the first that has not."""
    effect: str
    concerns: Callable[[PluginConfig], bool] = lambda _config: True
    grave: bool = False
    """Whether GPUs cannot be used at all."""

    def fix_for(self, version: Version) -> Version | None:
        """The next version without it; None if `version` does not have it."""
        return next((end for start, end in self.ranges if start <= version < end), None)


def _hands_device_nodes(config: PluginConfig) -> bool:
    return config.device_nodes != "none"


def _groups_gpus_alone(config: PluginConfig) -> bool:
    """Whether a job that wants two GPUs needs two device blocks."""
    return "gpu" in (config.group_by, *(block.given.group_by for block in config.gpu))


KNOWN = (
    Bug((((_FIRST), (0, 9, 0)),), "it has no device plugins", grave=True),
    Bug(
        ((_FIRST, (0, 10, 2)),),
        "a job whose device blocks are changed keeps the vGPUs that it had",
    ),
    Bug(
        ((_FIRST, (0, 11, 1)),),
        "a job that is updated in place loses the ids of its vGPUs, which go to other tasks too",
    ),
    Bug(
        ((_FIRST, (1, 0, 0)),),
        "a node without GPUs starts 50 s late, and devices that are taken away stay on offer",
    ),
    Bug(
        ((_FIRST, (1, 2, 0)),),
        "jobs are not placed again when the health of GPUs changes",
    ),
    Bug(
        (((1, 2, 13), (1, 2, 15)), ((1, 3, 6), (1, 3, 8)), ((1, 4, 0), (1, 4, 3))),
        "it loses the GPUs that are reported while it starts, and has them a minute later",
    ),
    Bug(
        ((_FIRST, (1, 4, 0)),),
        "a vGPU is given to the next task while the one before it is still stopping",
    ),
    Bug(
        ((_FIRST, (1, 8, 1)),),
        "exec and java tasks may not open the device nodes that they are given",
        _hands_device_nodes,
    ),
    Bug(
        ((_FIRST, (1, 9, 2)),),
        "an agent that starts after a crash may kill a process that has the plugin's former pid",
    ),
    Bug(
        (((1, 9, 0), (2, 0, 1)),),
        "a job with several device blocks stays pending though it may preempt those who hold its"
        " vGPUs",
        _groups_gpus_alone,
    ),
)
"""The bugs that a newer version fixes; an operator can do nothing about the others."""


def parsed(text: str) -> Version | None:
    """The version in `1.9.3`, `Nomad v1.10.8+ent` and the like."""
    match = _VERSION.search(text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None
