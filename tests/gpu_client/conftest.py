# SPDX-License-Identifier: MPL-2.0
"""The client of the experiments as a process, over a pretended `libcuda.so.1`."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from gpu.clients import CLIENT, client_environment

_HERE = Path(__file__).parent


class Cuda:
    """A directory with the pretended library, and the record of the calls on it."""

    def __init__(self, directory: Path) -> None:
        """Compiles it."""
        self.calls_path = directory / "calls"
        self._directory = directory
        command = shlex.split(os.environ.get("CC", "") or "cc")
        output = str(directory / "libcuda.so.1")
        flags = ("-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-O1", "-o", output)
        subprocess.run([*command, *flags, str(_HERE / "libcuda.c")], check=True)

    def environment(self, **switches: str) -> dict[str, str]:
        """The variables that make a process find it; `switches` are the library's."""
        inherited = os.environ.get("LD_LIBRARY_PATH", "")
        return {
            "LD_LIBRARY_PATH": ":".join(filter(None, [str(self._directory), inherited])),
            "FAKE_CUDA_CALLS": str(self.calls_path),
            **switches,
        }

    def calls(self) -> list[str]:
        """Names of the functions called so far."""
        return self.calls_path.read_text().split()


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Cuda:
    """The library, compiled once."""
    return Cuda(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def cuda(library: Cuda) -> Cuda:
    """The library, not called yet."""
    library.calls_path.unlink(missing_ok=True)
    return library


@pytest.fixture
def run(cuda: Cuda) -> Run:
    """Runs the client to its end: its arguments, what it reads, and the library's switches."""

    def to_its_end(
        *arguments: str, given: str = "", **switches: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLIENT, *arguments],
            env=client_environment("a test", cuda.environment(**switches)),
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )

    return to_its_end
