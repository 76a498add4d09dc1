# SPDX-License-Identifier: MPL-2.0
"""A node whose MPS tools are fake, and what is asked of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cuda_process import CudaProcess, cuda_process
from mps_control.control import FakeMps, install

from nomad_nvidia_vgpu.sharing import mps_control, mps_daemon

PATIENT_S = 60.0


class MpsNode:
    """The fake tool, first in PATH, and a root for daemons."""

    def __init__(self, fake: FakeMps, root: Path, stack: ExitStack) -> None:
        """Nothing runs yet."""
        self.fake = fake
        self.root = root
        self._stack = stack

    def directory(self, uuid: str = "GPU-a") -> Path:
        """Gives where a GPU's daemon has its place."""
        return self.root / uuid

    def pipe(self, uuid: str = "GPU-a") -> Path:
        """Gives where clients meet it."""
        return self.root / uuid / "pipe"

    def pid(self, uuid: str = "GPU-a") -> int:
        """Gives the process of a GPU's only daemon."""
        (daemon,) = self.fake.daemons(self.pipe(uuid))
        return daemon.pid

    def lines(self, uuid: str = "GPU-a") -> list[str]:
        """Gives the commands that a daemon was asked since the last `forget`."""
        return [command.line for command in self.fake.commands(self.pipe(uuid))]

    def client(self, uuid: str = "GPU-a", **environment: str) -> CudaProcess:
        """Starts a process on a GPU; it stays until the test ends, or `end_clients`."""
        given = {"CUDA_MPS_PIPE_DIRECTORY": str(self.pipe(uuid)), **environment}
        return self._stack.enter_context(cuda_process(self.fake, given))

    def end_clients(self) -> None:
        """Ends all that `client` started."""
        self._stack.close()


@pytest.fixture
def node(tmp_path: Path, mps_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MpsNode]:
    """Gives a node; ends its processes after the test. Commands have time: machines are busy."""
    fake = install(tmp_path / "bin")
    for name in [name for name in os.environ if name.startswith("CUDA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", fake.environment()["PATH"])
    monkeypatch.setattr(mps_control, "ANSWER_S", PATIENT_S)
    monkeypatch.setattr(mps_control, "START_S", PATIENT_S)
    monkeypatch.setattr(mps_daemon, "_END_S", PATIENT_S)
    with ExitStack() as stack:
        stack.callback(fake.stop_all)
        with ExitStack() as clients:
            yield MpsNode(fake, mps_root, clients)
