# SPDX-License-Identifier: MPL-2.0
"""What is known to be wrong with versions of Nomad, as far as it concerns device plugins."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from nomad_nvidia_vgpu.cli.agent.config_file import BUILT_IN
from nomad_nvidia_vgpu.config.options import PluginConfig

Version = tuple[int, int, int]

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")
_FIRST: Version = (0, 0, 0)

_WITHOUT_BUILT_IN: Version = (1, 2, 0)
"""From here on Nomad has no plugin for NVIDIA's GPUs built in."""
_CAN_BE_OFF: Version = (0, 12, 1)
"""From here on that has the option `enabled`."""

_OFF = f'write plugin "{BUILT_IN}" {{{{ config {{{{ {{}} }}}} }}}}'

_FIGURES_ASKED_FOR: tuple[Version, ...] = ((1, 8, 14), (1, 9, 10), (1, 10, 2))
"""From here on, in each line, Nomad keeps to itself what single tasks use, unless it is told not to."""


def without_built_in(version: Version, options: Mapping[str, object]) -> str | None:
    """What to write so that Nomad's own plugin leaves the GPUs; None if `options` of it say so.

    Also None for a Nomad that has none. HashiCorp gave it out by itself from 1.2.0 on.
    """
    if version >= _WITHOUT_BUILT_IN or options.get("ignored_gpu_ids"):
        return None
    if version >= _CAN_BE_OFF:
        off = "enabled = false"
        return None if options.get("enabled") is False else _OFF.format(off)
    return _OFF.format('ignored_gpu_ids = ["GPU-…", …]')


def asks_for_figures(version: Version) -> bool:
    """Whether this version shows what single tasks use only if the agent's files ask for it."""
    return version >= _FIGURES_ASKED_FOR[-1] or _has(version, _FIGURES_ASKED_FOR)


def _has(version: Version, since: Sequence[Version]) -> bool:
    """Whether a version has what came into its line with one of these."""
    return any(version[:2] == first[:2] and version >= first for first in since)


class Bug(NamedTuple):
    """A bug that an operator or a task notices, whatever a plugin does."""

    ranges: tuple[tuple[Version, Version], ...]
    """From the first version that has it to the first that has not."""
    effect: str
    concerns: Callable[[PluginConfig], bool] = lambda _config: True
    grave: bool = False
    """Whether GPUs cannot be used at all."""
    enterprise: tuple[Version, ...] = ()
    """The first without it in lines that were repaired for Nomad Enterprise alone."""

    def fix_for(self, version: Version) -> Version | None:
        """The next version without it; None if `version` does not have it."""
        if _has(version, self.enterprise):
            return None
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
        (((1, 3, 0), (1, 4, 11)), ((1, 5, 0), (1, 5, 7))),
        "under cgroup v2 each task that starts or stops takes the device files from all exec and raw_exec"
        " tasks of the node, so that they lose their GPUs",
    ),
    Bug(
        (((1, 4, 0), (1, 4, 13)), ((1, 5, 0), (1, 5, 9)), ((1, 6, 0), (1, 6, 2))),
        "a constraint on the ids of vGPUs (${device.ids}) is not kept",
    ),
    Bug(
        ((_FIRST, (1, 4, 0)),),
        "a vGPU is given to the next task while the one before it is still stopping",
    ),
    Bug(
        ((_FIRST, (1, 8, 1)),),
        "exec and java tasks may not open the device nodes that they are given",
        _hands_device_nodes,
        enterprise=((1, 6, 12), (1, 7, 9)),
    ),
    Bug(
        ((_FIRST, (1, 9, 2)),),
        "an agent that starts after a crash may kill a process that has the plugin's former pid",
        enterprise=((1, 7, 15), (1, 8, 6)),
    ),
    Bug(
        (((1, 9, 0), (2, 0, 1)),),
        "a job with several device blocks stays pending though it may preempt those who hold its"
        " vGPUs",
        _groups_gpus_alone,
        enterprise=((1, 10, 11), (1, 11, 5)),
    ),
)
"""The bugs that a newer version fixes; an operator can do nothing about the others."""


def parsed(text: str) -> Version | None:
    """The version in `1.9.3`, `Nomad v1.10.8+ent` and the like."""
    match = _VERSION.search(text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None
