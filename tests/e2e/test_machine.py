# SPDX-License-Identifier: MPL-2.0
"""What `Machine.type` takes for a command that did its work; all followed pages rely on it."""

from collections.abc import Iterator

import pytest
import this_run

from e2e.machine import PROGRAMS, Machine

DOCTOR = "nvidia-vgpu doctor"


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine with nothing on it."""
    made = Machine(this_run.new_folder("m"))
    yield made
    made.close()


def doctor(machine: Machine, says: str, status: int) -> None:
    """Puts a `nvidia-vgpu` there that says and returns this, whatever it is asked."""
    program = machine.path(PROGRAMS) / "nvidia-vgpu"
    program.write_text(f"#!/bin/sh\ncat >&2 <<END\n{says}\nEND\nexit {status}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("says", "status"),
    [
        ("nvidia-vgpu: no errors, no warnings", 0),
        ("nvidia-vgpu: no errors, 1 warning", 0),
        ("nvidia-vgpu: not looked at\nnvidia-vgpu: 2 errors, 12 warnings", 1),
    ],
)
def test_a_doctor_may_find_something(machine: Machine, says: str, status: int) -> None:
    """The real machine below is what it is."""
    doctor(machine, says, status)
    assert machine.type(DOCTOR) == f"{says}\n"


@pytest.mark.parametrize(
    ("says", "status"),
    [
        ("Traceback (most recent call last):\nValueError: x", 1),
        ("nvidia-vgpu: 1 error, no warnings\nValueError: x", 1),
        ("", 0),
        ("nvidia-vgpu: 1 error, no warnings", 0),
        ("nvidia-vgpu: no errors, 1 warning", 1),
        ("nvidia-vgpu: 1 error, no warnings", 2),
    ],
)
def test_a_doctor_that_does_not_come_to_its_end_fails(
    machine: Machine, says: str, status: int
) -> None:
    """With or without words, and whatever its exit status says."""
    doctor(machine, says, status)
    with pytest.raises(AssertionError):
        machine.type(DOCTOR)


def test_any_other_command_has_to_succeed(machine: Machine) -> None:
    """Also one that ends as a doctor does who has found something."""
    doctor(machine, "nvidia-vgpu: 1 error, no warnings", 1)
    with pytest.raises(AssertionError):
        machine.type("nvidia-vgpu install")
