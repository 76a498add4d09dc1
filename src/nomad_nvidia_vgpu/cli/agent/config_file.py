# SPDX-License-Identifier: MPL-2.0
"""Reads the plugin's options out of a Nomad agent's file, so that tools see what Nomad will."""

from __future__ import annotations

import contextlib
import errno
import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nomad_nvidia_vgpu.config.options import options
from nomad_nvidia_vgpu.errors import ConfigError, Problem

LABEL = "nvidia-vgpu"
OFFICIAL = "nomad-device-nvidia"
"""File and label of HashiCorp's plugin, which offers whole GPUs."""

_MAX_BYTES = 4 << 20

_QUOTED_KEY = re.compile(r'(?<![^\s{,])"(?P<name>[^"\n]*)"(?=\s*=[^=])')
"""`"fingerprint.denylist" = …` in a block: agents' files are HCL 1, which the parser is not."""


def read_config_file(path: Path) -> dict[str, object]:
    """The options in `path`: an agent's file with our plugin block, a `config` block, or its inside.

    They may be wrong, or not exist. ConfigError if the file does not parse, or is another's.
    """
    return _options_in(path, parsed_file(path))


def parsed_file(path: Path) -> dict[str, Any]:
    """What an agent's file holds; ConfigError if it cannot be read or does not parse."""
    try:
        text = _text(path)
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path} is not a text file"]) from error
    except OSError as error:
        raise ConfigError([Problem(f"{path} cannot be read", f"{error.strerror}")]) from error
    return _parse(path, text)


def _text(path: Path) -> str:
    """What is in a file; it may be a pipe that a shell made of a command's output."""
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise OSError(errno.EFBIG, f"it is longer than {_MAX_BYTES} bytes")
    return data.decode()


def block(parsed: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a block without a label says, of several the last for each name."""
    merged: dict[str, Any] = {}
    for body in _maps(parsed.get(name)):
        merged.update(body)
    return merged


def plugin_blocks(parsed: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Label and body of each plugin block, in the order of the file."""
    for block in _maps(parsed.get("plugin")):
        for label, bodies in block.items():
            yield from ((label, body) for body in _maps(bodies))


def outside_config(body: dict[str, Any]) -> tuple[str, ...]:
    """The options that stand in a plugin block itself, where Nomad knows none of them."""
    return tuple(option.name for option in options() if option.name in body)


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


def mislabelled(file: Path, label: str) -> Problem:
    """What is wrong with a block that is meant for this plugin, as a sentence."""
    return Problem(
        (
            f'{file} has a plugin "{label}" block, but the label must be the name of the file in'
            " plugin_dir"
        ),
        f'write "{LABEL}"',
    )


def options_of(file: Path, body: dict[str, Any]) -> dict[str, object]:
    """The options in the `config` of a plugin block; ConfigError if a labelled one is there twice."""
    merged: dict[str, object] = {}
    for config in _maps(body.get("config")):
        merged.update(_unwrapped(file, config))
    return merged


def _parse(path: Path, text: str) -> dict[str, Any]:
    if path.suffix == ".json" or text.lstrip().startswith("{"):
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError([Problem(f"{path} is not valid JSON", f"{error}")]) from error
    else:
        parsed = _parse_hcl(path, text)
    if not isinstance(parsed, dict):
        raise ConfigError([f"{path} must hold a map of options, got {type(parsed).__name__}"])
    return parsed


def _parse_hcl(path: Path, text: str) -> dict[str, Any]:
    # Imported late: its grammar takes a tenth of a second to load.
    import hcl2  # noqa: PLC0415
    from hcl2.utils import SerializationOptions  # noqa: PLC0415
    from lark.exceptions import LarkError  # noqa: PLC0415

    plain = SerializationOptions(
        with_comments=False, explicit_blocks=False, strip_string_quotes=True
    )
    try:
        return hcl2.loads(text, serialization_options=plain)
    except LarkError as error:
        with contextlib.suppress(LarkError):
            rewritten = _QUOTED_KEY.sub(_unquoted, text)
            return hcl2.loads(rewritten, serialization_options=plain)
        line = getattr(error, "line", None)
        where = f" (line {line})" if isinstance(line, int) and line > 0 else ""
        # Not the parser's words, which quote the file: it may hold tokens and keys of the agent's.
        found = getattr(error, "token", "") or getattr(error, "char", "")
        why = "fix what does not belong there" if found else "it ends too early, close what is open"
        raise ConfigError([Problem(f"{path} is not valid HCL{where}", f"{why}")]) from error


def _unquoted(key: re.Match[str]) -> str:
    """A key that HCL 2 takes: no option of ours has a name that must be quoted."""
    name = key["name"]
    return name if name.isidentifier() else f"quoted_{key.start()}"


def _options_in(path: Path, parsed: dict[str, Any]) -> dict[str, object]:
    if "plugin" not in parsed:
        if set(parsed) == {"config"}:
            return options_of(path, parsed)
        if parsed and not {option.name for option in options()} & set(parsed):
            raise ConfigError([Problem(f'{path} has no plugin "{LABEL}" block', "add one")])
        return _unwrapped(path, parsed)
    blocks = list(plugin_blocks(parsed))
    ours = [body for label, body in blocks if label == LABEL]
    if ours:
        body = ours[-1]  # of two blocks Nomad takes the later one whole
        if names := outside_config(body):
            raise ConfigError([Problem(f"{path}", f"{moved_inside(names)}")])
        return options_of(path, body)
    meant = [label for label, body in blocks if is_meant(label, {*body, *options_of(path, body)})]
    if meant:
        raise ConfigError([mislabelled(path, label) for label in meant])
    labels = ", ".join(sorted({label for label, _ in blocks})) or "none"
    raise ConfigError([Problem(f'{path} has no plugin "{LABEL}" block, only {labels}', "add one")])


def _unwrapped(file: Path, given: dict[str, Any]) -> dict[str, object]:
    """The options, with a block that HCL gives as a list of one map as that map.

    Blocks with labels become one map of label to block; ConfigError if a label is there twice.
    """
    labelled = {option.name for option in options() if option.label}
    found: dict[str, object] = {}
    for name, value in given.items():
        if name in labelled and any(_maps(value)):
            found[name] = _by_label(file, name, value)
        else:
            found[name] = _block(value)
    return found


def _by_label(file: Path, name: str, value: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for blocks in _maps(value):
        for label, body in blocks.items():
            if label in found or (isinstance(body, list) and len(body) > 1):
                raise ConfigError(
                    [Problem(f'{file}: {name} "{label}" is there twice', "make one block of them")]
                )
            found[label] = _block(body)
    return found


def _block(value: object) -> object:
    return value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value


def _maps(value: object) -> Iterator[dict[str, Any]]:
    """The maps in a block, which HCL gives as a list of maps and JSON often as one map."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            yield item
