# SPDX-License-Identifier: MPL-2.0
"""An installation, two GPUs that use it, and the tools of all versions, fake and real."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .control import FakeMps, install
from .node import Gpu, ToolGpu
from .real import PAUSING, ended, put, put_server, real_tool
from .versions import VERSIONS


@pytest.fixture
def short() -> Iterator[Path]:
    """Give a folder that all users can enter, with a name short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="m", dir="/tmp", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def mps(short: Path) -> Iterator[FakeMps]:
    """Give an installation of which nothing is left afterwards."""
    installed = install(short / "bin")
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
def gpu(mps: FakeMps, short: Path, stack: ExitStack) -> Gpu:
    """Give a GPU whose daemon is not running."""
    return Gpu(mps, short / "gpu0", "GPU-00000000-0000-0000-0000-000000000000", stack)


@pytest.fixture
def other(mps: FakeMps, short: Path, stack: ExitStack) -> Gpu:
    """Give a second one."""
    return Gpu(mps, short / "gpu1", "GPU-11111111-1111-1111-1111-111111111111", stack)


def _tools() -> Iterator[object]:
    may_skip = pytest.mark.may_skip("the real tool is not free, and not to be had everywhere")
    for name in VERSIONS:
        yield pytest.param((name, False), id=f"fake-{name}")
        yield pytest.param((name, True), id=f"real-{name}", marks=may_skip)


@pytest.fixture(params=list(_tools()))
def tool(
    request: pytest.FixtureRequest,
    short: Path,
    record_property: Callable[[str, object], None],
) -> Iterator[ToolGpu]:
    """Give each version's tool, fake and real, with a server that stays INITIALIZING."""
    name, is_real = request.param
    programs = short / "bin"
    with ExitStack() as stack:
        if is_real:
            found = real_tool(name)
            if found is None:
                pytest.skip(f"no real MPS control tool of driver {name}: make mps-tool")
            record_property("mps_tool", found.name)
            control = put(found, programs, PAUSING)
        else:
            fake = install(programs)
            fake.set_version(name)
            put_server(programs, PAUSING)
            stack.callback(fake.stop_all)
            control = fake.control
        gpu = ToolGpu(control, VERSIONS[name], short / "gpu0", "GPU-0", stack)
        gpu.is_real = is_real
        gpu.environment["PATH"] = str(programs)
        stack.enter_context(ended(gpu.pipe))
        yield gpu
