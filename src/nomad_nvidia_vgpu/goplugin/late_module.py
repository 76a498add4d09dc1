# SPDX-License-Identifier: MPL-2.0
"""Lets a module be imported by name and run only when somebody looks into it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType


class LateModule:
    """A finder for `sys.meta_path` that knows one module."""

    def __init__(self, name: str) -> None:
        """`name` as in an import statement, such as `grpc.aio`."""
        self._name = name

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """How to load this module late; None for any other, and if it is not there."""
        spec = PathFinder.find_spec(name, path, target) if name == self._name else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec
