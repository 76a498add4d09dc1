# SPDX-License-Identifier: MPL-2.0
"""A node whose MPS tools are fake, and the plugins that run there, one after the other."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cuda_process import CudaProcess, cuda_process
from mps_control.control import FakeMps
from mps_control.node import wait_until
from unit.example_gpus import gpu
from unit.gpu.scripted_source import ScriptedSource

from nomad_nvidia_vgpu.config.options import MpsConfig
from nomad_nvidia_vgpu.errors import NOTHING
from nomad_nvidia_vgpu.sharing.enforcement import Enforcement
from nomad_nvidia_vgpu.sharing.mps.enforcer import MpsEnforcer

A, B = gpu("GPU-a", memory_mib=16000), gpu("GPU-b", memory_mib=16000)
DEFAULT, EXCLUSIVE = "DEFAULT", "EXCLUSIVE_PROCESS"


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

    def tell(self, line: str, uuid: str = "GPU-a") -> None:
        """Has a daemon obey a command."""
        given = {"CUDA_MPS_PIPE_DIRECTORY": str(self.pipe(uuid)), "PATH": os.environ["PATH"]}
        subprocess.run([self.fake.control], input=line, text=True, env=given, check=True)

    @contextmanager
    def prompt(self, uuid: str = "GPU-a") -> Iterator[None]:
        """Holds somebody's prompt of a daemon open."""
        given = {"CUDA_MPS_PIPE_DIRECTORY": str(self.pipe(uuid)), "PATH": os.environ["PATH"]}
        log = self.directory(uuid) / "log" / "control.log"
        before = log.read_text().count("NEW UI")
        with subprocess.Popen([self.fake.control], stdin=subprocess.PIPE, env=given):
            wait_until(lambda: log.read_text().count("NEW UI") > before)
            yield

    def end_clients(self) -> None:
        """Ends all that `client` started."""
        self._stack.close()


class KilledError(BaseException):
    """What SIGKILL does: nothing after it is run."""


class Modes(ScriptedSource):
    """Compute modes, and what was true when they were set."""

    def __init__(self, node: MpsNode) -> None:
        """DEFAULT."""
        super().__init__()
        self._node = node
        self.kill_before_set = False
        self.kill_after_set = False
        self.noted: list[bool] = []
        """For each mode that was set, whether the GPU stood in the journal by then."""
        self.daemons: list[int] = []
        """For each mode that was set, how many daemons had been started by then."""

    def set_compute_mode(self, uuid: str, mode: str) -> None:
        """Sets it, or is killed."""
        journal = self._node.root / "compute-modes.json"
        self.noted.append(uuid in journal.read_text())
        self.daemons.append(len(self._node.fake.starts()))
        if self.kill_before_set:
            raise KilledError
        super().set_compute_mode(uuid, mode)
        if self.kill_after_set:
            raise KilledError


class Plugins:
    """The enforcers of one node."""

    def __init__(self, node: MpsNode) -> None:
        """None yet."""
        self.node = node
        self.modes = Modes(node)
        self._running: MpsEnforcer | None = None

    @property
    def journal(self) -> Path:
        """Where compute modes are noted."""
        return self.node.root / "compute-modes.json"

    def start(self, **options: Any) -> MpsEnforcer:
        """Starts a plugin, and ends the one before; `options` of the mps block."""
        if self._running is not None:
            self.end(self._running)
        self._running = self.start_another(**options)
        return self._running

    def start_another(self, **options: Any) -> MpsEnforcer:
        """Starts a plugin beside those that run."""
        return MpsEnforcer(MpsConfig(**{"root": str(self.node.root), **options}), self.modes)

    def end(self, enforcer: MpsEnforcer) -> None:
        """Ends a plugin, as far as it holds anything."""
        if enforcer._owner is not None:
            os.close(enforcer._owner)
            enforcer._owner = None

    def keep(self, vgpus: int = 4, **options: Any) -> Enforcement:
        """What a plugin that starts now brings into force on GPU-a."""
        return self.start(**options).keep(A, vgpus)


def weak(*, holds_memory: bool) -> Enforcement:
    """Gives what can be used and does not hold all."""
    return Enforcement(holds_memory=holds_memory)


def without_sentence(enforcement: Enforcement) -> Enforcement:
    """Gives the same without the words about its weakness, of which there must be some."""
    assert enforcement.weakness
    return enforcement._replace(weakness=NOTHING)
