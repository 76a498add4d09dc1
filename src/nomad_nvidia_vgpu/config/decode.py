# SPDX-License-Identifier: MPL-2.0
"""From what Nomad sends, or a file says, to a `PluginConfig`: all problems reported together.

Judges text alone. A node without GPUs, or with odd ones, has as good a config as any other: an
error here keeps the whole agent from starting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nomad_nvidia_vgpu.config.declaring import Option
from nomad_nvidia_vgpu.config.options import GpuBlock, GpuConfig, PluginConfig, options
from nomad_nvidia_vgpu.config.values import WrongValueError, nearest, shown
from nomad_nvidia_vgpu.errors import ConfigError, Problem

UNCONFIGURED = Problem(
    "no option is set, so no vGPUs are published",
    (
        'set vgpus or vgpu_memory in the config block of plugin "nvidia-vgpu" to offer the'
        " GPUs of this node"
    ),
)
"""What the log says when the config block is empty or missing.

Nomad 1.9 and older start every file in plugin_dir, with or without a `plugin` block.
"""

_NO_SIZE = Problem(
    "vgpus and vgpu_memory are both missing",
    (
        "set one of them, for all GPUs or in a gpu block, to how many vGPUs each GPU is to"
        ' be divided into (1 to 256), or how large each is to be ("10GiB")'
    ),
)

_MAX_SELECTOR = 200
_MAX_BYTES = 1 << 18


def decode_msgpack(data: bytes) -> PluginConfig:
    """The config in Nomad's msgpack; ConfigError naming every problem."""
    # Imported late: the first of three starts brings no config.
    import msgpack  # noqa: PLC0415

    if not data:
        return PluginConfig()
    if len(data) > _MAX_BYTES:
        raise ConfigError(
            [
                Problem(
                    f"the config block has {len(data)} bytes, and at most {_MAX_BYTES} are read",
                    "shorten it",
                )
            ]
        )
    try:
        given = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except Exception as error:  # msgpack raises half a dozen unrelated types on bad bytes
        problem = f"the config block is not valid msgpack ({type(error).__name__}: {error})"
        raise ConfigError(
            [Problem(problem, "this plugin and this Nomad do not fit together")]
        ) from error
    if given is None:
        return PluginConfig()
    if not isinstance(given, dict):
        raise ConfigError([WrongValueError("a map of options", given).about("the config block")])
    return decode(given)


def decode(given: Mapping[Any, object]) -> PluginConfig:
    """The config in a mapping of option to value; None and unknown options count as not given.

    Nomad itself refuses unknown options, by our schema. ConfigError naming every problem.
    """
    problems: list[Problem] = []
    fields = _fields(PluginConfig, given, "", problems)
    enabled = fields.get("enabled", True)
    # Of blocks that may stand many times, Nomad sends an empty map where there is none.
    something = any(value is not None and value != {} for value in given.values())
    if something and enabled and not _mentions_size(given):
        problems.append(_NO_SIZE)
    config = PluginConfig(**fields)
    problems += _contradictions(config)
    if problems:
        raise ConfigError(problems)
    return config


def _mentions_size(given: Mapping[Any, object]) -> bool:
    """Whether a size is given, be it a wrong one, or in a gpu block that lacks its label."""
    blocks = given.get("gpu")
    inner = (blocks, *blocks.values()) if isinstance(blocks, Mapping) else ()
    scopes = [given, *(scope for scope in inner if isinstance(scope, Mapping))]
    return any(scope.get(name) is not None for scope in scopes for name in _SIZES)


_SIZES = ("vgpus", "vgpu_memory")


def _fields(
    declared: type, given: Mapping[Any, object], path: str, problems: list[Problem]
) -> dict[str, Any]:
    """What was given for the fields of `declared`; adds a sentence for each that cannot be read."""
    fields: dict[str, Any] = {}
    for option in options(declared):
        value = given.get(option.name)
        if value is None:
            continue
        try:
            fields[option.field] = _value(option, value, path, problems)
        except WrongValueError as error:
            problems.append(error.about(f"{path}{option.name}"))
    return fields


def _value(option: Option, value: object, path: str, problems: list[Problem]) -> Any:
    """The value of one option or block; WrongValueError."""
    if option.block is None or not isinstance(value, Mapping):
        return option.kind.read(value)
    if not option.label:
        return option.block(**_fields(option.block, value, f"{path}{option.path}", problems))
    inside = {inner.name for inner in options(option.block)}
    if any(label in inside and not isinstance(body, Mapping) for label, body in value.items()):
        raise WrongValueError(option.kind.allowed, value, like=f'{option.name} "*L4*"')
    blocks = []
    for label, body in value.items():
        place = f"{path}{option.name} {shown(label)}"
        if not _is_selector(label):
            problems.append(WrongValueError(option.kind.allowed, label).about(place))
        elif body is not None and not isinstance(body, Mapping):
            problems.append(WrongValueError("a block", body).about(place))
        else:
            inner = _fields(option.block, body or {}, f"{place}.", problems)
            blocks.append(GpuBlock(label.strip(), GpuConfig(**inner)))
    return tuple(blocks)


def _is_selector(label: object) -> bool:
    return (
        isinstance(label, str) and label.isprintable() and 1 <= len(label.strip()) <= _MAX_SELECTOR
    )


def _contradictions(config: PluginConfig) -> Iterator[Problem]:
    scopes: dict[str, PluginConfig | GpuConfig] = {
        "": config,
        **{f"{block}.": block.given for block in config.gpu},
    }
    for path, scope in scopes.items():
        if scope.vgpus is not None and scope.vgpu_memory_mib is not None:
            yield (
                Problem(
                    (
                        f"{path}vgpus and {path}vgpu_memory are both set, and each says into how many vGPUs a GPU is divided, got {scope.vgpus} and {scope.vgpu_memory_mib} MiB"
                    ),
                    "take one out",
                )
            )
    both = set(config.health.fatal_xids) & set(config.health.ignored_xids)
    if both:
        xids = ", ".join(str(xid) for xid in sorted(both))
        yield Problem(
            f"health.fatal_xids and health.ignored_xids both name XID {xids}", "take it out of one"
        )


def unknown_options(given: Mapping[str, object]) -> list[Problem]:
    """One sentence for each option that does not exist, for files that Nomad has not checked."""
    known = {option.name: option for option in options()}
    problems = []
    for name, value in given.items():
        if name not in known:
            problems.append(_unknown(name, known))
            continue
        option = known[name]
        if option.block is None or not isinstance(value, Mapping):
            continue
        inside = {inner.name for inner in options(option.block)}
        for place, body in _bodies(option, value):
            problems += [_unknown(f"{place}{key}", inside) for key in body if key not in inside]
    return problems


def _bodies(
    option: Option, value: Mapping[str, object]
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """What stands in a block, or in each of the blocks of a name, after its path."""
    if not option.label:
        yield option.path, value
        return
    for label, body in value.items():
        if isinstance(body, Mapping):
            yield f'{option.name} "{label}".', body


def _unknown(name: str, known: Iterable[str]) -> Problem:
    block, dot, inner = name.partition(".")
    if dot and block in known:
        return Problem(
            f"{name} is not an option of this plugin", f"write {block} {{ {inner} = … }}"
        )
    if near := nearest(name.rpartition(".")[2], known):
        return Problem(f"{name} is not an option of this plugin", f"did you mean {near}?")
    return Problem(
        f"{name} is not an option of this plugin", f"there are {', '.join(sorted(known))}"
    )
