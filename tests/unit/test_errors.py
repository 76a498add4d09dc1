# SPDX-License-Identifier: MPL-2.0
"""The tree of exceptions."""

from __future__ import annotations

import pickle

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
        if isinstance(v, type) and issubclass(v, Exception) and v.__module__ == errors.__name__
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


def test_an_error_carries_its_remedy() -> None:
    """As a field; its text has both."""
    error = errors.GpuError("GPU-a: lost", "drain the node")
    assert (error.problem.sentence, error.problem.remedy) == ("GPU-a: lost", "drain the node")
    assert str(error) == "GPU-a: lost: drain the node"
    assert errors.GpuError(error.problem.about("x")).problem.remedy == "drain the node"


def test_several_problems_are_one() -> None:
    """Each is said once, and none is none."""
    a, b = errors.Problem("a", "do b"), errors.Problem("c", "do d")
    assert errors.together([a, errors.NOTHING, a]) is a
    assert errors.together([a, b]) == "a: do b; c: do d"
    assert (errors.together([a, b]).sentence, errors.together([]).sentence) == ("a; c", "")


def test_a_problem_survives_the_way_out_of_a_process() -> None:
    """With all its fields: `doctor` looks from processes of its own."""
    told = errors.Problem("x must be 1, got 2", "make x 1", text="x must be 1, got 2")
    back = pickle.loads(pickle.dumps(told))
    assert (back, back.sentence, back.remedy) == (told, told.sentence, told.remedy)
