# SPDX-License-Identifier: MPL-2.0
"""What `install` and `uninstall` have to do on a node, decided from facts alone."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nomad_nvidia_vgpu.cli.agent.config import ENABLE_CLIENT, AgentConfig, PluginBlock
from nomad_nvidia_vgpu.cli.agent.config_file import LABEL, OFFICIAL, moved_inside, where
from nomad_nvidia_vgpu.cli.agent.given import (
    checked_config,
    config_problems,
    replaced,
    with_any_size,
)
from nomad_nvidia_vgpu.cli.agent.plugin_block import block_json, block_text, settings
from nomad_nvidia_vgpu.cli.agent.plugin_dir import (
    Kind,
    PluginDir,
    not_writable,
    open_to_others,
    problems,
)
from nomad_nvidia_vgpu.errors import ConfigError
from nomad_nvidia_vgpu.host.files import exposed

BLOCK_FILE = f"{LABEL}.hcl"
_OTHER_SIZE = {"vgpus": "vgpu_memory", "vgpu_memory": "vgpus"}


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
    notes: tuple[str, ...]
    """What is in the configuration and has no effect, or may be still to do, one sentence each."""
    undone: tuple[str, ...]
    """What only a person can do, and where it is not done all is not well, one sentence each."""
    replaced: Kind | None


def planned(
    agent: AgentConfig, found: PluginDir | None, source: Source, given: Mapping[str, Any]
) -> Installation:
    """What `install` has to do; ConfigError with every reason not to.

    `found` is None where the configuration leads to no folder; `given` are the options that were
    asked for.
    """
    said = [*_place_problems(agent, found), *_block_problems(agent, given)]
    if agent.client_enabled is False:
        said.append(
            f"{agent.given} says client {{ enabled = false }}, and plugins run on clients alone:"
            " install it on a client, or set that to true"
        )
    if source.problem:
        said.append(source.problem)
    block_file = agent.folder / BLOCK_FILE if agent.folder and agent.ours is None else None
    if block_file is not None:
        said += _file_problems(block_file, trusted_with(agent))
        if found is not None and Path(found.path).resolve() == block_file.parent.resolve():
            said.append(
                f"plugin_dir {found.path} is the folder of the agent's configuration, and is for"
                " programs alone: set another"
            )
    if said or found is None:
        raise ConfigError(said)
    entry = Path(found.path) / LABEL
    return Installation(
        entry=entry,
        source=source.path,
        link=not source.single_file,
        there_already=source.path == entry,
        block=None if agent.ours else _block(agent, given),
        block_file=block_file,
        notes=(*([] if agent.twice else agent.without_effect), *_to_set(agent, found.path)),
        undone=(
            *(agent.without_effect if agent.twice else []),
            *_sold_twice(agent, found),
            *_to_add(agent),
            *_unwritten(agent, given),
        ),
        replaced=found.holds(LABEL),
    )


def as_written(text: str, block: PluginBlock) -> bool:
    """Whether a file holds what `install` wrote and nothing else, so that it may be removed."""
    try:
        return text == block_text(block.options)
    except (ConfigError, ValueError, AttributeError):  # options that install would not have taken
        return False


def _block(agent: AgentConfig, given: Mapping[str, Any]) -> str:
    """The block in the form of the file that it is for."""
    as_json = agent.folder is None and agent.given.suffix == ".json"
    return block_json(given) if as_json else block_text(given)


def _place_problems(agent: AgentConfig, found: PluginDir | None) -> Sequence[str]:
    if found is not None:
        return problems(found)
    if agent.plugins is None:
        read = ", ".join(map(str, agent.files)) or f"no file in {agent.given}"
        return [f'neither plugin_dir nor data_dir is set ({read}): set plugin_dir = "/…"']
    return [f"plugin_dir must be an absolute path, got {agent.plugins!r}: write the whole path"]


def _to_set(agent: AgentConfig, path: str) -> Iterator[str]:
    """What a person has still to write for the agent to start what is in the folder."""
    if agent.plugins is None:
        yield (
            f'still to do: set plugin_dir = "{path}" in {agent.given}, where neither it nor data_dir'
            " is set"
        )
    elif Path(path).resolve() != Path(agent.plugins).resolve():
        yield (
            f'still to do: set plugin_dir = "{path}" in {agent.given}, by which the agent looks into'
            f" {agent.plugins}, unless it is started with -plugin-dir={path}"
        )
    if agent.client_enabled is None:
        yield (
            f"still to do: {ENABLE_CLIENT} in {agent.given}, which does not say it,"
            " unless the agent is started with -client or -dev: plugins run on clients alone"
        )


def _to_add(agent: AgentConfig) -> Iterator[str]:
    """Where there is no folder to write the block into."""
    if agent.ours is None and agent.folder is None:
        yield f"without that block in {agent.given} the agent offers no GPUs"


def _sold_twice(agent: AgentConfig, found: PluginDir) -> Iterator[str]:
    """What offers the GPUs beside this plugin; it may, if each ignores the other's."""
    block = agent.block_of(OFFICIAL)
    options = block.options if block is not None else {}
    if options.get("enabled") is False or options.get("ignored_gpu_ids"):
        return  # doctor, which knows the GPUs, tells whether it ignores the right ones
    there = [f"{found.path}/{OFFICIAL}"] if found.holds(OFFICIAL) else []
    there += [f'plugin "{OFFICIAL}" in {block.file}'] if block is not None else []
    if there:
        yield (
            f"{' and '.join(there)} would offer whole GPUs, and Nomad place tasks of both plugins on"
            f" one: take {'them' if there[1:] else 'it'} out, or let each plugin ignore the other's"
            " GPUs (docs/migration.md)"
        )


