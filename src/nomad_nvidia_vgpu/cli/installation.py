# SPDX-License-Identifier: MPL-2.0
"""What `install` and `uninstall` have to do on a node, decided from facts alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.cli.agent_config import AgentConfig, PluginBlock
from nomad_nvidia_vgpu.cli.config_file import LABEL
from nomad_nvidia_vgpu.cli.config_options import checked_config
from nomad_nvidia_vgpu.cli.plugin_dir import Kind, PluginDir, problems
from nomad_nvidia_vgpu.errors import ConfigError

BLOCK_FILE = f"{LABEL}.hcl"


class Source(NamedTuple):
    """The program that is to be installed: the one that runs."""

    path: Path
    single_file: bool
    """Whether it is whole in itself, so that it can be copied; else it is linked to."""
    problem: str | None = None
    """Why Nomad could not start it, or should not."""


@dataclass(frozen=True)
class Installation:
    """What is to be done."""

    entry: Path
    source: Path
    link: bool
    there_already: bool
    """Whether the program runs from its place in `plugin_dir`."""
    block: str | None
    """The plugin block that the configuration still needs."""
    block_file: Path | None
    """Where to write it; None if it is for a person to add."""
    replaced: Kind | None


def planned(
    agent: AgentConfig, found: PluginDir | None, source: Source, vgpus: int | None
) -> Installation:
    """What `install` has to do; ConfigError with every reason not to.

    `found` is None where the configuration leads to no folder.
    """
    said = [*_place_problems(agent, found), *_block_problems(agent, vgpus)]
    if source.problem:
        said.append(source.problem)
    block_file = agent.folder / BLOCK_FILE if agent.folder and agent.ours is None else None
    if block_file in agent.files:
        said.append(f'{block_file} has no plugin "{LABEL}" block: move it away, or add one')
    if said or found is None:
        raise ConfigError(said)
    entry = Path(found.path) / LABEL
    return Installation(
        entry=entry,
        source=source.path,
        link=not source.single_file,
        there_already=source.path == entry,
        block=None if agent.ours else block_text(vgpus or 1),
        block_file=block_file,
        replaced=found.holds(LABEL),
    )


def block_text(vgpus: int) -> str:
    """The block that `install` writes."""
    return f"""\
# Written by `nvidia-vgpu install`. Options: docs/configuration.md
plugin "{LABEL}" {{
  config {{
    vgpus = {vgpus}
  }}
}}
"""


def as_written(text: str, block: PluginBlock) -> bool:
    """Whether a file holds what `install` wrote and nothing else, so that it may be removed."""
    vgpus = block.options.get("vgpus")
    return isinstance(vgpus, int) and text == block_text(vgpus)


def _place_problems(agent: AgentConfig, found: PluginDir | None) -> list[str]:
    if found is not None:
        return problems(found)
    if agent.plugins is None:
        read = ", ".join(map(str, agent.files)) or f"no file in {agent.given}"
        return [f'neither plugin_dir nor data_dir is set ({read}): set plugin_dir = "/…"']
    return [f"plugin_dir must be an absolute path, got {agent.plugins!r}: write the whole path"]


def _block_problems(agent: AgentConfig, vgpus: int | None) -> list[str]:
    ours = agent.ours
    if ours is None:
        said = [
            f'{block.file} has a plugin "{block.label}" block, but the label must be the name of'
            f' the file in plugin_dir: write "{LABEL}"'
            for block in agent.blocks
            if "vgpu" in block.label.lower()
        ]
        if said:
            return said
        if vgpus is None:
            return ["the number of vGPUs per GPU is not set: say --vgpus"]
        return _config_problems({"vgpus": vgpus})
    if not ours.has_config:
        return [f"{ours.file}: the plugin block has no config block, so nothing is offered: add it"]
    if vgpus is not None and ours.options.get("vgpus") != vgpus:
        return [f"{ours.file} has a plugin block already: set vgpus there, not by --vgpus"]
    return [f"{ours.file}: {problem}" for problem in _config_problems(ours.options)]


def _config_problems(options: dict[str, object]) -> list[str]:
    try:
        checked_config(options)
    except ConfigError as error:
        return list(error.problems)
    return []
