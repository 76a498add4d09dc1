# SPDX-License-Identifier: MPL-2.0
"""The plugin block of an agent's configuration, written from options."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from nomad_nvidia_vgpu.cli.agent.config_file import LABEL
from nomad_nvidia_vgpu.config.declaring import Option
from nomad_nvidia_vgpu.config.options import PluginConfig, options
from nomad_nvidia_vgpu.errors import ConfigError

_HEAD = "# Written by `nvidia-vgpu install`. Options: docs/configuration.md\n"


def block_text(given: Mapping[str, Any]) -> str:
    """The block in HCL, its options in the order in which the docs list them.

    `given` is a config that is in order; ConfigError for text that Nomad would read otherwise.
    """
    scopes = dict(_scopes(_checked(_typed(given))))
    lines = _attributes(scopes.pop(""), "    ")
    for opening, values in scopes.items():
        lines += [*([""] if lines else []), f"    {opening} {{"]
        lines += [*_attributes(values, "      "), "    }"]
    return f'{_HEAD}plugin "{LABEL}" {{\n  config {{\n{_joined(lines)}  }}\n}}\n'


def block_json(given: Mapping[str, Any]) -> str:
    """The same in JSON, for an agent that has one file of that form; ConfigError too."""
    config = dict(_checked(_typed(given)))
    if all(isinstance(value, Mapping) for value in config.values()):
        config = {"enabled": True, **config}  # of blocks alone Nomad takes the names for labels
    return json.dumps({"plugin": {LABEL: {"config": config}}}, indent=2)


def settings(given: Mapping[str, Any]) -> dict[str, str]:
    """Each option that is set, by its path, with its value in HCL; ValueError for a wrong value."""
    return {
        f"{opening}.{name}" if opening else name: _hcl(value)
        for opening, values in _scopes(_typed(given))
        for name, value in values.items()
    }


def _scopes(typed: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What stands in the config block itself, then each block by what opens it."""
    blocks = {option.name: option for option in options() if option.block is not None}
    yield "", {name: value for name, value in typed.items() if name not in blocks}
    for name, option in blocks.items():
        if name not in typed:
            continue
        if option.label:
            yield from ((f"{name} {_hcl(label)}", body) for label, body in typed[name].items())
        else:
            yield name, typed[name]


def _typed(given: Mapping[str, Any], declared: type = PluginConfig) -> dict[str, Any]:
    """The options in order, numbers as numbers though flags give them as text; ValueError."""
    found: dict[str, Any] = {}
    for option in options(declared):
        value = given.get(option.name)
        if value is None:
            continue
        if option.block is None:
            found[option.name] = _of_type(option, value)
            continue
        if option.label:
            bodies = {label: _typed(body or {}, option.block) for label, body in value.items()}
            found[option.name] = bodies
        else:
            found[option.name] = _typed(value, option.block)
    return found


def _of_type(option: Option, value: Any) -> Any:
    """A value as it is written: text stays what the operator said, such as `10GiB`."""
    if "string" not in option.kind.hcl_type:
        value = option.kind.read(value)
    return list(value) if isinstance(value, (list, tuple)) else value


def _attributes(values: Mapping[str, Any], indent: str) -> list[str]:
    width = max(map(len, values), default=0)
    return [f"{indent}{name:{width}} = {_hcl(value)}" for name, value in values.items()]


def _hcl(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_hcl, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _checked(typed: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same; ConfigError for text that Nomad would not read as it stands.

    It takes it for HCL 1, then JSON, then a template.
    """
    said = [
        f"{text!r} cannot stand in a configuration of Nomad, because its quotes, backslashes,"
        " unprintable letters, ${ or %{: give another"
        for text in _texts(typed)
        if not text.isprintable() or any(mark in text for mark in ('"', "\\", "${", "%{"))
    ]
    if said:
        raise ConfigError(said)
    return typed


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from (name, *_texts(inner))


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