def _block_problems(agent: AgentConfig, given: Mapping[str, Any]) -> Sequence[str]:
    ours = agent.ours
    if ours is None:
        if agent.mislabelled:
            return agent.mislabelled
        if not given:
            return ["it is not set how GPUs are divided: say --vgpus or --vgpu-memory"]
        return config_problems(given) or _text_problems(given)
    if ours.outside:
        return [moved_inside(ours.outside).about(ours.where)]
    said = [f"{where(ours.file, each)}: {each}" for each in config_problems(ours.options)]
    said += config_problems(with_any_size(given)) if given else []
    return said or _empty(ours, given)


def _empty(ours: PluginBlock, given: Mapping[str, Any]) -> Sequence[str]:
    """What is wrong with a block that sets no option: existing configuration is never changed."""
    config = checked_config(dict(ours.options))
    if ours.has_config and (config.configured or not config.enabled):
        return []
    what = "sets no option" if ours.has_config else "has no config block"
    wanted = ", ".join(f"{path} = {value}" for path, value in settings(given).items())
    stays = f"{ours.file}: the plugin block {what}, so nothing is offered, and it stays as it is"
    return [f"{stays}: write {wanted or 'vgpus = …'} into its config block"]


def _text_problems(given: Mapping[str, Any]) -> Sequence[str]:
    try:
        block_text(given)
    except ConfigError as error:
        return list(error.problems)
    return []


def trusted_with(agent: AgentConfig) -> set[int]:
    """Who may decide what the agent runs: root, the user who runs this, and the owner of its config."""
    return {0, os.geteuid(), agent.given.stat().st_uid}


def _file_problems(block_file: Path, trusted: Collection[int]) -> Sequence[str]:
    if os.path.lexists(block_file):
        return [f'{block_file} has no plugin "{LABEL}" block: move it away, or add one']
    if not os.access(block_file.parent, os.W_OK | os.X_OK):
        return [not_writable(str(block_file.parent))]
    found = exposed(str(block_file.parent), trusted)
    return [open_to_others(*found)] if found else []


def _unwritten(agent: AgentConfig, given: Mapping[str, Any]) -> tuple[str, ...]:
    """What flags asked for that the block which is there says otherwise."""
    if agent.ours is None:
        return ()
    stays = f"{agent.ours.file} has a plugin block, which stays"
    there = settings(agent.ours.options)
    alone = {path: flag for flag in _each(given) for path in settings(flag)}
    said = []
    for path, value in settings(given).items():
        if _says(agent.ours.options, alone[path]):
            continue
        scope, dot, name = path.rpartition(".")
        instead = f"{scope}{dot}{_OTHER_SIZE.get(name)}"
        if path in there:
            differs = f"{path} is {there[path]} in it, and {value} was asked for"
        elif instead in there:
            differs = f"{instead} is {there[instead]} in it, and {path} = {value} was asked for"
        else:
            differs = f"{path} = {value} was asked for, and is not in it"
        said.append(f"{stays}: {differs}: edit that file")
    return tuple(said)


def _each(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The options one by one, each in the blocks that it stands in."""
    for name, value in given.items():
        if isinstance(value, dict):
            yield from ({name: inner} for inner in _each(value))
        else:
            yield {name: value}


def _says(options: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a block that is in order says this already: in other words, or by default."""
    try:
        return checked_config(replaced(options, asked)) == checked_config(dict(options))
    except ConfigError:  # it contradicts the block
        return False
