# SPDX-License-Identifier: MPL-2.0
"""What a Nomad agent's configuration says about plugins, merged from its files as Nomad does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nomad_nvidia_vgpu.cli.agent.config_file import (
    LABEL,
    is_meant,
    mislabelled,
    options_of,
    others_options,
    outside_config,
    parsed_file,
    plugins_in,
)
from nomad_nvidia_vgpu.cli.agent.hcl1 import Body
from nomad_nvidia_vgpu.cli.agent.hcl1_values import is_true, literals, settings_of
from nomad_nvidia_vgpu.cli.agent.http import AgentHttp
from nomad_nvidia_vgpu.errors import ConfigError, Problem

USUAL = Path("/etc/nomad.d")
"""Where Nomad's packages put the configuration of an agent."""

ENABLE_CLIENT = "write client { enabled = true }"
"""The remedy for an agent that starts no plugins."""

_SUFFIXES = (".hcl", ".json")
_AS_ROOT = "run this command as root"


class PluginBlock(NamedTuple):
    """One `plugin` block."""

    label: str
    file: Path
    has_config: bool
    options: dict[str, object]
    outside: tuple[str, ...] = ()
    """Options that stand beside the config block."""
    has_args: bool = False
    line: int = 1

    @property
    def where(self) -> str:
        """Its file and line."""
        return f"{self.file} line {self.line}"


@dataclass(frozen=True)
class AgentConfig:
    """The files that were read, and what in them concerns us."""

    given: Path
    """The file or folder that was named; of several the last folder, else the last file."""
    files: tuple[Path, ...]
    plugin_dir: str | None
    """As written; None if no file sets it."""
    data_dir: str | None
    blocks: tuple[PluginBlock, ...]
    http: Mapping[str, str] = field(default_factory=dict)
    """The NOMAD_… variables that lead to the agent's API."""
    allocation_metrics: bool = False
    """Whether a file asks for the figures of single tasks."""
    client_enabled: bool | None = None
    """Whether the agent is a client, which alone starts plugins; None: no file says."""

    @property
    def plugins(self) -> str | None:
        """Where the agent looks for plugins: by default below its data; None if it says neither."""
        if self.plugin_dir:
            return self.plugin_dir
        return f"{self.data_dir.rstrip('/')}/plugins" if self.data_dir else None

    @property
    def ours(self) -> PluginBlock | None:
        """The block that Nomad will use for this plugin."""
        return self.block_of(LABEL)

    def block_of(self, label: str) -> PluginBlock | None:
        """The block that Nomad will use for a plugin: of several the last, unless it is empty.

        Of two in one file it is the last even then.
        """
        found: PluginBlock | None = None
        for block in self.blocks:
            if block.label != label:
                continue
            if found is None or found.file == block.file or block.options:
                found = block
        return found

    def options_of(self, label: str) -> Mapping[str, object]:
        """What that block says; nothing where there is none."""
        block = self.block_of(label)
        return block.options if block is not None else {}

    @property
    def mislabelled(self) -> list[Problem]:
        """Where no block has our label, those that are meant for it, one sentence each."""
        if self.ours is not None:
            return []
        return [
            mislabelled(plugin.file, plugin.line, plugin.label)
            for plugin in self.blocks
            if is_meant(plugin.label, {*plugin.options, *plugin.outside})
        ]

    @property
    def twice(self) -> list[PluginBlock]:
        """The blocks for this plugin that Nomad does not use, because another is there."""
        return [block for block in self.blocks if block.label == LABEL and block != self.ours]

    @property
    def without_effect(self) -> list[Problem]:
        """What in our blocks Nomad or the plugin passes over, one sentence with a remedy each."""
        ours = self.ours
        if ours is None:
            return []
        said = [
            Problem(
                f'plugin "{LABEL}" is in {other.where} and in {ours.where}, and Nomad uses only the'
                " last",
                f"remove the block in {other.where}",
            )
            for other in self.twice
        ]
        if ours.has_args:
            said.append(
                Problem(
                    f'plugin "{LABEL}" in {ours.file} has args, which mean nothing', "take them out"
                )
            )
        return said

    @property
    def folder(self) -> Path | None:
        """The folder of the configuration, where a further file will be read."""
        return self.given if self.given.is_dir() else None


def read_agent_config(paths: Sequence[Path]) -> AgentConfig:
    """The configuration in these files and folders; ConfigError with every file that is wrong."""
    files, blocks, problems = [], [], []
    values: dict[str, str] = {}
    client_enabled: bool | None = None
    metrics = False
    http = AgentHttp()
    for path in paths:
        try:
            files += _files(path)
        except OSError as error:
            remedy = "pass --config with what the agent is started with"
            if isinstance(error, PermissionError):
                remedy = _AS_ROOT
            problems.append(Problem(f"{path} cannot be read: {error.strerror}", remedy))
    for file in files:
        try:
            parsed = parsed_file(file)
            blocks += _blocks(file, parsed)
        except ConfigError as error:
            closed = isinstance(error.__cause__, PermissionError)
            problems += [Problem(p, _AS_ROOT) if closed else p for p in error.problems]
            continue
        http.merge(parsed)
        values.update(_strings(parsed, "plugin_dir", "data_dir"))
        # Once such a value is true, no later file takes that back.
        telemetry = literals(settings_of(parsed, "telemetry"))
        metrics = metrics or is_true(telemetry.get("publish_allocation_metrics"))
        if (enabled := literals(settings_of(parsed, "client")).get("enabled")) is not None:
            client_enabled = client_enabled or is_true(enabled)
    if problems:
        raise ConfigError(problems)
    folders = [path for path in paths if path.is_dir()]
    return AgentConfig(
        given=(folders or list(paths))[-1],
        files=tuple(files),
        plugin_dir=values.get("plugin_dir"),
        data_dir=values.get("data_dir"),
        blocks=tuple(blocks),
        http=http.environment(),
        allocation_metrics=metrics,
        client_enabled=client_enabled,
    )


def _blocks(file: Path, parsed: Body) -> list[PluginBlock]:
    """The plugin blocks in a file; ConfigError for what in them ends the agent."""
    return [
        PluginBlock(
            plugin.label,
            file,
            bool(plugin.body.of("config")),
            # What is wrong in others' blocks is not ours to judge.
            options_of(file, plugin) if plugin.label == LABEL else others_options(plugin),
            outside_config(plugin.body),
            any(item.value for item in plugin.body.of("args")),
            plugin.line,
        )
        for plugin in plugins_in(file, parsed)
    ]


def _files(path: Path) -> list[Path]:
    """The files that Nomad reads when it is given this path, in its order; OSError."""
    if not path.is_dir():
        path.stat()
        return [path]
    return sorted(
        file
        for file in path.iterdir()
        if file.name.endswith(_SUFFIXES) and not file.name.startswith(".#") and file.is_file()
    )


def _strings(parsed: Body, *names: str) -> Iterator[tuple[str, str]]:
    """The names and values that are set: an empty one sets nothing."""
    found = literals(parsed)
    for name in names:
        value = found.get(name)
        if isinstance(value, str) and value:
            yield name, value
