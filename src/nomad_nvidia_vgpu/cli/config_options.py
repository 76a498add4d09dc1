# SPDX-License-Identifier: MPL-2.0
"""A config from the command line: from a file, from flags made of the option table, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from nomad_nvidia_vgpu.cli.agent import config as agent_config
from nomad_nvidia_vgpu.cli.agent.config import PluginBlock, read_agent_config
from nomad_nvidia_vgpu.cli.agent.config_file import LABEL, moved_inside, read_config_file, where
from nomad_nvidia_vgpu.cli.agent.given import (
    checked_config,
    config_problems,
    replaced,
    with_any_size,
)
from nomad_nvidia_vgpu.cli.tables import style
from nomad_nvidia_vgpu.config.declaring import LABELLED, Option
from nomad_nvidia_vgpu.config.options import PluginConfig, all_options
from nomad_nvidia_vgpu.config.values import shown
from nomad_nvidia_vgpu.errors import ConfigError, Problem

_F = TypeVar("_F", bound=Callable[..., Any])
_OTHER_FILES = f"--config names other files than those in {agent_config.USUAL} (/dev/null: none)"


class ConfiguredCommand(click.Command):
    """A command whose help shows its own options, and those of the plugin when asked for them."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """As click's, with one option more."""
        super().__init__(*arguments, **settings)
        shows = click.Option(
            ["--help-config"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=self._show_config_help,
            help="Show one flag for each option of the plugin, such as --vgpus 8, and exit.",
        )
        self.params.append(shows)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the command's own options; the plugin's are many and have a help of their own."""
        self._write(context, formatter, "Options", of_plugin=False)

    def _show_config_help(self, context: click.Context, _: click.Parameter, given: object) -> None:
        if given and not context.resilient_parsing:
            formatter = context.make_formatter()
            self._write(context, formatter, "Options of the plugin", of_plugin=True)
            click.echo(formatter.getvalue().rstrip("\n"))
            context.exit()

    def _write(
        self,
        context: click.Context,
        formatter: click.HelpFormatter,
        heading: str,
        *,
        of_plugin: bool,
    ) -> None:
        names = {_parameter(path) for path, _option in all_options()}
        parameters = [p for p in self.get_params(context) if (p.name in names) == of_plugin]
        records = [record for p in parameters if (record := p.get_help_record(context))]
        with formatter.section(heading):
            formatter.write_dl(records)


def config_options(command: _F) -> _F:
    """Gives a command `--config PATH` and one flag per option of the config block.

    The command gets them as keyword arguments, to be handed on to `node_config`.
    """
    return _config_option(f"By default {agent_config.USUAL}, where it has that block.")(command)


def named_config_options(command: _F) -> _F:
    """The same for a command that uses no config but the one it is given: `given_config`."""
    return _config_option("By default flags alone count.")(command)


def _config_option(default: str) -> Callable[[_F], _F]:
    option = agent_option(
        click.Path(exists=True, path_type=Path),
        "What the agent is started with as -config: a folder, or the file that has the plugin"
        ' "nvidia-vgpu" block (repeatable); or one file with that block\'s config alone (HCL or JSON).'
        f" Flags win over it. {default}",
    )
    return lambda command: option(option_flags(command))


def agent_option(kind: click.Path, text: str, **settings: Any) -> Callable[[_F], _F]:
    """The option that names an agent's files, under both of its names: the keyword `paths`."""
    return click.option(
        "--config", "--agent-config", "paths", type=kind, multiple=True, help=text, **settings
    )


def option_flags(command: _F) -> _F:
    """Gives a command the flags alone."""
    for path, option in reversed(list(all_options())):
        command = _flag(path, option)(command)
    return command


@dataclass(frozen=True)
class Given:
    """A config from the command line."""

    options: dict[str, object]
    """Option to value, only those that were given."""
    file: Path | None = None
    in_file: Mapping[str, object] = field(default_factory=dict)
    """What that file says, without flags."""
    unasked: bool = False
    """Whether nobody has named that file, and another one would do."""

    def checked(self, *, any_size: bool = False) -> PluginConfig:
        """The config; ConfigError as `checked_config`, which also names the file that is wrong.

        `any_size`: for a command to which the number of vGPUs does not matter.
        """
        complete = with_any_size if any_size else dict
        try:
            return checked_config(complete(self.options))
        except ConfigError as error:
            of_file = set(config_problems(complete(self.in_file)))
            said = [
                f"{where(self.file, p)}: {p}" if self.file and p in of_file else p
                for p in error.problems
            ]
            remedy = [_OTHER_FILES] if self.unasked and of_file.intersection(error.problems) else []
            raise ConfigError([*said, *remedy]) from error


def given_config(paths: Sequence[Path], flags: dict[str, Any]) -> Given:
    """What flags and files say; ConfigError if a file or folder cannot be read."""
    return _with_flags(*_read(paths), flags) if paths else _with_flags({}, None, flags)


def node_config(paths: Sequence[Path], flags: dict[str, Any], *, needed: bool = False) -> Given:
    """The same, and where no file is named, what this node's agent gives the plugin.

    `needed`: ConfigError too where the agent's own files cannot be read.
    """
    if paths:
        return given_config(paths, flags)
    return replace(_with_flags(*_of_this_node(needed=needed), flags), unasked=not needed)


def _with_flags(in_file: dict[str, object], file: Path | None, flags: dict[str, Any]) -> Given:
    return Given(replaced(in_file, _asked(flags)), file, in_file)


def _asked(flags: dict[str, Any]) -> dict[str, Any]:
    """What the flags alone say."""
    asked: dict[str, Any] = {}
    for path, option in all_options():
        value = flags.get(_parameter(path))
        if value in (None, ()):
            continue
        if LABELLED in path:
            _set_in_blocks(asked, path, option, value)
            continue
        *blocks, name = path.split(".")
        place = asked
        for block in blocks:
            place = place.setdefault(block, {})
        place[name] = list(value) if isinstance(value, tuple) else value
    return asked


def _read(paths: Sequence[Path]) -> tuple[dict[str, object], Path]:
    """The options in a file, or in what the agent reads, as it would; and the file they are in."""
    if len(paths) == 1 and not paths[0].is_dir():
        return read_config_file(paths[0]), paths[0]
    block = _our_block(paths)
    if block is None:
        where = ", ".join(map(str, paths))
        raise ConfigError([Problem(f'no file in {where} has a plugin "{LABEL}" block', "add one")])
    return _options(block), block.file


def _of_this_node(*, needed: bool) -> tuple[dict[str, object], Path | None]:
    """The options where an agent mostly has them, if it has; standard error says so."""
    usual = agent_config.USUAL
    if not usual.exists():
        return {}, None
    try:
        block = _our_block([usual])
    except ConfigError as error:
        if needed:
            raise
        # Not what was asked for, so no reason to refuse.
        why = "; ".join(error.problems)
        style.note(f"nvidia-vgpu: the options in {usual} are not known: {why}")
        return {}, None
    if block is None:
        return {}, None
    try:
        found = _options(block)
    except ConfigError as error:
        raise ConfigError([*error.problems, *([] if needed else [_OTHER_FILES])]) from error
    style.note(f"nvidia-vgpu: with the options in {block.file}; --config names another file")
    return found, block.file


def _our_block(paths: Sequence[Path]) -> PluginBlock | None:
    """The block that the agent would use; ConfigError if none has our label and one is meant to."""
    agent = read_agent_config(paths)
    if agent.mislabelled:
        raise ConfigError(agent.mislabelled)
    return agent.ours


def _options(block: PluginBlock) -> dict[str, object]:
    if block.outside:
        raise ConfigError([moved_inside(block.outside).about(block.where)])
    return block.options


def _set_in_blocks(given: dict[str, Any], path: str, option: Option, values: Any) -> None:
    """What `--gpu-vgpus SELECTOR=VALUE` says, written into the blocks of those labels."""
    place = given.setdefault(path.partition(LABELLED)[0], {})
    for text in values:
        label, _, value = text.rpartition("=")
        if not label:
            flag = f"--{_parameter(path).replace('_', '-')}"
            raise click.UsageError(f"{flag} must be SELECTOR=VALUE, got {shown(text)}")
        place.setdefault(label, {})[option.name] = value


def _parameter(path: str) -> str:
    return path.replace(LABELLED, "").replace(".", "_")


def _flag(path: str, option: Option) -> Callable[[_F], _F]:
    parameter = _parameter(path)
    name = f"--{parameter.replace('_', '-')}"
    text = option.doc.replace("`", "")
    if option.default_shown:
        text += f"  [default: {option.default_shown}]"
    kind = option.kind.hcl_type
    if LABELLED in path:
        metavar = f"SELECTOR={kind.upper()}"
        return click.option(
            name, parameter, multiple=True, help=f"{text} (repeatable)", metavar=metavar
        )
    if kind == "bool":
        return click.option(name, parameter, type=click.Choice(["true", "false"]), help=text)
    if kind.startswith("list"):
        return click.option(name, parameter, multiple=True, help=f"{text} (repeatable)")
    return click.option(name, parameter, help=text, metavar=kind.upper())
