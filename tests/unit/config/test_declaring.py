# SPDX-License-Identifier: MPL-2.0
"""How options are declared, shown by a class of the tests' own."""

from datetime import timedelta
from typing import Annotated, NamedTuple

from nomad_nvidia_vgpu.config import values
from nomad_nvidia_vgpu.config.declaring import block, declared_in, labelled_blocks, option

BOOLEAN, DURATION, SIZE = values.boolean(), values.duration(timedelta(0)), values.size()


class Inner(NamedTuple):
    """What stands in a block."""

    on: Annotated[bool, option(BOOLEAN, "whether", shown="true")] = True


class Outer(NamedTuple):
    """One field of each form."""

    wait_s: Annotated[float, option(DURATION, "how long")] = 1.0
    memory_mib: Annotated[int | None, option(SIZE, "how much")] = None
    single: Annotated[Inner, block(Inner, "a block")] = Inner()
    many: Annotated[tuple[Inner, ...], labelled_blocks(Inner, "name", "blocks", "blocks")] = ()


def test_options_are_the_fields_in_their_order() -> None:
    """The docs list them so."""
    assert [declared.field for declared in declared_in(Outer)] == [
        "wait_s",
        "memory_mib",
        "single",
        "many",
    ]


def test_an_option_has_no_unit_in_its_name() -> None:
    """An operator writes the unit with the value."""
    assert [declared.name for declared in declared_in(Outer)] == [
        "wait",
        "memory",
        "single",
        "many",
    ]


def test_an_option_knows_what_is_beside_its_type() -> None:
    """Its kind, its meaning and its default as it would be written."""
    (on,) = declared_in(Inner)
    assert (on.kind, on.doc, on.default_shown) == (BOOLEAN, "whether", "true")
    assert (on.block, on.label) == (None, "")


def test_a_block_knows_what_is_in_it_and_how_that_is_named() -> None:
    """What may stand many times has a label in its path."""
    *_, single, many = declared_in(Outer)
    assert (single.block, single.path) == (Inner, "single.")
    assert (many.block, many.label, many.path) == (Inner, "name", 'many "…".')
