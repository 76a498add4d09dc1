# SPDX-License-Identifier: MPL-2.0
"""The processes on a GPU, from the three lists that NVML keeps of them.

Calls NVML's functions through ctypes itself: pynvml has no form for drivers that lack the newest
one, asks for the size each time, and gives up when a list grows meanwhile. Used by `gpu.nvml`
alone, which hands in the pynvml module.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from nomad_nvidia_vgpu.gpu.model import GpuProcess
from nomad_nvidia_vgpu.gpu.nvml.facts import optional

_LISTS = (
    ("compute", "nvmlDeviceGetComputeRunningProcesses"),
    ("graphics", "nvmlDeviceGetGraphicsRunningProcesses"),
    ("mps", "nvmlDeviceGetMPSComputeRunningProcesses"),
)
"""A process in several lists is of the kind that comes last."""

_ROOM = 64
_ATTEMPTS = 5
_NOT_AVAILABLE = 2**64 - 1
_NO_INSTANCE = 2**32 - 1
_MAX_PID = 2**22  # the kernel's limit; greater numbers come from a struct of another size
_NO_SUCH_LIST: Sequence[Any] = ()


class _OldInfo(ctypes.Structure):
    """As the functions without a version write it."""

    _fields_ = (("pid", ctypes.c_uint), ("usedGpuMemory", ctypes.c_ulonglong))


class _Info(ctypes.Structure):
    """As versions 2 and 3 write it."""

    _fields_ = (
        *_OldInfo._fields_,
        ("gpuInstanceId", ctypes.c_uint),
        ("computeInstanceId", ctypes.c_uint),
    )


class Instance(NamedTuple):
    """The part of a GPU whose processes are meant; None: all of it."""

    gpu: int | None = None
    compute: int | None = None


WHOLE = Instance()


class _Form(NamedTuple):
    """The newest form of one list that the driver has."""

    kind: str
    call: Callable[..., int]
    info: type[ctypes.Structure]


class ProcessLists:
    """The lists of one NVML session."""

    def __init__(self, nvml: ModuleType) -> None:
        """Finds out which forms the driver has; calls none."""
        self._nvml = nvml
        self._forms = [form for kind, name in _LISTS if (form := _form(nvml, kind, name))]

    def on(self, handle: Any, instance: Instance = WHOLE) -> tuple[GpuProcess, ...] | None:
        """The processes on a GPU or MIG device, by pid, each once; None: not known.

        NVMLError when the GPU or the session has failed. One list that the driver keeps from us
        makes all unknown; a GPU without graphics or MPS has no such processes.
        """
        found: dict[int, GpuProcess] = {}
        compute_known = False
        for form in self._forms:
            entries = self._entries(form, handle)
            if entries is None:
                return None
            compute_known |= form.kind == "compute" and entries is not _NO_SUCH_LIST
            for entry in entries:
                if 0 < entry.pid <= _MAX_PID and _is_on(entry, instance):
                    found[entry.pid] = _joined(found.get(entry.pid), form.kind, entry)
        return tuple(found[pid] for pid in sorted(found)) if compute_known else None

    def _entries(self, form: _Form, handle: Any) -> Sequence[Any] | None:
        """What the driver wrote; `_NO_SUCH_LIST` where it has none, None if it does not tell."""
        nvml = self._nvml
        room = _ROOM
        for _ in range(_ATTEMPTS):
            count = ctypes.c_uint(room)
            infos = (form.info * room)()
            code = form.call(handle, ctypes.byref(count), infos)
            if code == nvml.NVML_SUCCESS:
                return infos[: count.value]
            if code == nvml.NVML_ERROR_NOT_SUPPORTED:
                return _NO_SUCH_LIST
            if code != nvml.NVML_ERROR_INSUFFICIENT_SIZE:
                optional(nvml, _raise, nvml.NVMLError(code))
                return None
            # Processes come and go between two calls.
            room = 2 * max(room, count.value)
        return None


def _form(nvml: ModuleType, kind: str, name: str) -> _Form | None:
    for suffix, info in (("_v3", _Info), ("_v2", _Info), ("", _OldInfo)):
        call = getattr(nvml.nvmlLib, name + suffix, None)
        if call is not None:
            return _Form(kind, call, info)
    return None


def _raise(error: Exception) -> None:
    raise error


def _is_on(entry: Any, instance: Instance) -> bool:
    own = (getattr(entry, "gpuInstanceId", None), getattr(entry, "computeInstanceId", None))
    return all(
        number in (None, _NO_INSTANCE) or wanted in (None, number)
        for number, wanted in zip(own, instance, strict=True)
    )


def _joined(known: GpuProcess | None, kind: str, entry: Any) -> GpuProcess:
    """One process from two lists: the same memory twice, so the larger of the two."""
    used = None if entry.usedGpuMemory == _NOT_AVAILABLE else entry.usedGpuMemory >> 20
    if known is not None and known.memory_mib is not None:
        used = max(known.memory_mib, used or 0)
    return GpuProcess(entry.pid, used, kind)
