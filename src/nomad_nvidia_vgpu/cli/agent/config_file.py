# SPDX-License-Identifier: MPL-2.0
"""Reads the plugin's options out of a Nomad agent's file, so that tools see what Nomad will."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nomad_nvidia_vgpu.cli.agent.hcl1 import Body, Hcl1Error, Item, parse
from nomad_nvidia_vgpu.cli.agent.hcl1_values import Plugin, merged, plugins
from nomad_nvidia_vgpu.config.options import options
from nomad_nvidia_vgpu.errors import ConfigError, Problem

LABEL = "nvidia-vgpu"
OFFICIAL = "nomad-device-nvidia"
"""File and label of HashiCorp's plugin, which offers whole GPUs."""
BUILT_IN = "nvidia-gpu"
"""The label of the same plugin where it is a part of Nomad, up to 1.1."""

_MAX_BYTES = 4 << 20

_TEMPLATE = re.compile(r"(?<!\$)\$\{|(?<!%)%\{")
"""In a plugin's config, unlike anywhere else in an agent's files."""

_T = TypeVar("_T")


def read_config_file(path: Path) -> dict[str, object]:
    """The options in `path`: an agent's file with our plugin block, a `config` block, or its inside.

    They may be wrong, or not exist. ConfigError if the file does not parse, or is another's.
    """
    return _options_in(path, parsed_file(path))


def parsed_file(path: Path) -> Body:
    """What an agent's file holds; ConfigError if it cannot be read or does not parse."""
    try:
        text = _text(path)
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path} is not a text file"]) from error
    except OSError as error:
        raise ConfigError([Problem(f"{path} cannot be read", f"{error.strerror}")]) from error
    return within(path, lambda: parse(text))


def _text(path: Path) -> str:
    """What is in a file; it may be a pipe that a shell made of a command's output."""
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise OSError(errno.EFBIG, f"it is longer than {_MAX_BYTES} bytes")
    return data.decode()


def outside_config(body: Body) -> tuple[str, ...]:
    """The options that stand in a plugin block itself, where Nomad knows none of them."""
    return tuple(option.name for option in options() if body.of(option.name))


def moved_inside(names: Sequence[str]) -> Problem:
    """What to do about options outside of the `config` block, as a sentence."""
    many = len(names) > 1
    stand, them = ("stand", "them") if many else ("stands", "it")
    return Problem(
        f"{', '.join(names)} {stand} outside of the config block",
        f"move {them} into config {{ … }}",
    )


def is_meant(label: str, names: Container[str]) -> bool:
    """Whether a plugin block of another label, with these options, is meant for this plugin."""
    return "vgpu" in label.lower() or "vgpus" in names


def mislabelled(file: Path, line: int, label: str) -> Problem:
    """What is wrong with a block that is meant for this plugin, as a sentence."""
    return Problem(
        f'{file} line {line} has a plugin "{label}" block, but the label must be the name of the file'
        " in plugin_dir",
        f'write "{LABEL}"',
    )


def options_of(file: Path, plugin: Plugin) -> dict[str, object]:
    """The options in the `config` of a plugin block; ConfigError for what ends the agent."""
    return _options(file, plugin.line, within(file, lambda: merged(plugin.body, "config")))


def others_options(plugin: Plugin) -> dict[str, Any]:
    """The same of a plugin whose options are not ours to judge; none if they are not as they must be."""
    try:
        return merged(plugin.body, "config")
    except Hcl1Error:
        return {}


def where(path: Path, problem: Problem) -> str:
    """File and line of the option that a problem begins with; the file alone where that is not known."""
    lines = _option_lines(path) if path.is_file() else {}  # of a pipe nothing is left
    named = [name for name in lines if problem.startswith((f"{name} ", f"{name}."))]
    return f"{path} line {lines[max(named, key=len)]}" if named else str(path)


def _option_lines(path: Path) -> dict[str, int]:
    """The line of each option that counts, by its name as problems have it: `gpu "*L4*".vgpus`."""
    try:
        parsed = parsed_file(path)
        ours = [block.body for block in plugins_in(path, parsed) if block.label == LABEL]
    except ConfigError:
        return {}  # changed since it was read
    config = (ours[-1] if ours else parsed).of("config")
    return dict(_lines(config or parsed))


def _lines(body: Body, path: str = "") -> Iterator[tuple[str, int]]:
    for item in body:
        name = path
        if item.keys:
            option, *labels = item.keys
            name = " ".join([f"{path}{option}", *(f'"{label}"' for label in labels)])
            yield name, item.line
        if isinstance(item.value, Body):
            yield from _lines(item.value, f"{name}." if item.keys else path)


