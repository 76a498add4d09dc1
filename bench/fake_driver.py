# SPDX-License-Identifier: MPL-2.0
"""The tests' fake NVIDIA library, as far as a benchmark needs it."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.environment import BUILD, ROOT

GPUS = 8
"""On the machine that is pretended."""


class NoFakeDriverError(Exception):
    """There is no fake driver on this machine; the text says why."""


class FakeMachine:
    """A machine with eight H100 for the plugin to be started on."""

    def __init__(self) -> None:
        """Builds the library; NoFakeDriverError."""
        # pytest finds the package in the same way (pythonpath in pyproject.toml).
        sys.path.insert(0, str(ROOT / "tests"))
        try:
            package = importlib.import_module("libnvidia_ml")
        except ImportError as error:
            raise NoFakeDriverError(f"no fake driver: {error}") from error
        try:
            library: Path = package.build(BUILD / "libnvidia_ml")
        except package.BuildError as error:
            reason = (str(error).strip() or "the compiler said nothing").splitlines()[0]
            raise NoFakeDriverError(f"the fake driver cannot be built: {reason}") from error
        self._driver: Any = package.FakeDriver(library, BUILD / "fake", "h100x8")

    def environment(self, *, counted: bool = True) -> dict[str, str]:
        """What puts the plugin on this machine; without `counted`, calls cost no log line."""
        environment: dict[str, str] = self._driver.environment()
        if not counted:
            del environment["FAKE_NVML_CALLS"]
        return environment

    def calls(self) -> Counter[str]:
        """How often each NVML function was called since `forget_calls`."""
        calls: Counter[str] = self._driver.calls()
        return calls

    def forget_calls(self) -> None:
        """Counts from zero again."""
        self._driver.forget_calls()

    @contextmanager
    def named(self, uuids: Sequence[str]) -> Iterator[None]:
        """Within it the GPUs have these UUIDs, and their own again afterwards."""
        before = [self._driver.get(f"gpu {number}", "uuid") for number in range(len(uuids))]
        for number, uuid in enumerate(uuids):
            self._driver.set(f"gpu {number}", "uuid", uuid)
        try:
            yield
        finally:
            for number, uuid in enumerate(before):
                self._driver.set(f"gpu {number}", "uuid", uuid)

    @contextmanager
    def hanging(self, number: int) -> Iterator[str]:
        """Within it each call that asks this GPU who it is hangs; gives its UUID."""
        gpu, key = f"gpu {number}", "hang.nvmlDeviceGetUUID"
        self._driver.set(gpu, key, 1)
        try:
            yield self._driver.get(gpu, "uuid")
        finally:
            self._driver.clear(gpu, key)
