# SPDX-License-Identifier: MPL-2.0
"""How options are declared: as fields of a named tuple, with what else is known of each beside its type.

Not as dataclasses: Python makes those by compiling code, in each of the three launches of an agent
start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from nomad_nvidia_vgpu.config import values

LABELLED = ' "…"'
"""What stands in a path after the name of a block that may stand many times."""


class Option(NamedTuple):
    """One option as its declaration says."""

    name: str
    field: str
    """Its field in the class that declares it: the name, with the unit where it has one."""
    kind: values.Kind
    default_shown: str
    """The default as an operator would write it; empty if there is none."""
    doc: str
    block: type | None = None
    """For a block, the class that declares what is in it."""
    label: str = ""
    """What the label of a block says that may stand many times; empty: there is one, unlabelled."""

    @property
    def path(self) -> str:
        """What stands before the name of an option in this block: `health.`, `gpu "…".`."""
        return f"{self.name}{LABELLED if self.label else ''}."


class Declared(NamedTuple):
    """What stands beside the type of a field."""

    kind: values.Kind
    doc: str
    shown: str = ""
    block: type | None = None
    label: str = ""


def option(kind: values.Kind, doc: str, *, shown: str = "") -> Declared:
    """An option; `shown` is its default as an operator would write it."""
    return Declared(kind, doc, shown)


def block(declared: type, doc: str) -> Declared:
    """A block of the options that a class declares."""
    kind = values.Kind("block", "a block", values.no_scalar)
    return Declared(kind, doc, block=declared)


def labelled_blocks(declared: type, label: str, allowed: str, doc: str) -> Declared:
    """Blocks of the options that a class declares, each with a label of its own."""
    kind = values.Kind("block", allowed, values.no_scalar)
    return Declared(kind, doc, block=declared, label=label)


def declared_in(declared: type) -> Iterator[Option]:
    """Every option that a class declares, in the order of its fields.

    A field that holds seconds or MiB says so at its end; its option does not, because it carries a
    unit itself.
    """
    for field, annotation in declared.__annotations__.items():
        (given,) = annotation.__metadata__
        name = field.removesuffix("_s").removesuffix("_mib")
        yield Option(name, field, given.kind, given.shown, given.doc, given.block, given.label)
