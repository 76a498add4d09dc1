# SPDX-License-Identifier: MPL-2.0
"""The tree of exceptions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomad_nvidia_vgpu import errors


@pytest.mark.parametrize(
    ("kind", "parent"),
    [
        (errors.ConfigError, errors.VgpuError),
        (errors.HardwareError, errors.VgpuError),
        (errors.DriverError, errors.HardwareError),
        (errors.GpuError, errors.HardwareError),
        (errors.RequestError, errors.VgpuError),
    ],
)
def test_every_error_belongs_to_whose_fault_it_is(
    kind: type[Exception], parent: type[Exception]
) -> None:
    """Each kind of error can be caught by the family it belongs to."""
    assert issubclass(kind, parent)


def test_the_drawn_tree_is_the_tree() -> None:
    """Every exception stands in the tree that the module draws."""
    defined = [
        n
        for n, v in vars(errors).items()
        if isinstance(v, type) and v.__module__ == errors.__name__
    ]
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in defined)


def test_a_single_problem_stands_alone() -> None:
    """One problem is the whole text."""
    assert str(errors.ConfigError(["vgpus is missing"])) == "vgpus is missing"


@given(st.lists(st.text(min_size=1), min_size=2, max_size=9))
def test_several_problems_are_numbered(problems: list[str]) -> None:
    """Of several problems each is in the text under its number, in order."""
    error = errors.ConfigError(problems)
    assert error.problems == tuple(problems)
    assert str(error) == "; ".join(f"({n}) {p}" for n, p in enumerate(problems, 1))
