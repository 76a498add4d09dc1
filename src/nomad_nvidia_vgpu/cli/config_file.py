# SPDX-License-Identifier: MPL-2.0
"""Reads the plugin's options out of a Nomad agent's file, so that tools see what Nomad will."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nomad_nvidia_vgpu.config.options import options
from nomad_nvidia_vgpu.errors import ConfigError

LABEL = "nvidia-vgpu"


def read_config_file(path: Path) -> dict[str, object]:
    """The options in `path`: an agent's file with our plugin block, a `config` block, or its inside.

    They may be wrong, or not exist. ConfigError if the file does not parse, or is another's.
    """
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path} is not a text file"]) from error
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror}"]) from error
    return _options_in(path, _parse(path, text))


def _parse(path: Path, text: str) -> dict[str, Any]:
    if path.suffix == ".json" or text.lstrip().startswith("{"):
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError([f"{path} is not valid JSON: {error}"]) from error
    else:
        # Imported late: its grammar takes a tenth of a second to load.
        import hcl2  # noqa: PLC0415
        from hcl2.utils import SerializationOptions  # noqa: PLC0415
        from lark.exceptions import LarkError  # noqa: PLC0415

        plain = SerializationOptions(
            with_comments=False, explicit_blocks=False, strip_string_quotes=True
        )
        try:
            parsed = hcl2.loads(text, serialization_options=plain)
        except LarkError as error:
            line = getattr(error, "line", None)
            where = f" (line {line})" if isinstance(line, int) and line > 0 else ""
            first = str(error).splitlines()[0]
            raise ConfigError([f"{path} is not valid HCL{where}: {first}"]) from error
    if not isinstance(parsed, dict):
        raise ConfigError([f"{path} must hold a map of options, got {type(parsed).__name__}"])
    return parsed


def _options_in(path: Path, parsed: dict[str, Any]) -> dict[str, object]:
    if "plugin" not in parsed:
        if set(parsed) == {"config"}:
            return _config_in(parsed)
        if parsed and not {option.name for option in options()} & set(parsed):
            raise ConfigError([f'{path} has no plugin "{LABEL}" block: add one'])
        return _unwrapped(parsed)
    found: dict[str, object] | None = None
    for block in _maps(parsed["plugin"]):
        for body in _maps(block.get(LABEL)):
            found = _config_in(body)  # of two blocks Nomad takes the later one whole
    if found is None:
        labels = sorted({label for block in _maps(parsed["plugin"]) for label in block})
        raise ConfigError(
            [f'{path} has no plugin "{LABEL}" block, only {", ".join(labels) or "none"}: add one']
        )
    return found


def _config_in(body: dict[str, Any]) -> dict[str, object]:
    merged: dict[str, object] = {}
    for config in _maps(body.get("config")):
        merged.update(_unwrapped(config))
    return merged


def _unwrapped(given: dict[str, Any]) -> dict[str, object]:
    """The options, with a block that HCL gives as a list of one map as that map.

    Blocks with labels become one map of label to block; ConfigError if a label is there twice.
    """
    labelled = {option.name for option in options() if option.label}
    found: dict[str, object] = {}
    for name, value in given.items():
        if name in labelled and any(_maps(value)):
            found[name] = _by_label(name, value)
        else:
            found[name] = _block(value)
    return found


def _by_label(name: str, value: object) -> dict[str, object]:
    found: dict[str, object] = {}
    for blocks in _maps(value):
        for label, body in blocks.items():
            if label in found or (isinstance(body, list) and len(body) > 1):
                raise ConfigError([f'{name} "{label}" is there twice: make one block of them'])
            found[label] = _block(body)
    return found


def _block(value: object) -> object:
    return value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value


def _maps(value: object) -> Iterator[dict[str, Any]]:
    """The maps in a block, which HCL gives as a list of maps and JSON often as one map."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            yield item
