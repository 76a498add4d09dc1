# SPDX-License-Identifier: MPL-2.0
"""Whether Nomad puts each task into a cgroup of its own: nothing else proves whose a process is.

Under cgroup v1 every Nomad since 0.9 does (tried on 1.1.2 and 1.6.3), under v2 from 1.3.0 on.
"""

from __future__ import annotations

from collections.abc import Mapping

from nomad_nvidia_vgpu.cli.agent.hcl1_values import is_true
from nomad_nvidia_vgpu.cli.diagnosis.nomad_bugs import Version
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import Problem

RAW_EXEC = "raw_exec"
"""The label of that driver's block in an agent's files."""

_UNDER_V2: Version = (1, 3, 0)
_ALWAYS: Version = (1, 7, 0)
"""Until here the option `no_cgroups` of raw_exec is looked at: a newer one is not known to have it."""


def ends_tasks(config: PluginConfig) -> list[str]:
    """The options by which the plugin ends processes of tasks."""
    guards = ['memory_guard { action = "kill" }'] if config.memory_guard.action == "kill" else []
    return [*guards, *(["health { end_tasks = true }"] if config.health.end_tasks else [])]


def unproven(
    version: Version | None, *, unified: bool, raw_exec: Mapping[str, object], acts: list[str]
) -> Problem | None:
    """Why what is in `acts` (`ends_tasks`) has no effect on some tasks of this node; None: it has.

    `unified`: whether the node has cgroup v2 alone; `raw_exec`: what the agent's files say of that
    driver. Also None where the version is not known, or nothing acts.
    """
    if version is None or not acts:
        return None
    vain = f"and nothing else proves whose a process is, so {' and '.join(acts)} ends none of them"
    if unified and version < _UNDER_V2:
        return Problem(
            f"Nomad {'.'.join(map(str, version))} puts raw_exec, exec and java tasks into no cgroup"
            f" under cgroup v2, {vain}",
            "upgrade Nomad to 1.3.0 or newer, or boot the node with cgroup v1",
        )
    if version < _ALWAYS and is_true(raw_exec.get("no_cgroups")):
        return Problem(
            f'no_cgroups = true in plugin "{RAW_EXEC}" leaves its tasks without a cgroup, {vain}',
            "take it out and restart the agent",
        )
    return None
