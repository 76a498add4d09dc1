# SPDX-License-Identifier: MPL-2.0
"""Whose fault an answer is."""

from __future__ import annotations

from typing import NoReturn

import pytest

from nomad_nvidia_vgpu.errors import (
    DriverError,
    GpuError,
    HardwareError,
    NoSuchGpuError,
    StaleLibraryError,
)
from nomad_nvidia_vgpu.gpu.answers import Answer, Counted, answer_of, count_of
from unit.gpu.scripted_source import ScriptedSource
from unit.gpu.watching import A


def failing(error: Exception) -> NoReturn:
    """Raises it."""
    raise error


def test_an_answer_is_its_value() -> None:
    """What comes back is no fault of anybody."""
    assert answer_of(lambda: 7, "GPU-a") == Answer(7)


@pytest.mark.parametrize(
    ("error", "text", "grave", "blames_driver"),
    [
        (GpuError("GPU-a: odd"), "GPU-a: odd", False, False),
        (GpuError("GPU-a: lost", grave=True), "GPU-a: lost", True, False),
        (DriverError("not loaded"), "not loaded", False, True),
        (ZeroDivisionError("x"), "report this as a bug", False, False),
    ],
)
def test_whatever_is_raised_is_an_answer(
    error: Exception, text: str, grave: object, blames_driver: object
) -> None:
    """Only what nobody thought of is called a bug."""
    answer = answer_of(lambda: failing(error), "GPU-a")
    assert answer.cause is not None
    assert answer.cause.problem.endswith(text)
    assert (answer.cause.grave, answer.blames_driver) == (grave, blames_driver)


def test_who_is_missing_has_no_cause() -> None:
    """A GPU that has to be found first has done nothing wrong."""
    assert answer_of(lambda: failing(NoSuchGpuError("gone")), "GPU-a") == Answer(missing=True)


def test_a_count_opens_the_driver() -> None:
    """A driver that works has so many GPUs."""
    assert count_of(ScriptedSource(A)) == Counted(1)


def test_a_driver_that_fails_is_a_problem() -> None:
    """With its own words, and whether it takes a new process."""
    source = ScriptedSource(A)
    source.driver(DriverError("install the driver"))
    assert count_of(source).problem == "install the driver"
    source.driver(StaleLibraryError("replaced"))
    assert count_of(source).stale


def test_a_count_that_fails_accuses_no_gpu() -> None:
    """The driver that opens and cannot count is no problem of those that are known."""
    source = ScriptedSource(A)
    source.count = lambda: failing(HardwareError("cannot count"))  # type: ignore[method-assign]
    assert count_of(source) == Counted(uncounted=HardwareError("cannot count").problem)
