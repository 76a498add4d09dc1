# SPDX-License-Identifier: MPL-2.0
"""The processes on a GPU, from the three lists that NVML keeps of them.

Calls NVML's functions through ctypes itself: pynvml has no form for drivers that lack the newest
one, asks for the size each time, and gives up when a list grows meanwhile. Used by `gpu.nvml`
alone, which hands in the pynvml module. The layouts: docs/internals/nvml.md#values
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from nomad_nvidia_vgpu.gpu.model import GpuProcess
from nomad_nvidia_vgpu.gpu.nvml.asking import Asker, plausible
from nomad_nvidia_vgpu.gpu.nvml.facts import MOST_MEMORY_BYTES

_LISTS = (
    ("compute", "nvmlDeviceGetComputeRunningProcesses"),
    ("graphics", "nvmlDeviceGetGraphicsRunningProcesses"),
    ("mps", "nvmlDeviceGetMPSComputeRunningProcesses"),
)
"""A process in several lists is of the kind that comes last."""

_SUFFIXES = ("_v3", "_v2", "")
_ROOM = 64
_ATTEMPTS = 5
_MOST_PROCESSES = 2**16
_NO_INSTANCE = 2**32 - 1
_MAX_PID = 2**22  # the kernel's limit; greater numbers come from a record of another size
_WORD = 8
_MOST_WORDS = 8
"""Room for each record. Drivers write 2 words, 3 or 4 (535.43 to 535.86), under the same names."""
_UNTOUCHED = b"\xa5untold\x5a"
"""What the room is filled with, a word at a time, to see how far the driver writes."""
_SHORT = struct.Struct("<I4xQ")
_LONG = struct.Struct("<I4xQII")


class _Entry(NamedTuple):
    """One record of a list: the fields that all forms begin with."""

    pid: int
    memory_bytes: int
    gpu_instance: int = _NO_INSTANCE
    compute_instance: int = _NO_INSTANCE


_NO_SUCH_LIST: Sequence[_Entry] = ()


class Instance(NamedTuple):
    """The part of a GPU whose processes are meant; None: all of it."""

    gpu: int | None = None
    compute: int | None = None


WHOLE = Instance()


_Call = Callable[..., int]


class ProcessLists:
    """The lists of one NVML session."""

    def __init__(self, nvml: ModuleType) -> None:
        """Finds out which forms the driver has; calls none."""
        self._nvml = nvml
        self._forms = [(kind, forms) for kind, name in _LISTS if (forms := _forms(nvml, name))]

    def on(
        self, ask: Asker, handle: Any, instance: Instance = WHOLE
    ) -> tuple[GpuProcess, ...] | None:
        """The processes on a GPU or MIG device, by pid, each once; None: not known.

        NVMLError when the GPU or the session has failed. One list that the driver keeps from us
        makes all unknown; a GPU without graphics or MPS has no such processes.
        """
        found: dict[int, GpuProcess] = {}
        compute_known = False
        for kind, forms in self._forms:
            entries = self._entries(ask, forms, handle)
            if entries is None:
                return None
            compute_known |= kind == "compute" and entries is not _NO_SUCH_LIST
            for entry in entries:
                if _is_process(entry) and _is_on(entry, instance):
                    found[entry.pid] = _joined(found.get(entry.pid), kind, entry)
        return tuple(found[pid] for pid in sorted(found)) if compute_known else None

    def _entries(
        self, ask: Asker, forms: Sequence[tuple[str, _Call]], handle: Any
    ) -> Sequence[_Entry] | None:
        """What the driver wrote; `_NO_SUCH_LIST` where it has none, None if it does not tell.

        In the newest form whose records make sense: there is an older one for most drivers.
        """
        entries: Sequence[_Entry] | None = None
        for name, call in forms:
            entries = self._written(ask, name, call, handle)
            if entries is None or all(_is_process(entry) for entry in entries):
                break
        return entries

    def _written(self, ask: Asker, name: str, call: _Call, handle: Any) -> Sequence[_Entry] | None:
        nvml = self._nvml
        room = _ROOM
        for _ in range(_ATTEMPTS):
            count = ctypes.c_uint(room)
            buffer = bytearray(_UNTOUCHED * (room * _MOST_WORDS))
            infos = (ctypes.c_char * len(buffer)).from_buffer(buffer)
            code = call(handle, ctypes.byref(count), infos)
            if code == nvml.NVML_SUCCESS:
                return _parsed(bytes(buffer), min(count.value, room))
            if code == nvml.NVML_ERROR_NOT_SUPPORTED:
                return _NO_SUCH_LIST
            if code != nvml.NVML_ERROR_INSUFFICIENT_SIZE:
                ask.failed(name, nvml.NVMLError(code))
                return None
            # Processes come and go between two calls.
            room = 2 * max(room, count.value)
            if room > _MOST_PROCESSES:
                return None
        return None


def _forms(nvml: ModuleType, name: str) -> Sequence[tuple[str, _Call]]:
    """The forms of one list that the driver has, the newest first."""
    found = ((name + suffix, getattr(nvml.nvmlLib, name + suffix, None)) for suffix in _SUFFIXES)
    return [(full, call) for full, call in found if call is not None]


def _parsed(data: bytes, count: int) -> Sequence[_Entry]:
    """The records, whatever size the driver has for them: the end of the last one tells it."""
    words = next(n for n in range(_MOST_WORDS + 1) if _is_untouched(data[count * n * _WORD :]))
    layout = _LONG if words * _WORD >= _LONG.size else _SHORT
    if not count or words * _WORD < _SHORT.size:
        return []
    return [_Entry(*layout.unpack_from(data, i * words * _WORD)) for i in range(count)]


def _is_untouched(data: bytes) -> bool:
    return data == _UNTOUCHED * (len(data) // _WORD)


def _is_process(entry: _Entry) -> bool:
    return 0 < entry.pid <= _MAX_PID


def _is_on(entry: _Entry, instance: Instance) -> bool:
    own = (entry.gpu_instance, entry.compute_instance)
    return all(
        number == _NO_INSTANCE or wanted in (None, number)
        for number, wanted in zip(own, instance, strict=True)
    )


def _joined(known: GpuProcess | None, kind: str, entry: _Entry) -> GpuProcess:
    """One process from two lists: the same memory twice, so the larger of the two."""
    memory_bytes = plausible(entry.memory_bytes, MOST_MEMORY_BYTES)
    used = None if memory_bytes is None else memory_bytes >> 20
    if known is not None and known.memory_mib is not None:
        used = max(known.memory_mib, used or 0)
    return GpuProcess(entry.pid, used, kind)
