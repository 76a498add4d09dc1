# SPDX-License-Identifier: MPL-2.0
"""Builds of the fake library, and a child that runs on it."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from .driver import FakeDriver, built
from .probe import Probe
from .queries import Start


@pytest.fixture(scope="session")
def library() -> Path:
    """Give the library of a current driver."""
    return built()


@pytest.fixture(scope="session")
def old_library() -> Path:
    """Give the library of driver 470."""
    return built(driver_470=True)


@pytest.fixture
def start(library: Path, tmp_path: Path) -> Iterator[Start]:
    """Give a function that puts a child on a machine, with NVML initialised unless told not to."""
    with ExitStack() as stack:

        def run(profile: str, *, init: bool = True, **environment: str) -> tuple[FakeDriver, Probe]:
            driver = FakeDriver(library, tmp_path, profile)
            probe = stack.enter_context(closing(Probe(driver, **environment)))
            if init:
                probe.ask("n.nvmlInit()")
            return driver, probe

        yield run
