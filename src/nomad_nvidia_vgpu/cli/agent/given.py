# SPDX-License-Identifier: MPL-2.0
"""Options as a file or flags give them, put together and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nomad_nvidia_vgpu.config.decode import decode, unknown_options
from nomad_nvidia_vgpu.config.options import PluginConfig
from nomad_nvidia_vgpu.errors import ConfigError, Problem

_SIZES = ("vgpus", "vgpu_memory")


def replaced(given: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with what `asked` says instead; of the two sizes a scope has one."""
    sized = any(size in asked for size in _SIZES)
    found = {name: value for name, value in given.items() if not (sized and name in _SIZES)}
    for name, value in asked.items():
        there = found.get(name)
        if isinstance(value, dict) and isinstance(there, dict):
            found[name] = replaced(there, value)
        else:
            found[name] = value
    return found


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


def config_problems(given: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with a config, one sentence each."""
    try:
        checked_config(dict(given))
    except ConfigError as error:
        return list(error.problems)
    return []


def with_any_size(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same, complete for a command to which the number of vGPUs does not matter."""
    sized = any(given.get(name) is not None for name in _SIZES)
    return dict(given) if sized else {**given, "vgpus": 1}
