# SPDX-License-Identifier: MPL-2.0
"""Whose fault it is when a source does not answer as it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from nomad_nvidia_vgpu.errors import DriverError, HardwareError, NoSuchGpuError, StaleLibraryError
from nomad_nvidia_vgpu.gpu.health import Cause
from nomad_nvidia_vgpu.gpu.model import GpuSource

NO_ANSWER = "the driver does not answer: check dmesg, drain the node and reboot it"
HUNG = Cause(NO_ANSWER, "the time of a call")
_GETTER = "a getter's error"

_T = TypeVar("_T")


class Answer(NamedTuple, Generic[_T]):
    """What came of one call."""

    value: _T | None = None
    cause: Cause | None = None
    """Why there is no value, if that is the fault of the GPU that was asked."""
    blames_driver: bool = False
    """Whether the cause may be the fault of the driver as a whole."""
    missing: bool = False
    """Whether there is no such GPU where it was looked for."""


def answer_of(call: Callable[[], _T], name: str) -> Answer[_T]:
    """Makes the call, which may block; whatever it raises is an answer. `name` is who is asked."""
    try:
        return Answer(call())
    except NoSuchGpuError:
        return Answer(missing=True)
    except DriverError as error:
        return Answer(cause=Cause(str(error), _GETTER), blames_driver=True)
    except HardwareError as error:
        return Answer(cause=Cause(str(error), _GETTER, getattr(error, "grave", False)))
    except Exception as error:  # noqa: BLE001  a thread that dies would blind us
        text = f"{name} failed in an unforeseen way ({error!r}): report this as a bug"
        return Answer(cause=Cause(text, _GETTER))


class Counted(NamedTuple):
    """What came of opening the driver and counting its GPUs."""

    gpus: int | None = None
    """How many there are."""
    problem: str = ""
    """Why the driver as a whole cannot be used."""
    uncounted: str = ""
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
        return Counted(problem=str(error), stale=isinstance(error, StaleLibraryError))
    except HardwareError as error:
        return Counted(uncounted=str(error))
    except Exception as error:  # noqa: BLE001  a thread that dies would blind the node
        text = f"the driver failed in an unforeseen way ({error!r}): report this as a bug"
        return Counted(problem=text)
