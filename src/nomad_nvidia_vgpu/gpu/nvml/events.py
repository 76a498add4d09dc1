# SPDX-License-Identifier: MPL-2.0
"""XIDs as NVML delivers them. Used by `gpu.nvml` alone, which hands in the pynvml module.

An event set cannot forget a GPU, and waiting on one that holds a lost GPU can fail at once and
for ever: the set is made again whenever its GPUs change and after each failure, from the GPUs
that accept the registration (docs/internals/nvml.md#values).
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from nomad_nvidia_vgpu.gpu.model import XidEvent

_NO_INSTANCE = 0xFFFFFFFF


class NvmlEvents:
    """The events of one NVML session."""

    def __init__(self, nvml: ModuleType) -> None:
        """Watches no GPU yet."""
        self._nvml = nvml
        self._lock = threading.Lock()  # guards the handles; the rest is the waiting thread's
        self._handles: dict[str, Any] = {}
        self._new: dict[str, Any] = {}
        """The handles that are not registered yet."""
        self._set: Any = None
        self._uuids: dict[int, str] = {}
        """By address of the handle: a lost GPU does not tell its UUID any more."""

    def watch(self, uuid: str, handle: Any) -> None:
        """Adds a physical GPU, or gives it a new handle; MIG devices have no events of their own."""
        with self._lock:
            known = self._handles.get(uuid)
            if known is None or address_of(known) != address_of(handle):
                self._handles[uuid] = handle
                self._new[uuid] = handle

    def wait(self, timeout_s: float) -> Sequence[XidEvent]:
        """The XIDs of the next moments; NVMLError when waiting fails, and then the set is made again.

        Returns at once with none when no GPU reports XIDs.
        """
        self._register()
        if not self._uuids:
            return ()
        nvml = self._nvml
        try:
            data = nvml.nvmlEventSetWait_v2(self._set, int(timeout_s * 1000))
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_TIMEOUT:
                return ()
            self._forget()
            raise
        uuid = self._uuids.get(address_of(data.device))
        if uuid is None or not data.eventType & nvml.nvmlEventTypeXidCriticalError:
            return ()
        event = XidEvent(
            uuid,
            int(data.eventData),
            _instance(data.gpuInstanceId),
            _instance(data.computeInstanceId),
        )
        return (event,)

    def _register(self) -> None:
        """Registers the GPUs that are new, in the set that there is: no event falls in between."""
        with self._lock:
            if self._set is None:
                self._new = dict(self._handles)
            new, self._new = self._new, {}
        nvml = self._nvml
        if self._set is None:
            self._set = nvml.nvmlEventSetCreate()
        for uuid, handle in new.items():
            # A GPU that refuses has no events; polling finds its faults.
            with contextlib.suppress(nvml.NVMLError):
                supported = nvml.nvmlDeviceGetSupportedEventTypes(handle)
                # One bit that is not supported would register nothing at all.
                wanted = supported & nvml.nvmlEventTypeXidCriticalError
                if wanted:
                    nvml.nvmlDeviceRegisterEvents(handle, wanted, self._set)
                    self._uuids[address_of(handle)] = uuid

    def _forget(self) -> None:
        self._uuids = {}
        if self._set is not None:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlEventSetFree(self._set)
            self._set = None


def address_of(handle: Any) -> int:
    """What tells handles apart: each lookup gives another object."""
    return ctypes.addressof(handle.contents)


def _instance(number: int) -> int | None:
    return None if number == _NO_INSTANCE else int(number)
