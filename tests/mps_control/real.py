# SPDX-License-Identifier: MPL-2.0
"""NVIDIA's own tools, where `make mps-tool` could fetch them, and what is theirs of a test.

They need no GPU, and their server does: `PAUSING` stands where it would, and stays INITIALIZING.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .state import SERVER, born
from .versions import VERSIONS

FOLDER = Path(__file__).resolve().parents[2] / "build" / "mps-tool"
PROGRAM = "nvidia-cuda-mps-control"
PAUSING = f"#!{sys.executable} -IS\nimport signal\nsignal.pause()\n"
"""A server that never gets ready."""
DYING = f"#!{sys.executable} -IS\nraise SystemExit(1)\n"
"""A server that ends at once."""

_PATIENCE_S = 60.0


def real_tool(name: str) -> Path | None:
    """The folder of the real tool of one of `VERSIONS`; None where it could not be had."""
    assert name in VERSIONS
    return next(iter(sorted(FOLDER.glob(f"{name}.*"))), None)


def put(tool: Path, directory: Path, server: str) -> Path:
    """Copy a real tool to where all users can run it, with this program as its server."""
    directory.mkdir(exist_ok=True)
    program = directory / PROGRAM
    shutil.copy(tool / "usr" / "bin" / PROGRAM, program)
    program.chmod(0o755)
    put_server(directory, server)
    return program


def put_server(directory: Path, server: str) -> None:
    """Put a program where a daemon finds its server; it takes the place of another whole."""
    fresh = directory / f"{SERVER}.new"
    fresh.write_text(server)
    fresh.chmod(0o755)
    fresh.replace(directory / SERVER)


def of_pipe(pipe: Path) -> list[int]:
    """The processes that were started with this pipe directory, by pid: daemons, servers, tools."""
    mark = f"\0CUDA_MPS_PIPE_DIRECTORY={pipe}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if mark in b"\0%b\0" % (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


@contextmanager
def ended(pipe: Path) -> Iterator[None]:
    """End what has this pipe directory, which must be a test's own, at the end of the block."""
    try:
        yield
    finally:
        deadline = time.monotonic() + _PATIENCE_S
        while left := [pid for pid in of_pipe(pipe) if born(pid) is not None]:
            assert time.monotonic() < deadline, f"{left} cannot be killed"
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
