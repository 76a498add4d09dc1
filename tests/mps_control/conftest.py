# SPDX-License-Identifier: MPL-2.0
"""An installation, and two GPUs that use it."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .control import FakeMps, install
from .node import Gpu


@pytest.fixture
def mps(tmp_path: Path) -> Iterator[FakeMps]:
    """Give an installation of which nothing is left afterwards."""
    installed = install(tmp_path / "bin")
    yield installed
    installed.stop_all()


@pytest.fixture
def stack(mps: FakeMps) -> Iterator[ExitStack]:
    """Give what ends the processes of a test."""
    with ExitStack() as opened:
        # Whoever still waits for a daemon is released by its end.
        opened.callback(mps.stop_all)
        yield opened


@pytest.fixture
def gpu(mps: FakeMps, tmp_path: Path, stack: ExitStack) -> Gpu:
    """Give a GPU whose daemon is not running."""
    return Gpu(mps, tmp_path / "gpu0", "GPU-00000000-0000-0000-0000-000000000000", stack)


@pytest.fixture
def other(mps: FakeMps, tmp_path: Path, stack: ExitStack) -> Gpu:
    """Give a second one."""
    return Gpu(mps, tmp_path / "gpu1", "GPU-11111111-1111-1111-1111-111111111111", stack)
