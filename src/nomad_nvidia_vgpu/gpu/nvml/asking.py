# SPDX-License-Identifier: MPL-2.0
"""Questions that a driver need not answer, and answers that cannot be.

Every value but a GPU's UUID is optional: a call that errs costs its own value, and one line in
the log that names the call. Only what speaks of the GPU or the session as a whole goes on.
What each error means: docs/internals/nvml.md#errors-and-what-they-mean-here
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from nomad_nvidia_vgpu.outbox import Outbox

_NOT_AVAILABLE = (2**32 - 1, 2**63, 2**64 - 1)
"""What libraries write in the place of a number that they do not have."""

_INVALID_ARGUMENT = 2
_NO_SUCH_VALUE = (3, 6, 13, 25, 26)
"""NVML's NotSupported, NotFound, FunctionNotFound, ArgumentVersionMismatch and Deprecated: what a
GPU in good order answers to what it lacks."""

_WHOLE = (
    "NVML_ERROR_GPU_IS_LOST",
    "NVML_ERROR_RESET_REQUIRED",
    "NVML_ERROR_IRQ_ISSUE",
    "NVML_ERROR_UNINITIALIZED",
    "NVML_ERROR_DRIVER_NOT_LOADED",
)

_log = logging.getLogger(__name__)


class Asker:
    """Asks about one GPU, or about the driver; not thread-safe."""

    def __init__(
        self,
        nvml: ModuleType,
        who: str = "the driver",
        told: set[tuple[str, str, int]] | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        """`who` is asked about; `told` is what the log has been told already, by all askers.

        `outbox` gets what is for the log, of a caller that holds a lock.
        """
        self.nvml = nvml
        self.who = who
        self.found_invalid = False
        """Whether an argument was called invalid: there is no such value, or the handle is stale."""
        self._told = set() if told is None else told
        self._outbox = outbox
        self._whole = tuple(getattr(nvml, name) for name in _WHOLE)

    def __call__(self, query: Callable[..., Any], *args: object) -> Any:
        """The answer, or None if this GPU, driver or mode has no such value, or fails to tell it.

        NVMLError if that speaks of the GPU or the session as a whole.
        """
        try:
            return query(*args)
        except self.nvml.NVMLError as error:
            self.failed(query.__name__, error)
        except UnicodeDecodeError:  # raised by pynvml for bytes that are no UTF-8
            self._tell(query.__name__, 0, "invalid UTF-8")
        return None

    def twice(self, query: Callable[..., Any], *args: object) -> Any:
        """The same for what cannot be done without: asks again if the first answer is none."""
        answer = self(query, *args)
        return self(query, *args) if answer is None else answer

    def failed(self, name: str, error: Any) -> None:
        """Takes note of a call that has failed; raises `error` if it is of the GPU as a whole."""
        if error.value in self._whole:
            raise error
        self.found_invalid |= error.value == _INVALID_ARGUMENT
        if error.value not in _NO_SUCH_VALUE:
            self._tell(name, error.value, str(error))

    def _tell(self, name: str, code: int, text: str) -> None:
        # Some libraries call the argument invalid where a GPU has no such value: for all GPUs.
        who = "" if code == _INVALID_ARGUMENT else self.who
        if (who, name, code) in self._told:
            return
        self._told.add((who, name, code))
        level = logging.INFO if code == _INVALID_ARGUMENT else logging.WARNING
        message = "%s: %s answers %r (%d): that value is left out"
        say = partial(_log.log, level, message, self.who, name, text, code)
        if self._outbox is None:
            say()
        else:
            self._outbox.put(say)


def plausible(value: Any, most: int, least: int = 0) -> int | None:
    """The number, or None if it cannot be: not between the bounds, or a mark for "not available"."""
    if value is None or value in _NOT_AVAILABLE or not least <= value <= most:
        return None
    return int(value)