def within(file: Path, read: Callable[[], _T]) -> _T:
    """What `read` finds in a file; ConfigError naming file and line if that is not as it must be."""
    try:
        return read()
    except Hcl1Error as error:
        form = "JSON" if file.suffix == ".json" else error.form
        where = f"{file} is not valid {form} (line {error.line}): "
        raise ConfigError([Problem(where + error.why, error.remedy)]) from error


def plugins_in(file: Path, parsed: Body) -> list[Plugin]:
    """The plugin blocks of a file, in the order in which Nomad takes them; ConfigError."""
    found = within(file, lambda: list(plugins(parsed)))
    if said := [text for plugin in found for text in _unexpected(file, plugin)]:
        raise ConfigError(said)
    return found


def _unexpected(file: Path, plugin: Plugin) -> Iterator[Problem]:
    """What in a plugin block ends the agent, but options of ours, for which there is a better remedy."""
    where = f'{file} line {plugin.line}: plugin "{plugin.label}"'
    if plugin.is_swallowed:
        yield Problem(
            f"{where} has a config that holds blocks alone, whose names Nomad's JSON takes for labels",
            'set an option beside them, such as "enabled": true',
        )
    elif names := [name for name in plugin.unexpected if name not in outside_config(plugin.body)]:
        yield Problem(
            f"{where} has {', '.join(names)}, and may have config and args alone", "take that out"
        )


def _options_in(path: Path, parsed: Body) -> dict[str, object]:
    names = {item.keys[0] for item in parsed}
    blocks = plugins_in(path, parsed)
    if not blocks:
        if names == {"config"}:
            return options_of(path, Plugin(LABEL, parsed, 1))
        if names and not {option.name for option in options()} & names:
            raise ConfigError([Problem(f'{path} has no plugin "{LABEL}" block', "add one")])
        whole = Body([Item(("config",), parsed, 1)])
        return options_of(path, Plugin(LABEL, whole, 1))
    ours = [block for block in blocks if block.label == LABEL]
    if ours:
        block = ours[-1]  # of two blocks Nomad takes the later one whole
        if said := outside_config(block.body):
            raise ConfigError([moved_inside(said).about(f"{path} line {block.line}")])
        return options_of(path, block)
    meant = [block for block in blocks if is_meant(block.label, _names(path, block))]
    if meant:
        raise ConfigError([mislabelled(path, block.line, block.label) for block in meant])
    labels = ", ".join(sorted({block.label for block in blocks}))
    raise ConfigError([Problem(f'{path} has no plugin "{LABEL}" block, only {labels}', "add one")])


def _names(path: Path, block: Plugin) -> set[str]:
    return {*(item.keys[0] for item in block.body), *options_of(path, block)}


def _options(file: Path, line: int, given: dict[str, Any]) -> dict[str, object]:
    """The options, each block in them as one map, and those with labels as a map of label to block.

    ConfigError if a label is there twice, or a text would be a template.
    """
    where = f"{file} line {line}"
    for name, text in _templates(given):
        raise ConfigError(
            [
                Problem(
                    f"{where}: {name} has {text} in it, which a plugin's config cannot",
                    "write the value itself",
                )
            ]
        )
    labelled = {option.name for option in options() if option.label}
    found: dict[str, object] = {}
    for name, value in given.items():
        if name in labelled and any(_maps(value)):
            found[name] = _by_label(where, name, value)
        else:
            found[name] = _block(value)
    return found


def _templates(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Texts that Nomad would take for templates, each with the option that it stands in."""
    if isinstance(value, str):
        if mark := _TEMPLATE.search(value):
            yield name, f"{mark[0]}…}}"
    elif isinstance(value, list):
        for inner in value:
            yield from _templates(inner, name)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _templates(inner, key)


def _by_label(where: str, name: str, value: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for blocks in _maps(value):
        for label, body in blocks.items():
            if label in found or (isinstance(body, list) and len(body) > 1):
                raise ConfigError(
                    [Problem(f'{where}: {name} "{label}" is there twice', "make one block of them")]
                )
            found[label] = _block(body)
    return found


def _block(value: object) -> object:
    """A block that may be there once; of a text the doubled marks are those of no template."""
    if isinstance(value, str):
        return value.replace("$${", "${").replace("%%{", "%{")
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return {name: _block(inner) for name, inner in value[0].items()}
    return [_block(inner) for inner in value] if isinstance(value, list) else value


def _maps(value: object) -> Iterator[dict[str, Any]]:
    """The maps in a block, which is a list of maps."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            yield item
