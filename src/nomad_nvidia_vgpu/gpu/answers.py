# SPDX-License-Identifier: MPL-2.0
"""Whose fault it is when a source does not answer as it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from nomad_nvidia_vgpu.errors import (
    NOTHING,
    DriverError,
    HardwareError,
    NoSuchGpuError,
    Problem,
    StaleLibraryError,
)
from nomad_nvidia_vgpu.gpu.health import Cause
from nomad_nvidia_vgpu.gpu.model import GpuSource

NO_ANSWER = Problem("the driver does not answer", "check dmesg, drain the node and reboot it")
HUNG = Cause(NO_ANSWER, "the time of a call")
_GETTER = "a getter's error"


class Answer(NamedTuple):
    """What came of one call."""

    value: Any = None
    cause: Cause | None = None
    """Why there is no value, if that is the fault of the GPU that was asked."""
    blames_driver: bool = False
    """Whether the cause may be the fault of the driver as a whole."""
    missing: bool = False
    """Whether there is no such GPU where it was looked for."""


def answer_of(call: Callable[[], Any], name: str) -> Answer:
    """Makes the call, which may block; whatever it raises is an answer. `name` is who is asked."""
    try:
        return Answer(call())
    except NoSuchGpuError:
        return Answer(missing=True)
    except DriverError as error:
        return Answer(cause=Cause(error.problem, _GETTER), blames_driver=True)
    except HardwareError as error:
        return Answer(cause=Cause(error.problem, _GETTER, getattr(error, "grave", False)))
    except Exception as error:  # noqa: BLE001  a thread that dies would blind us
        return Answer(cause=Cause(_bug(name, error), _GETTER))


class Counted(NamedTuple):
    """What came of opening the driver and counting its GPUs."""

    gpus: int | None = None
    """How many there are."""
    problem: Problem = NOTHING
    """Why the driver as a whole cannot be used."""
    uncounted: Problem = NOTHING
    """Why the GPUs cannot be counted, though those that are known may speak for themselves."""
    stale: bool = False
    """Whether only a new process can use the driver."""


def count_of(source: GpuSource) -> Counted:
    """Opens the driver if need be and counts; may block."""
    try:
        source.open()
        try:
            return Counted(source.count())
        except DriverError:
            # The session has ended: a new one may be better, or knows why not.
            source.open()
            return Counted(source.count())
    except DriverError as error:
        return Counted(problem=error.problem, stale=isinstance(error, StaleLibraryError))
    except HardwareError as error:
        return Counted(uncounted=error.problem)
    except Exception as error:  # noqa: BLE001  a thread that dies would blind the node
        return Counted(problem=_bug("the driver", error))


def _bug(name: str, error: Exception) -> Problem:
    return Problem(f"{name} failed in an unforeseen way ({error!r})", "report this as a bug")
