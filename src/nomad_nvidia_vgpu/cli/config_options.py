# SPDX-License-Identifier: MPL-2.0
"""A config from the command line: from a file, from flags made of the option table, or both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from nomad_nvidia_vgpu.cli.config_file import read_config_file
from nomad_nvidia_vgpu.config.declaring import LABELLED, Option
from nomad_nvidia_vgpu.config.decode import decode, unknown_options
from nomad_nvidia_vgpu.config.options import PluginConfig, all_options
from nomad_nvidia_vgpu.config.values import shown
from nomad_nvidia_vgpu.errors import ConfigError

_F = TypeVar("_F", bound=Callable[..., Any])


def config_options(command: _F) -> _F:
    """Gives a command `--config FILE` and one flag per option of the config block.

    The command gets them as keyword arguments, to be handed on to `given_config`.
    """
    return click.option(
        "--config",
        "config_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help='The file of an agent\'s configuration that has the plugin "nvidia-vgpu" block, or a'
        " file with that block's config alone (HCL or JSON). Flags win over it.",
    )(option_flags(command))


def option_flags(command: _F) -> _F:
    """Gives a command the flags alone."""
    for path, option in reversed(list(all_options())):
        command = _flag(path, option)(command)
    return command


def given_config(config_file: Path | None, flags: dict[str, Any]) -> dict[str, object]:
    """Option to value, only those that were given; ConfigError if the file cannot be read."""
    given = read_config_file(config_file) if config_file else {}
    for path, option in all_options():
        value = flags.get(_parameter(path))
        if value in (None, ()):
            continue
        if LABELLED in path:
            _set_in_blocks(given, path, option, value)
            continue
        *blocks, name = path.split(".")
        place: dict[str, Any] = given
        for block in blocks:
            place = place.setdefault(block, {})
        place[name] = list(value) if isinstance(value, tuple) else value
    return given


def checked_config(given: dict[str, Any]) -> PluginConfig:
    """The config; ConfigError naming every option that does not exist, and every other problem."""
    problems = unknown_options(given)
    try:
        config = decode(given)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    if problems:
        raise ConfigError(problems)
    return config


def with_any_size(given: dict[str, Any]) -> dict[str, Any]:
    """The same, complete for a command to which the number of vGPUs does not matter."""
    sized = any(given.get(name) is not None for name in ("vgpus", "vgpu_memory"))
    return given if sized else {**given, "vgpus": 1}


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
