# SPDX-License-Identifier: MPL-2.0
"""From what Nomad sends, or a file says, to a `PluginConfig`: all problems reported together.

Judges text alone. A node without GPUs, or with odd ones, has as good a config as any other: an
error here keeps the whole agent from starting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nomad_nvidia_vgpu.config.options import PluginConfig, options
from nomad_nvidia_vgpu.config.values import shown
from nomad_nvidia_vgpu.errors import ConfigError

UNCONFIGURED = (
    "no option is set, so no vGPUs are published: "
    'set vgpus in the config block of plugin "nvidia-vgpu" to offer the GPUs of this node'
)
"""What the log says when the config block is empty or missing.

Nomad 1.9 and older start every file in plugin_dir, with or without a `plugin` block.
"""

_NO_SIZE = "vgpus is missing: set it to how many vGPUs each GPU is to be divided into (1 to 256)"


def decode_msgpack(data: bytes) -> PluginConfig:
    """The config in Nomad's msgpack; ConfigError naming every problem."""
    # Imported late: the first of three starts brings no config.
    import msgpack  # noqa: PLC0415

    if not data:
        return PluginConfig()
    try:
        given = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except Exception as error:  # msgpack raises half a dozen unrelated types on bad bytes
        problem = f"the config block is not valid msgpack ({type(error).__name__}: {error})"
        raise ConfigError([f"{problem}: this plugin and this Nomad do not fit together"]) from error
    if given is None:
        return PluginConfig()
    if not isinstance(given, dict):
        raise ConfigError([f"the config block must be a map of options, got {shown(given)}"])
    return decode(given)


def decode(given: Mapping[Any, object]) -> PluginConfig:
    """The config in a mapping of option to value; None and unknown options count as not given.

    Nomad itself refuses unknown options, by our schema. ConfigError naming every problem.
    """
    problems: list[str] = []
    fields = _fields(PluginConfig, given, "", problems)
    enabled = fields.get("enabled", True)
    if given.get("vgpus") is None and enabled and any(v is not None for v in given.values()):
        problems.append(_NO_SIZE)
    config = PluginConfig(**fields)
    problems += _contradictions(config)
    if problems:
        raise ConfigError(problems)
    return config


def _fields(
    declared: type, given: Mapping[Any, object], path: str, problems: list[str]
) -> dict[str, Any]:
    """What was given for the fields of `declared`; adds a sentence for each that cannot be read."""
    fields: dict[str, Any] = {}
    for option in options(declared):
        value = given.get(option.name)
        if value is None:
            continue
        try:
            if option.block is not None and isinstance(value, Mapping):
                inner = _fields(option.block, value, f"{path}{option.name}.", problems)
                fields[option.field] = option.block(**inner)
            else:
                fields[option.field] = option.kind.read(value)
        except ValueError as error:
            problems.append(f"{path}{option.name} {error}")
    return fields


def _contradictions(config: PluginConfig) -> list[str]:
    both = set(config.health.fatal_xids) & set(config.health.ignored_xids)
    if not both:
        return []
    xids = ", ".join(str(xid) for xid in sorted(both))
    return [f"health.fatal_xids and health.ignored_xids both name XID {xids}: take it out of one"]


def unknown_options(given: Mapping[str, object]) -> list[str]:
    """One sentence for each option that does not exist, for files that Nomad has not checked."""
    known = {option.name: option for option in options()}
    problems = []
    for name, value in given.items():
        if name not in known:
            problems.append(_unknown(name, known))
            continue
        block = known[name].block
        if block is not None and isinstance(value, Mapping):
            inside = {option.name for option in options(block)}
            problems += [_unknown(f"{name}.{key}", inside) for key in value if key not in inside]
    return problems


def _unknown(name: str, known: Iterable[str]) -> str:
    # Imported late: only people who mistype need it.
    import difflib  # noqa: PLC0415

    near = difflib.get_close_matches(name.rpartition(".")[2], known, n=1)
    if near:
        return f"{name} is not an option of this plugin: did you mean {near[0]}?"
    return f"{name} is not an option of this plugin: there are {', '.join(sorted(known))}"
