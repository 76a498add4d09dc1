# SPDX-License-Identifier: MPL-2.0
"""What the plugin that runs has told Nomad of each GPU, beside what the driver says now.

A plugin holds a GPU back for longer than the driver complains, and knows of faults that are over.
"""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.cli.agent import config as agent_config
from nomad_nvidia_vgpu.cli.agent.config import AgentConfig, read_agent_config
from nomad_nvidia_vgpu.cli.diagnosis import nomad_bugs, task_cgroups
from nomad_nvidia_vgpu.cli.diagnosis.facts import towards_nomad
from nomad_nvidia_vgpu.cli.diagnosis.nomad_api import ApiGroup, look_at_nomad
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import ConfigError, Problem
from nomad_nvidia_vgpu.host.toolkit import has_unified_cgroups
from nomad_nvidia_vgpu.sharing.vgpu import VgpuId
from nomad_nvidia_vgpu.sharing.withheld import WITHHELD


class RunningView(NamedTuple):
    """What is known of the plugin that runs."""

    source: str
    """Whose view is shown, as a sentence."""
    held_back: Mapping[str, str]
    """GPUs of which it offers nothing, by UUID, each with its reason."""
    version: str | None = None
    """Of the Nomad that was asked."""
    raw_exec: Mapping[str, object] = {}
    """What the agent's files say of that driver."""

    def unproven(self, config: PluginConfig) -> Problem | None:
        """Why the plugin cannot end some of the tasks that it is to end, as far as that is known."""
        return task_cgroups.unproven(
            nomad_bugs.parsed(self.version or ""),
            unified=has_unified_cgroups(Path("/sys")),
            raw_exec=self.raw_exec,
            acts=task_cgroups.ends_tasks(config),
        )

    def among(self, uuids: Iterable[str]) -> dict[str, str]:
        """What is held back of these GPUs."""
        return {uuid: self.held_back[uuid] for uuid in uuids if uuid in self.held_back}


def running_view(paths: Sequence[Path]) -> RunningView:
    """What Nomad's API says for the agent with these files, by default the usual ones.

    Takes some seconds at most. Without an agent's files nobody is asked: it might be another's.
    """
    agent = _agent(paths)
    if agent is None:
        return RunningView(
            "only the driver was asked: no Nomad agent's configuration was found (--config names it)",
            {},
        )
    look = look_at_nomad(towards_nomad(dict(os.environ), agent), platform.node())
    if look.groups is None:
        why = f"Nomad's API at {look.address} {look.problem or 'does not know this node'}"
        return RunningView(
            f"only the driver was asked, because {why}: the running plugin may hold a GPU back", {}
        )
    return RunningView(
        f"asked the driver, and Nomad ({look.address}) for what the running plugin holds back",
        held_back(look.groups),
        look.version,
        agent.options_of(task_cgroups.RAW_EXEC),
    )


def held_back(groups: Iterable[ApiGroup]) -> dict[str, str]:
    """The GPUs of which every vGPU is unhealthy for another reason than the tasks on it."""
    reasons: dict[str, set[str]] = defaultdict(set)
    for group in groups:
        for instance, reason in group.instances.items():
            vgpu = VgpuId.parse(instance)
            if vgpu is not None:
                reasons[vgpu.gpu_uuid].add(reason)
    return {
        uuid: "; ".join(sorted(said - {WITHHELD}))
        for uuid, said in reasons.items()
        if "" not in said and said - {WITHHELD}
    }


def _agent(paths: Sequence[Path]) -> AgentConfig | None:
    """The agent with these files; None if they are not those of an agent, or cannot be read."""
    wanted = paths or [path for path in (agent_config.USUAL,) if path.exists()]
    try:
        agent = read_agent_config(wanted) if wanted else None
    except ConfigError:
        return None  # which is told elsewhere
    return agent if agent is not None and agent.plugins is not None else None
