# SPDX-License-Identifier: MPL-2.0
"""Remembers which of NVML's queries failed, for the diagnosis of a node.

The plugin itself treats a query that fails like one that a GPU does not support, and goes on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

_EXPECTED = (
    "NVML_ERROR_NOT_SUPPORTED",
    "NVML_ERROR_FUNCTION_NOT_FOUND",
    "NVML_ERROR_NOT_FOUND",
    "NVML_ERROR_INVALID_ARGUMENT",
    "NVML_ERROR_ARGUMENT_VERSION_MISMATCH",
)
"""Answers that a GPU in good order gives: to what it lacks, and for an empty MIG slot."""


class FailedQuery(NamedTuple):
    """A query that should have had an answer."""

    query: str
    """NVML's name of it."""
    error: str
    """In NVML's words."""


class RecordedNvml(ModuleType):
    """The binding, with every query passed on to it."""

    def __init__(self, nvml: ModuleType) -> None:
        """`nvml` is the pynvml module."""
        super().__init__(nvml.__name__)
        self._nvml = nvml
        self._failed: dict[FailedQuery, None] = {}
        self.answers: dict[str, Any] = {}
        """The last answer to each query."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._nvml, name)
        if name.startswith("nvml") and callable(value) and not isinstance(value, type):
            return self._recorded(name, value)
        return value

    def drain(self) -> tuple[FailedQuery, ...]:
        """What has failed since the last call, each query once."""
        failed, self._failed = tuple(self._failed), {}
        return failed

    def _recorded(self, name: str, query: Callable[..., Any]) -> Callable[..., Any]:
        nvml = self._nvml
        expected = [getattr(nvml, error, None) for error in _EXPECTED]

        @functools.wraps(query)
        def ask(*args: object) -> Any:
            try:
                answer = query(*args)
            except nvml.NVMLError as error:
                if error.value not in expected:
                    self._failed[FailedQuery(name, str(error))] = None
                raise
            except UnicodeDecodeError:  # raised by pynvml for bytes that are no UTF-8
                self._failed[FailedQuery(name, "invalid UTF-8")] = None
                raise
            self.answers[name] = answer
            return answer

        return ask
