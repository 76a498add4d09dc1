# SPDX-License-Identifier: MPL-2.0
"""The schema that Nomad checks a `config` block against, made from the options.

No option has a default in the schema: the decoder must see what the operator left out.
"""

from __future__ import annotations

from typing import NamedTuple

from nomad_nvidia_vgpu.config.declaring import Option
from nomad_nvidia_vgpu.config.options import options


class Attr(NamedTuple):
    """`name = value` of a type such as `number` or `list(string)`; never required."""

    name: str
    type: str


class Block(NamedTuple):
    """`name { … }`, at most once, never required."""

    name: str
    attrs: tuple[Attr, ...]
    label: str = ""
    """If not empty, it is `name "<label>" { … }`, once for each label."""


def schema() -> tuple[Attr | Block, ...]:
    """One entry per option or block."""
    return tuple(_entry(option) for option in options())


def _entry(option: Option) -> Attr | Block:
    if option.block is None:
        return Attr(option.name, option.kind.hcl_type)
    inner = options(option.block)
    attrs = tuple(Attr(o.name, o.kind.hcl_type) for o in inner)
    return Block(option.name, attrs, option.label)
