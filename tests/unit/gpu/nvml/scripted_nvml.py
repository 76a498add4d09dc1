# SPDX-License-Identifier: MPL-2.0
"""A stand-in for the pynvml module, for answers that no C library can be made to give.

Everything is "not supported" unless an answer is set: a value, an exception to raise, or a
function of the query's arguments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
INSUFFICIENT_SIZE = 7
UNINITIALIZED = 1
INVALID_ARGUMENT = 2
DRIVER_NOT_LOADED = 9
IRQ_ISSUE = 11
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
UNKNOWN = 999

NO_TEXT = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


class NVMLError(Exception):
    """An error as pynvml raises it."""

    def __init__(self, value: int) -> None:
        """Keeps NVML's number."""
        super().__init__(f"error {value}")
        self.value = value


class InvalidArgument(NVMLError):  # noqa: N818  NVML's name
    """The class that pynvml makes of this error."""


class GpuNotFound(NVMLError):  # noqa: N818  NVML's name
    """The class that pynvml makes of this error."""


class ScriptedNvml(ModuleType):
    """The pynvml module; queries that no answer was set for are not supported."""

    NVMLError = NVMLError
    NVMLError_InvalidArgument = InvalidArgument
    NVMLError_GpuNotFound = GpuNotFound
    NVML_ERROR_UNINITIALIZED = UNINITIALIZED
    NVML_ERROR_INVALID_ARGUMENT = INVALID_ARGUMENT
    NVML_ERROR_NOT_SUPPORTED = NOT_SUPPORTED
    NVML_ERROR_NO_PERMISSION = NO_PERMISSION
    NVML_ERROR_NOT_FOUND = NOT_FOUND
    NVML_ERROR_INSUFFICIENT_SIZE = INSUFFICIENT_SIZE
    NVML_ERROR_DRIVER_NOT_LOADED = DRIVER_NOT_LOADED
    NVML_ERROR_IRQ_ISSUE = IRQ_ISSUE
    NVML_ERROR_LIBRARY_NOT_FOUND = LIBRARY_NOT_FOUND
    NVML_ERROR_FUNCTION_NOT_FOUND = FUNCTION_NOT_FOUND
    NVML_ERROR_GPU_IS_LOST = GPU_IS_LOST
    NVML_ERROR_RESET_REQUIRED = RESET_REQUIRED
    NVML_ERROR_OPERATING_SYSTEM = 17
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18
    NVML_ERROR_GPU_NOT_FOUND = 28
    NVML_ERROR_TIMEOUT = 10
    NVML_SUCCESS = 0
    NVML_FI_DEV_GET_GPU_RECOVERY_ACTION = 230
    nvmlEventTypeXidCriticalError = 8  # noqa: N815  NVML's name
    NVML_DEVICE_MIG_ENABLE = 1
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    NVML_MEMORY_LOCATION_L1_CACHE = 0
    NVML_MEMORY_LOCATION_L2_CACHE = 1
    NVML_MEMORY_LOCATION_DEVICE_MEMORY = 2
    nvmlMemory_v2 = 0x02000028  # noqa: N815  NVML's name

    def __init__(self, **answers: Any) -> None:
        """Answers these queries, named without their `nvml` or `nvmlDeviceGet`."""
        super().__init__("pynvml")
        self._answers = answers
        self.calls: Counter[str] = Counter()

    def set(self, **answers: Any) -> None:
        """Answers these queries so from now on."""
        self._answers.update(answers)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Gives a query."""
        if not name.startswith("nvml"):
            raise AttributeError(name)
        short = name.removeprefix("nvmlDeviceGet").removeprefix("nvml")

        def query(*args: object) -> Any:
            self.calls[short] += 1
            answer = self._answers.get(short, NVMLError(NOT_SUPPORTED))
            if callable(answer):
                answer = answer(*args)
            if isinstance(answer, Exception):
                raise answer
            return answer

        query.__name__ = name
        return query


def memory(total_mib: int, used_mib: int = 0) -> SimpleNamespace:
    """Gives NVML's answer to a query of memory."""
    return SimpleNamespace(total=total_mib << 20, used=used_mib << 20)
